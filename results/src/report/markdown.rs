//! A document as Markdown, to be pasted into an issue.
//!
//! Purpose: verdict, headline figures and tables; no charts.
//! Invariants: every text goes through pulldown-cmark-to-cmark as a text, which escapes it: no name or command can become markup.
//! Must not know: where figures come from.

use pulldown_cmark::{Alignment, CodeBlockKind, Event, HeadingLevel, Options, Tag, TagEnd};

use super::document::{Document, Table};
use super::html::verdict_word;
use crate::limit::Limit;

/// Renders it.
///
/// # Errors
/// When the events cannot be written, in the writer's words.
pub fn render(document: &Document) -> Result<String, String> {
    let mut page = Page::default();
    page.heading(
        HeadingLevel::H2,
        &format!("{}: {}", verdict_word(document.verdict), document.title),
    );
    page.paragraph(&document.sentence);
    page.paragraph(&document.subtitle.join(" · "));
    page.list("Why it fell short", document.reasons.iter().cloned());
    let limit = |l: &Limit| format!("{}: {} Next: {}", l.what.words(), l.evidence, l.next);
    page.list("What was the limit", document.limits.iter().map(limit));
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
        page.heading(HeadingLevel::H3, &table.title);
        page.table(table);
    }
    for (name, command) in &document.commands {
        page.heading(HeadingLevel::H3, name);
        page.code(command);
    }
    for table in &document.tables {
        page.heading(HeadingLevel::H3, &table.title);
        page.table(table);
    }
    page.list("Notes", document.notes.iter().cloned());
    let mut text = String::new();
    pulldown_cmark_to_cmark::cmark(page.events.iter(), &mut text, Options::ENABLE_TABLES)
        .map_err(|e| e.to_string())?;
    Ok(text + "\n")
}

#[derive(Default)]
struct Page<'a> {
    events: Vec<Event<'a>>,
}

impl Page<'_> {
    fn within(&mut self, tag: Tag<'static>, end: TagEnd, inside: impl FnOnce(&mut Self)) {
        self.events.push(Event::Start(tag));
        inside(self);
        self.events.push(Event::End(end));
    }

    fn text(&mut self, text: &str) {
        // A line break would end a table's row.
        let words: Vec<&str> = text.split_whitespace().collect();
        self.events.push(Event::Text(words.join(" ").into()));
    }

    fn heading(&mut self, level: HeadingLevel, text: &str) {
        let tag = Tag::Heading {
            level,
            id: None,
            classes: Vec::new(),
            attrs: Vec::new(),
        };
        self.within(tag, TagEnd::Heading(level), |page| page.text(text));
    }

    fn paragraph(&mut self, text: &str) {
        self.within(Tag::Paragraph, TagEnd::Paragraph, |page| page.text(text));
    }

    fn list(&mut self, title: &str, items: impl Iterator<Item = String>) {
        let items: Vec<String> = items.collect();
        if items.is_empty() {
            return;
        }
        self.heading(HeadingLevel::H3, title);
        self.within(Tag::List(None), TagEnd::List(false), |page| {
            for item in items {
                page.within(Tag::Item, TagEnd::Item, |page| page.text(&item));
            }
        });
    }

    fn code(&mut self, text: &str) {
        let tag = Tag::CodeBlock(CodeBlockKind::Fenced("sh".into()));
        self.within(tag, TagEnd::CodeBlock, |page| {
            page.text(text);
            // The fence ends on a line of its own.
            page.events.push(Event::Text("\n".into()));
        });
    }

    fn table(&mut self, table: &Table) {
        if table.rows.is_empty() {
            return;
        }
        let align = |column| {
            if column < table.word_columns {
                Alignment::Left
            } else {
                Alignment::Right
            }
        };
        let tag = Tag::Table((0..table.head.len()).map(align).collect());
        self.within(tag, TagEnd::Table, |page| {
            page.within(Tag::TableHead, TagEnd::TableHead, |page| {
                page.cells(&table.head)
            });
            for row in &table.rows {
                page.within(Tag::TableRow, TagEnd::TableRow, |page| page.cells(row));
            }
        });
    }

    fn cells(&mut self, texts: &[String]) {
        for text in texts {
            self.within(Tag::TableCell, TagEnd::TableCell, |page| page.text(text));
        }
    }
}
