//! The life of tests under the web page: start, edit up and down, stop, start again, reset.

use std::time::Duration;

use holdfast_telemetry::wire::HttpServerReport;
use nix::sys::signal::Signal;

use crate::common::{Server, ServerOf, count, until};
use crate::master::{Master, entry};
use crate::{http, longconn, worker};

#[test]
#[ignore = "needs Locust: make test"]
fn tests_start_again_after_edit_and_stop() {
    let server = Server::start(&["--every", "500ms"]);
    let mut master = Master::start("life", &["--host", &server.address.to_string(), "LongConn"]);
    let worker = worker(&master.address(), &["--workers", "4"]);
    worker.until("known", |r| r.workers_known == 4);

    master.swarm("user_count=90&spawn_rate=90&longconn_every=30s");
    server.until_open(90);
    master.until_users(90);
    master.swarm("user_count=150&spawn_rate=60");
    server.until_open(150);
    master.swarm("user_count=35&spawn_rate=115");
    server.until_open(35);
    master.until_users(35);
    assert_eq!(server.running.fresh().accepted, 150, "nobody was restarted");
    let stats = master.until("figures of all", |stats| {
        entry(stats, "recv")["num_requests"].as_u64() > Some(200)
            && entry(stats, "connect")["num_requests"] == 150
    });
    assert_eq!(
        (&stats["errors"], stats["workers"].as_array().map(Vec::len)),
        (&serde_json::json!([]), Some(4))
    );

    master.post("/stats/reset");
    master.until("none of the figures before", |stats| {
        entry(stats, "connect")["num_requests"].as_u64() == Some(0)
            && entry(stats, "recv")["num_requests"].as_u64() > Some(0)
    });

    master.post("/stop");
    master.until("stopped", |stats| stats["state"] == "stopped");
    server.until_open(0);
    let first = server.running.fresh();

    // Another test, with other arguments: what is expected never comes, and that is said.
    worker.until("known again", |r| r.workers_known == 4);
    master.swarm("user_count=20&spawn_rate=20&longconn_every=30s&longconn_expect=nothing");
    server.until_open(20);
    master.until("failures", |stats| {
        let errors = stats["errors"].as_array().expect("a list");
        errors
            .iter()
            .any(|e| e["error"] == "wrong message" && e["occurrences"].as_u64() > Some(20))
    });
    master.signal(Signal::SIGTERM);
    master.end();
    let outcome = worker.outcome();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    master.assert_unhurt();
    let own = longconn(&outcome, 0);
    assert_eq!(
        (
            own.opened,
            count(&own.ended, "stopped"),
            count(&own.ended, "held")
        ),
        (150, 115, 35)
    );
    assert_eq!(
        (own.messages_received, own.messages_missed),
        (first.messages_sent, 0)
    );
    let own = longconn(&outcome, 1);
    assert_eq!(
        (
            own.opened,
            own.messages_received,
            count(&own.ended, "wrong_data")
        ),
        (20, 0, 20)
    );
}

#[test]
#[ignore = "needs Locust: make test"]
fn picked_classes_have_their_own_hosts() {
    let longconns = Server::start(&["--every", "1s"]);
    let web = ServerOf::<HttpServerReport>::start(&[]);
    let host = format!("tcp://{}", longconns.address);
    let master = Master::start(
        "classes",
        &["--host", &host, "--class-picker", "--stop-timeout", "5"],
    );
    let worker = worker(&master.address(), &[]);
    worker.until("known", |r| r.workers_known == 1);
    let set = format!(
        "{{\"user_class_name\": \"Http\", \"host\": \"http://{}\"}}",
        web.address
    );
    master.post_json("/user", &set);
    master.swarm(
        "user_count=60&spawn_rate=60&http_wait=50ms..100ms&user_classes=LongConn&user_classes=Http",
    );
    longconns.until_open(30);
    web.until_open(30);
    master.until("requests", |stats| {
        entry(stats, "/")["num_requests"].as_u64() > Some(100)
    });
    master.post("/stop");
    web.until_open(0);
    longconns.until_open(0);

    master.until("stopped", |stats| stats["state"] == "stopped");
    worker.until("known again", |r| r.workers_known == 1);
    master.swarm("user_count=10&spawn_rate=10&http_wait=1s&user_classes=Http");
    web.until_open(10);
    assert_eq!(longconns.running.fresh().open_now, 0);
    let outcome = worker.stop();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    master.assert_unhurt();
    assert_eq!(longconn(&outcome, 0).opened, 30);
    let runs = [http(&outcome, 0), http(&outcome, 1)];
    let ok: u64 = runs.iter().map(|run| count(&run.outcomes, "ok")).sum();
    let answered = count(&web.running.stop().last().responses, "200");
    assert_eq!(runs.map(|run| run.opened), [30, 10]);
    assert!(ok <= answered && answered <= ok + 40, "{ok} of {answered}");
}

#[test]
#[ignore = "needs Locust: make test"]
fn heartbeats_keep_time_while_users_are_busy() {
    let server = ServerOf::<HttpServerReport>::start(&[]);
    let master = Master::start(
        "busy",
        &["--host", &format!("http://{}", server.address), "Http"],
    );
    let worker = worker(&master.address(), &[]);
    worker.until("known", |r| r.workers_known == 1);
    // Without a wait, users keep every core busy.
    master.swarm("user_count=500&spawn_rate=500&http_wait=0");
    web_stays(&master, Duration::from_secs(8));
    let stats = master.stats();
    assert_eq!(entry(&stats, "/")["num_failures"], 0);
    worker.stop();
}

/// The master never misses the worker.
fn web_stays(master: &Master, time: Duration) {
    let since = std::time::Instant::now();
    until("the time is over", || {
        let stats = master.stats();
        let states = stats["workers"].as_array().expect("workers");
        assert!(states.iter().all(|w| w["state"] != "missing"), "{stats}");
        since.elapsed() > time
    });
    assert!(
        !master.log().contains("failed to send heartbeat"),
        "{}",
        master.log()
    );
}
