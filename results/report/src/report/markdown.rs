//! Writes a document as Markdown, to be pasted into an issue.
//!
//! Purpose: verdict, headline figures and tables, without charts.
//! Invariants: every text outside a code block is escaped, so that no name or command becomes
//! markup; a line break in a text becomes a space, since it would end a table row.
//! Must not depend on: where figures come from.

use std::fmt::Write as _;

use super::document::{Document, Table};
use super::html::verdict_label;
use crate::bottleneck::Bottleneck;

/// Renders the document.
#[must_use]
pub fn render(document: &Document) -> String {
    let mut page = Page::default();
    page.heading(
        2,
        &format!("{}: {}", verdict_label(document.verdict), document.title),
    );
    page.paragraph(&document.sentence);
    page.paragraph(&document.subtitle.join(" · "));
    page.list("Why the run fell short", document.reasons.iter().cloned());
    let limit = |l: &Bottleneck| format!("{}: {} Next: {}", l.what.label(), l.evidence, l.next);
    page.list("Bottlenecks", document.limits.iter().map(limit));
    let tiles = document
        .tiles
        .iter()
        .map(|t| vec![t.label.clone(), t.value.clone(), t.note.clone()]);
    page.table(&Table::new(
        "",
        &["Headline", "Figure", ""],
        3,
        tiles.collect(),
    ));
    for table in &document.overview {
        page.heading(3, &table.title);
        page.table(table);
    }
    for (name, command) in &document.commands {
        page.heading(3, name);
        page.code(command);
    }
    for table in &document.tables {
        page.heading(3, &table.title);
        page.table(table);
    }
    page.list("Notes", document.notes.iter().cloned());
    page.0
}

/// The text so far: blocks, each followed by an empty line except the last.
#[derive(Default)]
struct Page(String);

impl Page {
    fn block(&mut self, block: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0 += block;
        self.0.push('\n');
    }

    fn heading(&mut self, level: usize, text: &str) {
        self.block(&format!("{} {}", "#".repeat(level), escaped(text)));
    }

    fn paragraph(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.block(&escaped(text));
        }
    }

    fn list(&mut self, title: &str, items: impl Iterator<Item = String>) {
        let items: Vec<String> = items.map(|item| format!("* {}", escaped(&item))).collect();
        if !items.is_empty() {
            self.heading(3, title);
            self.block(&items.join("\n"));
        }
    }

    /// A code block. Its fence is longer than any run of backticks in the text.
    fn code(&mut self, text: &str) {
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat((longest + 1).max(4));
        self.block(&format!("{fence}sh\n{}\n{fence}", one_line(text)));
    }

    /// A table: words are aligned left, figures right. Without rows nothing is written.
    fn table(&mut self, table: &Table) {
        if table.rows.is_empty() {
            return;
        }
        let line = |cells: &[String]| {
            cells.iter().fold("|".to_owned(), |mut line, cell| {
                let _ = write!(line, "{}|", escaped(cell));
                line
            })
        };
        let alignment = |column| match column < table.word_columns {
            true => ":--|",
            false => "--:|",
        };
        let rule: String = (0..table.head.len()).map(alignment).collect();
        let mut lines = vec![line(&table.head), format!("|{rule}")];
        lines.extend(table.rows.iter().map(|row| line(row)));
        self.block(&lines.join("\n"));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text in one line, with a backslash before each character that could be markup there.
fn escaped(text: &str) -> String {
    let text = one_line(text);
    // A line that begins with a number and a dot is a list.
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let mut out = String::with_capacity(text.len() + 8);
    for (at, c) in text.char_indices() {
        let is_markup = match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '~' | '&' => true,
            '#' | '+' | '-' | '=' => at == 0,
            '.' | ')' => at > 0 && at == digits && !text[at + 1..].starts_with(|c| c != ' '),
            _ => false,
        };
        if is_markup {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_texts_is_escaped() {
        for (text, expected) in [
            ("a|b", r"a\|b"),
            ("two\nlines\r\n", "two lines"),
            ("<b> & `x` [y](z)", r"\<b\> \& \`x\` \[y\](z)"),
            ("# no heading", r"\# no heading"),
            ("- no item", r"\- no item"),
            ("1. no item", r"1\. no item"),
            ("1.5 ms, 3 #4 - 5", "1.5 ms, 3 #4 - 5"),
            ("2)", r"2\)"),
            (r"a\", r"a\\"),
            ("", ""),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }

    #[test]
    fn table_has_one_line_per_row_and_aligns_figures_right() {
        let mut page = Page::default();
        page.table(&Table::new("", &["x"], 1, Vec::new()));
        assert_eq!(page.0, "", "no table without rows");
        let rows = vec![
            vec!["a|b\nc".into(), "1,000".into()],
            vec!["short row".into()],
        ];
        page.paragraph("before");
        page.table(&Table::new("", &["name", "n"], 1, rows));
        let expected = "before\n\n|name|n|\n|:--|--:|\n|a\\|b c|1,000|\n|short row||\n";
        assert_eq!(page.0, expected);
    }

    #[test]
    fn fence_is_longer_than_backticks_in_the_code() {
        let mut page = Page::default();
        page.code("echo `````");
        assert_eq!(page.0, "``````sh\necho `````\n``````\n");
    }
}
