//! The command line: usage errors, the grammar of numbers, exit codes, and readers that close the
//! pipe early.

use super::common::*;

#[test]
fn usage_errors() {
    for (args, expected) in [
        (
            &["check", "--connections", "0"][..],
            "0 is out of range; next: give a count from 1 to 1,000,000,000",
        ),
        (&["check", "--connections=-5"], "'-5' is not a count"),
        (&["check", "--connections", "-5"], "-5"),
        (&["check", "-c", "1e12"], "'1e12' is not a count"),
        (&["check", "-c", "1000000001"], "1000000001 is out of range"),
        (&["check", "-c", "0.4"], "'0.4' is not a count"),
        (&["check", "-c", "1.5"], "'1.5' is not a count"),
        (&["check", "-c", "inf"], "'inf' is not a count"),
        (&["check", "-c", "."], "'.' is not a count"),
        (&["plan", "-c", "abc"], "'abc' is not a count"),
        (&["apply", "-c", ""], "is not a count"),
        (
            &["plan", "--role", "bystander"],
            "server, client, both, host",
        ),
        (&["plan", "--targets", "0"], "--targets"),
        (
            &["plan", "--target", "127.0.0.1:80", "--targets", "2"],
            "cannot be used with",
        ),
        (&["tune"], "tune"),
        (&["check", "--dry-run"], "--dry-run"),
        (&[], "Usage: holdfast-tune"),
    ] {
        let said = run(bounded(TUNE).args(args));
        assert_eq!(
            (said.code, said.out.as_str()),
            (2, ""),
            "{args:?}: {said:#?}"
        );
        assert!(said.err.contains(expected), "{args:?}: {}", said.err);
        if !args.is_empty() {
            assert_eq!(said.err.lines().count(), 1, "{args:?}: {}", said.err);
            assert!(
                said.err.starts_with("error: ") && said.err.contains("; next: "),
                "{args:?}: {}",
                said.err
            );
        }
    }
    let said = tune(&[&"check", &"-c", &"abc"]);
    assert!(
        said.err
            .contains("next: give one from 1 to 1,000,000,000, such as 500 or 10k or 2.4M"),
        "{}",
        said.err
    );
}

#[test]
fn counts() {
    for (text, connections) in [
        ("1", 1),
        ("64k", 64_000),
        ("64K", 64_000),
        ("64_511", 64_511),
        ("64,511", 64_511),
        ("2.4M", 2_400_000),
        ("2m", 2_000_000),
        ("0.5k", 500),
        ("1000000000", 1_000_000_000),
    ] {
        let plan = tune(&[&"plan", &"--role", &"host", &"--json", &"-c", &text]);
        assert_eq!(
            plan.json()["plan"]["asked"]["connections"],
            connections,
            "{text}"
        );
    }
}

#[test]
fn readers_that_close_the_pipe() {
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for args in [
        "check",
        "plan",
        "plan --json",
        "plan --max",
        "explain",
        "explain --markdown",
        "apply --dry-run",
        "machine",
    ] {
        let words = args.split(' ');
        let said = run(bounded(TUNE).args(words).stdout(gone()));
        assert!(said.code <= 1 && said.err.is_empty(), "{args}: {said:#?}");
        let script = "{ \"$0\" $1; test $? -le 1 || echo \"ended with $?\" >&2; } | head -1";
        let said = run(bounded("sh").args(["-c", script, TUNE, args]));
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{args}");
        assert_eq!(said.out.lines().count(), 1, "{args}: {said:#?}");
    }
    // An error that nobody reads still sets the exit code.
    for args in [&["check", "--profile", "/nonexistent"][..], &["chekc"]] {
        let said = run(bounded(TUNE).args(args).stderr(gone()));
        assert_eq!(said.code, 2);
    }
}

