//! The master's web page in a real browser.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Server, count};
use crate::master::Master;
use crate::{longconn, python, worker};

#[test]
#[ignore = "needs Locust and Chromium: make test"]
fn browser_starts_edits_and_stops_ten_thousand_users() {
    let server = Server::start(&["--connections", "20000", "--every", "1s"]);
    let master = Master::start("page", &["--host", &server.address.to_string(), "LongConn"]);
    let worker = worker(&master.address(), &[]);
    worker.until("known", |r| r.workers_known == 1);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/locust/page.py");
    let person = Command::new(python("python3"))
        .args([script, &master.url(), "10000", "4000"])
        .stderr(Stdio::inherit())
        .output()
        .expect("Python runs");
    let said = String::from_utf8(person.stdout).expect("text");
    let outcome = worker.stop();
    let errors = &outcome.errors;
    assert!(person.status.success(), "{said} {errors} {}", master.log());
    let said: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let served = server.running.stop().last();
    let own = longconn(&outcome, 0);

    let [statistics, charts, workers, downloads] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!(
        (
            &statistics["status"],
            &statistics["users"],
            &statistics["failures"]
        ),
        (&"RUNNING".into(), &"10000".into(), &"0%".into())
    );
    let row = |name| {
        statistics["table"]
            .as_array()
            .expect("rows")
            .iter()
            .find(move |row| row["Name"] == name)
            .expect("a row")
    };
    assert_eq!(
        (&row("connect")["# Requests"], &row("connect")["# Fails"]),
        (&"10000".into(), &"0".into())
    );
    assert_eq!(row("recv")["# Fails"], "0");
    assert!(charts["charts"].as_u64() >= Some(2), "{charts}");
    let worker = &workers["workers"][0];
    assert!(
        worker.to_string().contains("running") && worker.to_string().contains("10000"),
        "{worker}"
    );
    assert!(downloads["report"].as_u64() > Some(100_000), "{downloads}");
    // What the page lets people take home is what the server counted.
    let csv = downloads["csv"].as_str().expect("text");
    let cells = |name: &str| {
        csv.lines()
            .map(|line| line.split(',').collect::<Vec<_>>())
            .find(|cells| cells.get(1) == Some(&name))
    };
    let figure = |name| {
        cells(name).expect("a row")[2]
            .parse::<u64>()
            .expect("a number")
    };
    assert_eq!(
        (figure("connect"), figure("recv")),
        (10_000, served.messages_sent),
        "{csv}"
    );
    assert_eq!(
        (served.accepted, served.open_max, own.messages_received),
        (10_000, 10_000, served.messages_sent)
    );
    assert_eq!(
        (count(&own.ended, "stopped"), count(&own.ended, "held")),
        (6_000, 4_000),
        "{own:?}"
    );
    master.assert_unhurt();
}
