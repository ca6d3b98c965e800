//! A master that is lost and comes back; a worker of the same node id.

use holdfast_telemetry::wire::WorkerReport;
use nix::sys::signal::Signal;

use crate::common::{Folder, Running, Server, count, own_address};
use crate::master::{LOCUSTFILE, Master};
use crate::{longconn, worker};

#[test]
#[ignore = "needs Locust: make test"]
fn users_outlive_a_master_and_the_next_one_takes_over() {
    let server = Server::start(&[]);
    let host = server.address.to_string();
    let start = |folder, ip| Master::on(ip, LOCUSTFILE, folder, &["--host", &host, "LongConn"]);
    let mut master = start(Folder::new("first"), own_address());
    let worker = worker(&master.address(), &[]);
    worker.until("known", |r| r.workers_known == 1);
    master.swarm("user_count=40&spawn_rate=40");
    server.until_open(40);
    master.signal(Signal::SIGKILL);
    master.end();
    worker.until("the loss is noticed", |r| r.workers_known == 0);
    assert_eq!(server.running.fresh().open_now, 40);
    let ip = master.ip;
    drop(master);
    let master = start(Folder::new("second"), ip);
    worker.until("known again", |r| r.workers_known == 1);
    master.until_users(40);
    master.swarm("user_count=50&spawn_rate=50");
    server.until_open(50);
    master.assert_unhurt();
    let outcome = worker.stop();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    let own = longconn(&outcome, 0);
    assert_eq!(
        (own.opened, count(&own.ended, "held")),
        (50, 50),
        "nobody was restarted"
    );
}

#[test]
#[ignore = "needs Locust: make test"]
fn users_stop_with_the_master_when_asked_to() {
    let server = Server::start(&[]);
    let master = Master::start(
        "leaves",
        &["--host", &server.address.to_string(), "LongConn"],
    );
    let worker = worker(&master.address(), &["--on-master-loss", "stop"]);
    worker.until("known", |r| r.workers_known == 1);
    master.swarm("user_count=30&spawn_rate=30");
    server.until_open(30);
    // Silent, and its connections stay: a machine that is gone looks like that.
    master.signal(Signal::SIGSTOP);
    server.until_open(0);
    assert_eq!(worker.fresh().users_now, 0);
    master.signal(Signal::SIGCONT);
    worker.until("known again", |r| r.workers_known == 1);
    let own = longconn(&worker.stop(), 0);
    assert_eq!((own.opened, count(&own.ended, "held")), (30, 30));
}

#[test]
#[ignore = "needs Locust: make test"]
fn second_worker_of_a_node_id_takes_a_new_id() {
    let server = Server::start(&[]);
    let mut master = Master::start(
        "twins",
        &["--host", &server.address.to_string(), "LongConn"],
    );
    let workers: Vec<Running<WorkerReport>> = (0..2)
        .map(|_| worker(&master.address(), &["--identity", "twin_1"]))
        .collect();
    for worker in &workers {
        worker.until("known", |r| r.workers_known == 1);
    }
    master.until("two workers", |stats| {
        stats["workers"].as_array().is_some_and(|w| w.len() == 2)
    });
    master.swarm("user_count=21&spawn_rate=100");
    server.until_open(21);
    master.signal(Signal::SIGTERM);
    master.end();
    let opened: u64 = workers
        .into_iter()
        .map(|worker| longconn(&worker.outcome(), 0).opened)
        .sum();
    assert_eq!(opened, 21);
    master.assert_unhurt();
}
