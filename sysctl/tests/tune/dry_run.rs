//! `--dry-run` changes nothing and leaves nothing behind; `--json` has the content of the tables.

use std::fs;

use serde_json::{Value, json};

use super::common::*;

const PROFILE: &str = "\
#: why queues overflow\n#: rule at-least\nnet.core.somaxconn = 5000
#: why it lingers\nnet.ipv4.tcp_fin_timeout = 60
#: why gone\n#: until 4.12\nnet.ipv4.tcp_tw_recycle = 0
#: why files\nfs.file-max = 12345678
";

#[test]
#[ignore = "needs namespaces: make test"]
fn dry_runs() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, PROFILE);
        let before = snapshot();
        for more in [
            &[][..],
            &["--json"],
            &["--persist"],
            &["--persist", "--json"],
            &["--yes"],
            &["--exact"],
        ] {
            let said = run(bounded(TUNE)
                .args(["apply", "--dry-run", "--profile"])
                .arg(&profile)
                .arg("--state")
                .arg(&state)
                .args(more));
            assert!(
                said.out.contains("net.core.somaxconn"),
                "{more:?}: {said:#?}"
            );
            // One of the settings cannot be had, and a dry run says so as the real one would.
            assert_eq!(
                (said.code, said.err.as_str()),
                (1, ""),
                "{more:?}: {said:#?}"
            );
        }
        assert_as_before(&before);
        assert_eq!(names(folder.path()), ["mine.conf"]);
        assert!(names("/etc".as_ref()).is_empty() && names("/run".as_ref()).is_empty());

        tune(&[
            &"apply",
            &"--profile",
            &profile,
            &"--state",
            &state,
            &"--persist",
        ]);
        let applied = snapshot();
        let saved = fs::read(&state).unwrap();
        for more in [
            &[][..],
            &["--json"],
            &["--persist"],
            &["--persist", "--json"],
        ] {
            let said = run(bounded(TUNE)
                .args(["restore", "--dry-run", "--state"])
                .arg(&state)
                .args(more));
            assert_eq!(
                (said.code, said.err.as_str()),
                (0, ""),
                "{more:?}: {said:#?}"
            );
            assert!(
                said.out.contains("net.core.somaxconn"),
                "{more:?}: {said:#?}"
            );
        }
        let dry = tune(&[&"restore", &"--dry-run", &"--persist", &"--state", &state]);
        assert_eq!(
            dry.row("net.core.somaxconn")[1..],
            ["5000", "4096", "would be set"]
        );
        assert!(
            dry.out
                .contains("/etc/sysctl.d/90-holdfast.conf: would be removed"),
            "{}",
            dry.out
        );
        assert_as_before(&applied);
        assert_eq!(fs::read(&state).unwrap(), saved);
        assert_eq!(names("/etc/sysctl.d".as_ref()), ["90-holdfast.conf"]);
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_as_before(&before);
    });
}

/// The rows of a plan in JSON as the table has them.
fn shown(rows: &Value) -> Vec<(String, String, String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| {
        let wanted = if row["write"].is_null() {
            &row["wanted"]
        } else {
            &row["write"]
        };
        let verdict = text(&row["verdict"])
            .replace("stops", "STOPS")
            .replace("by-hand", "by hand");
        (
            text(&row["key"]),
            text(&row["now"]),
            text(wanted),
            verdict,
            text(&row["why"]),
        )
    })
    .collect()
}

fn assert_same(table: &Said, rows: &Value) {
    let rows = shown(rows);
    assert!(!rows.is_empty());
    for (key, now, wanted, verdict, why) in rows {
        let now = if now.is_empty() {
            "(empty)".to_owned()
        } else {
            now
        };
        // A reason may be missing in a profile of one's own.
        let said = [key.clone(), now, wanted, verdict, why];
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        assert_eq!(
            table.row(&key).join("|"),
            said.join("|").trim_end_matches('|')
        );
    }
}

#[test]
#[ignore = "needs namespaces: make test"]
fn json_of_each_verb() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, PROFILE);
        let check = tune(&[&"check", &"--profile", &profile]);
        let document = tune(&[&"check", &"--profile", &profile, &"--json"]);
        assert_eq!(document.code, check.code);
        let document = document.json();
        assert_eq!(document["schema"], "holdfast-tune/1");
        assert_same(&check, &document["plan"]["rows"]);
        let verdicts: Vec<&Value> = document["plan"]["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["verdict"])
            .collect();
        assert_eq!(verdicts, ["change", "ok", "absent", "locked"]);

        // The built-in profiles as well, with all there is in them.
        let built_in = tune(&[&"check", &"--role", &"both"]);
        assert_same(
            &built_in,
            &tune(&[&"check", &"--role", &"both", &"--json"]).json()["plan"]["rows"],
        );

        let plan = tune(&[&"plan", &"--role", &"client", &"--json"]).json();
        assert_eq!(plan["plan"]["asked"]["connections"], 1_000_000);
        // 1,000,000 / 64,511 = 15.5
        assert_eq!(plan["plan"]["sources"]["needed"], 16);
        let text = tune(&[&"plan", &"--role", &"client"]).out;
        assert!(
            text.contains("16 addresses of 64,511 connections each"),
            "{text}"
        );

        let apply = tune(&[
            &"apply",
            &"--profile",
            &profile,
            &"--state",
            &state,
            &"--json",
        ]);
        assert_eq!(apply.code, 1, "{apply:#?}");
        let document = apply.json();
        assert_eq!(document["before"]["rows"][0]["now"], "4096");
        assert_eq!(document["after"]["rows"][0]["now"], "5000");
        assert_eq!(document["dry_run"], false);
        assert_eq!(
            document["outcome"]["changes"],
            json!([{"key": "net.core.somaxconn", "before": "4096", "wanted": "5000", "after": "5000", "error": null, "note": null}])
        );

        let restore = tune(&[&"restore", &"--state", &state, &"--json"]);
        assert_eq!(restore.code, 0);
        let document = restore.json();
        assert_eq!(document["outcome"]["changes"][0]["after"], "4096");
        assert_eq!(document["files"], json!([]));
        // Nothing to put back is said in JSON too.
        let document = tune(&[&"restore", &"--state", &state, &"--json"]).json();
        assert!(
            document["outcome"]["note"]
                .as_str()
                .unwrap()
                .contains("nothing to restore")
        );
    });
}
