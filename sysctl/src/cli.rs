//! Parsing a command line, with usage errors in the form that every error of these programs has.
//!
//! Invariants: a usage error is one line on stderr, `error: CAUSE; next: COMMAND`, and exit code 2. Help and version go to stdout.
//! Must not depend on: any particular program.

use std::io::Write;
use std::process::exit;

use clap::Parser;
use clap::error::ErrorKind;

/// Parses this process's command line; exits after help, version or a usage error.
pub fn parse<P: Parser>() -> P {
    P::try_parse().unwrap_or_else(|error| {
        let is_text = matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        if is_text {
            error.exit();
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

#[cfg(test)]
mod tests {
    use clap::{Args, CommandFactory, Subcommand};

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
        #[arg(long, value_parser = holdfast_units::parse::count_in(1..=9))]
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
            "invalid value 'x' for '--count <COUNT>': 'x' is not a count; next: give a whole number such as 500, 10k or 2.4M"
        );
    }
}