#[test]
fn explanations() {
    let listed = tune(&[&"explain"]).out;
    let keys: Vec<&str> = listed.lines().collect();
    assert!(keys.contains(&"net.core.somaxconn"), "{listed}");
    for key in keys {
        let said = tune(&[&"explain", &key]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{key}");
        assert!(said.out.starts_with(key), "{key}: {}", said.out);
    }
    let unknown = tune(&[&"explain", &"net.core.somaxcon\x1b[31m"]);
    assert_eq!(
        unknown.error(),
        "no profile has 'net.core.somaxcon\\u{1b}[31m'; next: holdfast-tune explain (lists the settings)"
    );
}

#[test]
#[ignore = "needs namespaces: make test"]
fn output_to_a_pipe_is_plain() {
    within(|| {
        // On a pipe: one line a setting, no colours.
        let said = tune(&[&"check", &"--role", &"both"]);
        assert!(!said.out.contains('\x1b'), "{}", said.out);
        let document = tune(&[&"check", &"--role", &"both", &"--json"]).json();
        let rows = document["plan"]["rows"].as_array().unwrap();
        for row in rows {
            assert_eq!(
                said.row(row["key"].as_str().unwrap())[3..4],
                [match row["verdict"].as_str().unwrap() {
                    "stops" => "STOPS",
                    "by-hand" => "by hand",
                    other => other,
                }]
            );
        }
        assert_eq!(
            said.out.lines().take_while(|line| !line.is_empty()).count(),
            rows.len() + 1
        );
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn exit_codes_are_those_of_the_help() {
    let help = tune(&[&"--help"]).out;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = "Exit codes: 0 success; 1 fell short: the connections cannot be held (plan: not even after apply; check: not now), \
                    or a setting could not be set (apply, restore); 2 usage or set-up error.";
    assert!(help.contains(expected), "{help}");
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, "net.core.missing = 1\n");
        let garbage = file(&folder, "garbage", "garbage");
        let cases: &[(&[&dyn AsRef<std::ffi::OsStr>], i32)] = &[
            (&[&"plan", &"-r", &"host"], 0),
            (&[&"check", &"-r", &"host"], 0),
            (&[&"plan", &"-c", &"1G"], 1),
            (&[&"check", &"-c", &"1G"], 1),
            (&[&"apply", &"--profile", &profile, &"--state", &state], 1),
            (&[&"restore", &"--state", &state], 0),
            (&[&"restore", &"--state", &garbage], 2),
            (&[&"check", &"--profile", &garbage], 2),
            (&[&"plan", &"--machine", &garbage], 2),
            (
                &[
                    &"plan",
                    &"-r",
                    &"client",
                    &"--target",
                    &"nowhere.invalid:80",
                ],
                2,
            ),
            (&[&"explain", &"net.core.missing"], 2),
            (&[&"plan", &"--no-such-flag"], 2),
        ];
        for (args, code) in cases {
            let said = tune(args);
            assert_eq!(said.code, *code, "{said:#?}");
            assert_eq!(said.err.is_empty(), *code < 2, "{said:#?}");
        }
    });
}

/// The words of a shell command, as a shell splits them.
fn shell_words(command: &str) -> Vec<String> {
    let script = format!("for word in {command}; do printf '%s\\n' \"$word\"; done");
    let said = run(bounded("sh").args(["-euc", &script]));
    assert_eq!(said.code, 0, "{command}: {said:#?}");
    said.out.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs namespaces: make test"]
fn next_commands_work_when_typed() {
    within(|| {
        let folder = folder();
        let profile = file(&folder, "it's mine.conf", "net.core.somaxconn = 5000\n");
        let profile = profile.to_str().unwrap();
        let garbage = file(&folder, "some garbage", "garbage");
        let garbage = garbage.to_str().unwrap();
        let mut typed = 0;
        for args in [
            &["check", "-c", "2M"][..],
            &["check", "-r", "server", "--exact"],
            &["check", "-r", "client", "--targets", "3"],
            &["plan", "-r", "host"],
            &["plan", "--profile", profile],
            &["apply", "--dry-run", "--profile", profile],
            &["explain", "net.core.missing"],
            &["chekc"],
            &["check", "--no-such-flag"],
        ] {
            let said = run(bounded(TUNE).args(args));
            let lines = said.out.lines().chain(said.err.lines());
            let commands = lines.filter_map(|line| line.split_once("; next: holdfast-tune "));
            for (_, command) in commands {
                let words = shell_words(command.split(" (").next().unwrap());
                let mut next = bounded(TUNE);
                next.args(&words);
                if words[0] == "apply" {
                    next.arg("--dry-run");
                }
                let next = run(&mut next);
                assert!(next.code < 2, "{args:?}: {words:?}: {next:#?}");
                typed += 1;
            }
        }
        assert!(typed >= 8, "{typed} commands");
        // A command that moves a damaged state aside, with white space in its name.
        let said = tune(&[&"restore", &"--state", &garbage]);
        let (_, next) = said.error().split_once("; next: ").unwrap();
        let command = next.split("; ").next().unwrap();
        let moved = run(bounded("sh").args(["-euc", command]));
        assert_eq!(moved.code, 0, "{command}: {moved:#?}");
        assert_eq!(tune(&[&"restore", &"--state", &garbage]).code, 0);
    });
}

#[test]
fn refused_io_uring_stops_the_plan() {
    // A kernel that refuses a ring, for want of locked memory; seccomp does it likewise.
    let drop_privileges = match nix::unistd::geteuid().is_root() {
        true => "setpriv --bounding-set=-all --inh-caps=-all",
        false => "",
    };
    let script = format!("ulimit -l 4; exec {drop_privileges} \"$0\" \"$@\"");
    let args = ["-euc", &script, TUNE, "check", "-r", "server", "-c", "1"];
    let said = run(bounded("sh").args(args));
    assert_eq!(said.code, 1, "{said:#?}");
    assert!(said.out.contains("STOPS: "), "{said:#?}");
    let json = run(bounded("sh").args(args).arg("--json")).json();
    let limits = json["plan"]["limits"].as_array().unwrap();
    for name in ["io_uring", "locked memory"] {
        let limit = limits.iter().find(|limit| limit["name"] == name);
        assert_eq!(limit.unwrap()["now"], 0, "{name}: {json:#}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    for args in [
        &["plan"][..],
        &["plan", "--json"],
        &["check"],
        &["apply", "--dry-run"],
        &["explain"],
        &["machine"],
        &["completions", "bash"],
        &["--help"],
        &["plan", "--help"],
        &["--version"],
    ] {
        let to = |path: &str| {
            let file = std::fs::File::options().write(true).open(path);
            let mut command = bounded(TUNE);
            command.args(args).stdout(file.expect(path));
            command.output().expect("it runs")
        };
        let (full, null) = (to("/dev/full"), to("/dev/null"));
        let errors = String::from_utf8_lossy(&full.stderr).into_owned();
        assert_eq!(full.status.code(), Some(2), "{args:?}: {errors}");
        assert!(
            errors.contains("error: cannot write to standard output (No space left")
                && errors.contains("; next: free space"),
            "{args:?}: {errors}"
        );
        // Closed: nobody wants it, so the result is what counts.
        let mut closed = bounded("sh");
        closed
            .args(["-c", r#"exec "$@" >&-"#, "sh", TUNE])
            .args(args);
        let closed = closed.output().expect("it runs");
        assert_eq!(
            closed.status.code(),
            null.status.code(),
            "{args:?}: {closed:?}"
        );
        assert!(!String::from_utf8_lossy(&closed.stderr).contains("panicked"));
    }
}
