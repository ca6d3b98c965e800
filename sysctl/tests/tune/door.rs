//! The command line: what is wrong usage, how numbers may be spelt, and readers that go away.

use super::common::*;

#[test]
fn wrong_usage() {
    for (args, expected) in [
        (
            &["check", "--connections", "0"][..],
            "'0' is no number of connections",
        ),
        (
            &["check", "--connections=-5"],
            "'-5' is no number of connections",
        ),
        (&["check", "--connections", "-5"], "-5"),
        (
            &["check", "-c", "1e12"],
            "'1e12' is no number of connections",
        ),
        (
            &["check", "-c", "1000000001"],
            "'1000000001' is no number of connections",
        ),
        (&["check", "-c", "0.4"], "'0.4' is no number of connections"),
        (&["check", "-c", "1.5"], "'1.5' is no number of connections"),
        (&["check", "-c", "inf"], "'inf' is no number of connections"),
        (&["check", "-c", "."], "'.' is no number of connections"),
        (&["plan", "-c", "abc"], "'abc' is no number of connections"),
        (&["apply", "-c", ""], "is no number of connections"),
        (
            &["plan", "--role", "bystander"],
            "server, client, both, host",
        ),
        (&["plan", "--targets", "0"], "--targets"),
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
    }
    let said = tune(&[&"check", &"-c", &"abc"]);
    assert!(
        said.err
            .contains("next: give 1 to 1000000000, or such as 64k, 2.4M"),
        "{}",
        said.err
    );
}

#[test]
fn numbers_as_people_write_them() {
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
fn readers_that_go_away() {
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
    // An error that nobody reads any more is still told by the exit code.
    let args = ["check", "--profile", "/nonexistent"];
    let said = run(bounded(TUNE).args(args).stderr(gone()));
    assert_eq!(said.code, 1);
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
        "no profile has 'net.core.somaxcon\\u{1b}[31m'; next: holdfast-tune explain lists what they have"
    );
}

#[test]
fn lines_can_be_searched() {
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
