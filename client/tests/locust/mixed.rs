//! Workers of ours beside one of Locust's own.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::common::{Folder, Server, own_address};
use crate::master::{Master, entry};
use crate::{longconn, python, worker};

const LOCUSTFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/locust/mixed.py");

#[test]
#[ignore = "needs Locust: make test"]
fn two_workers_share_the_users_with_a_python_worker() {
    let server = Server::start(&["--every", "500ms"]);
    let args = [
        "--host",
        &server.address.to_string(),
        "--longconn-every",
        "30s",
    ];
    let mut master = Master::on(own_address(), LOCUSTFILE, Folder::new("mixed"), &args);
    let ours: Vec<_> = (0..2).map(|_| worker(&master.address(), &[])).collect();
    let mut other = Command::new(python("locust"))
        .args([
            "--worker",
            "-f",
            LOCUSTFILE,
            "--master-host",
            &master.ip.to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("locust runs");
    master.until("three workers", |stats| {
        stats["workers"].as_array().is_some_and(|w| w.len() == 3)
    });
    master.swarm("user_count=30&spawn_rate=30&longconn_every=30s");
    server.until_open(30);
    let stats = master.until("figures of all", |stats| {
        entry(stats, "connect")["num_requests"] == 30
    });
    let share = |worker: &serde_json::Value| worker["user_count"].as_u64();
    let shares: Vec<_> = stats["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .map(share)
        .collect();
    assert_eq!(shares, [Some(10); 3], "{stats}");
    master.swarm("user_count=12&spawn_rate=18");
    server.until_open(12);
    assert_eq!(server.running.fresh().accepted, 30, "nobody was restarted");
    master.signal(Signal::SIGTERM);
    master.end();
    assert!(other.wait().expect("our child").code().is_some());
    let opened: Vec<u64> = ours
        .into_iter()
        .map(|worker| longconn(&worker.outcome(), 0).opened)
        .collect();
    assert_eq!(opened, [10, 10]);
    master.assert_unhurt();
}
