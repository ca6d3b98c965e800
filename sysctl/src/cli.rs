//! Parsing a command line, with usage errors in the form that every error of these programs has.
//!
//! Invariants: a usage error is one line on stderr, `error: CAUSE; next: COMMAND`, and exit code 2.
//! Help and version go to stdout.
//! Must not depend on: any particular program.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;

use clap::error::ErrorKind;
use clap::{ArgMatches, Parser};

/// The options of this process's subcommand, defaults included: values by the name of the flag.
static OPTIONS: OnceLock<BTreeMap<String, Vec<String>>> = OnceLock::new();

/// The options of this process's subcommand, defaults included: values by the name of the flag.
/// Empty before [`parse`].
#[must_use]
pub fn options() -> BTreeMap<String, Vec<String>> {
    OPTIONS.get().cloned().unwrap_or_default()
}

fn options_of(matches: &ArgMatches) -> BTreeMap<String, Vec<String>> {
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let values = |id: &clap::Id| {
        // Ids of argument groups have no values of their own.
        let values = matches.try_get_raw(id.as_str()).ok()??;
        let values = values.map(|value| value.to_string_lossy().into_owned());
        Some((id.as_str().replace('_', "-"), values.collect()))
    };
    let is_argument = |id: &&clap::Id| !id.as_str().contains(char::is_uppercase);
    matches
        .ids()
        .filter(is_argument)
        .filter_map(values)
        .collect()
}

/// Parses this process's command line; exits after help, version or a usage error.
pub fn parse<P: Parser>() -> P {
    let parsed = P::command().try_get_matches().and_then(|matches| {
        let _ = OPTIONS.set(options_of(&matches));
        P::from_arg_matches(&matches)
    });
    parsed.unwrap_or_else(|error| {
        let is_text = matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        if is_text {
            let written = error.print().and_then(|()| std::io::stdout().flush());
            if let Err(text) = accept_closed_reader(written) {
                // Stderr may be closed: the exit code remains.
                let _ = writeln!(std::io::stderr(), "error: {text}");
                exit(2);
            }
            exit(error.exit_code());
        }
        // Stderr may be closed: the exit code remains.
        let _ = writeln!(
            std::io::stderr(),
            "error: {}",
            usage_error(&error, &P::command(), std::env::args().nth(1))
        );
        exit(2)
    })
}

/// Writes all of `text` to standard output.
///
/// # Errors
/// In one line with the next step: it cannot be written, for instance to a full disk. A reader that
/// has closed its end has seen enough.
pub fn print(text: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout();
    accept_closed_reader(out.write_all(text).and_then(|()| out.flush()))
}

fn accept_closed_reader(written: std::io::Result<()>) -> Result<(), String> {
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!(
            "cannot write to standard output ({error}); next: free space, or redirect it to another file"
        )),
        _ => Ok(()),
    }
}

/// One line: the first paragraph of clap's message, and the help that explains it.
fn usage_error(error: &clap::Error, command: &clap::Command, subcommand: Option<String>) -> String {
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let paragraph = paragraph.trim_start_matches("error: ");
    let lines: Vec<&str> = paragraph.split_whitespace().collect();
    let cause = lines.join(" ");
    if cause.contains("; next: ") {
        return cause;
    }
    let name = command.get_name();
    match subcommand.filter(|sub| command.find_subcommand(sub).is_some()) {
        Some(subcommand) => format!("{cause}; next: {name} {subcommand} --help"),
        None => format!("{cause}; next: {name} --help"),
    }
}

/// A file name as one word of a shell command.
pub fn shell_word(file: &Path) -> String {
    let text = file.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, CommandFactory, FromArgMatches, Subcommand};

    use super::*;

    #[derive(Parser)]
    #[command(name = "prog")]
    struct Cli {
        #[command(subcommand)]
        _command: Command,
    }

    #[derive(Subcommand)]
    enum Command {
        Run(Run),
    }

    #[derive(Args)]
    struct Run {
        #[arg(long, value_parser = holdfast_units::parse::count_in::<u64>(1..=9))]
        _count: u64,
    }

    fn error(args: &[&str]) -> String {
        let all = std::iter::once("prog").chain(args.iter().copied());
        let error = Cli::try_parse_from(all).err().unwrap();
        usage_error(
            &error,
            &Cli::command(),
            args.first().map(ToString::to_string),
        )
    }

    #[derive(Parser)]
    struct Options {
        #[arg(long, default_value = "1s")]
        run_time: String,
        #[arg(long)]
        target: Vec<String>,
        #[arg(long)]
        quiet: bool,
        #[arg(long)]
        json: Option<String>,
    }

    #[test]
    fn options_in_force_are_those_given_and_defaults() {
        let words = ["prog", "--target", "a", "--target", "b"];
        let matches = Options::command().get_matches_from(words);
        let parsed = Options::from_arg_matches(&matches).unwrap();
        assert!(parsed.json.is_none() && !parsed.quiet && parsed.target.len() == 2);
        let expected = [
            ("quiet", vec!["false"]),
            ("run-time", vec![parsed.run_time.as_str()]),
            ("target", vec!["a", "b"]),
        ];
        let options = options_of(&matches);
        let options: Vec<_> = options
            .iter()
            .map(|(name, values)| (name.as_str(), values.iter().map(String::as_str).collect()))
            .collect::<Vec<(&str, Vec<&str>)>>();
        assert_eq!(options, expected);
    }

    #[test]
    fn file_names_are_one_word() {
        let word = |name: &str| shell_word(Path::new(name));
        assert_eq!(
            word("/etc/sysctl.d/99-mine.conf"),
            "/etc/sysctl.d/99-mine.conf"
        );
        assert_eq!(word("my file"), "'my file'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word("$(x)"), "'$(x)'");
    }

    #[test]
    fn usage_errors_are_one_line_with_a_next_step() {
        assert_eq!(
            error(&["run", "--cuont", "1"]),
            "unexpected argument '--cuont' found; next: prog run --help"
        );
        assert_eq!(
            error(&["rnu"]),
            "unrecognized subcommand 'rnu'; next: prog --help"
        );
        assert_eq!(
            error(&["run"]),
            "the following required arguments were not provided: --count <COUNT>; next: prog run --help"
        );
        assert_eq!(
            error(&["run", "--count", "x"]),
            "invalid value 'x' for '--count <COUNT>': 'x' is not a count; next: give one from 1 to 9, such as 1"
        );
    }
}
