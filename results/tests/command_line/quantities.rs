//! One grammar of counts, rates, sizes, times and percentages for every flag of every program.

use crate::{PROGRAMS, errors, help, run, subcommands};

/// What the help shows for a value, and how the error calls what is none.
const QUANTITIES: [(&str, &[&str]); 5] = [
    ("COUNT", &["is not a count"]),
    ("BYTES", &["is not a size"]),
    ("TIME", &["is not a time", "not a wait"]),
    ("RATE", &["is not a rate", "not a rate", "is not a count"]),
    ("PERCENT", &["is not a percentage"]),
];

#[test]
fn every_quantity_is_read_by_the_same_grammar() {
    let mut flag_count = 0;
    for program in PROGRAMS {
        for subcommand in subcommands(&help(&[program])) {
            if subcommand == "help" {
                continue;
            }
            let text = help(&[program, &subcommand]);
            for (flag, value) in text.lines().filter_map(flag_and_value) {
                let named = QUANTITIES.iter().find(|(name, _)| *name == value);
                let Some((_, causes)) = named else { continue };
                flag_count += 1;
                let said = errors(&run(&[program, &subcommand, flag, "1zz"]));
                let is_named = causes.iter().any(|cause| said.contains(cause));
                assert!(
                    is_named && said.contains("; next: ") && said.lines().count() == 1,
                    "{program} {subcommand} {flag} 1zz: {said}"
                );
            }
        }
    }
    assert!(flag_count > 60, "only {flag_count} flags were found");
}

/// `--flag` and `VALUE` of a line such as `  -u, --flag <VALUE>`.
fn flag_and_value(line: &str) -> Option<(&str, &str)> {
    let flag = line.trim_start();
    let flag = &flag[flag.find("--")?..];
    let (flag, rest) = flag.split_once(" <")?;
    let is_option = line.trim_start().starts_with('-') && !flag.contains(' ');
    is_option.then_some((flag, rest.split_once('>')?.0))
}
