//! How users come and what they do: pace, targets, addresses, traffic upward, coming back,
//! histograms.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_telemetry::wire::ClientReport;
use nix::sys::signal::Signal;

use crate::common::{
    Folder, Running, Server, client, count, kept, own_address, subcommand, sum, until,
};
use crate::hlog::histograms;
use crate::peer::Peer;

#[test]
fn a_spawn_rate_is_smooth_inside_each_second() {
    // A test thread that gets no core for a while sees connections late and together. A burst at
    // the start of each second would show in every try, so one smooth try of four is proof.
    let worst: Vec<usize> = (0..4)
        .map_while(|attempt| {
            let peer = Peer::silent();
            let source = own_address().to_string();
            let users = client(
                peer.address,
                &["--users", "200", "--spawn-rate", "100", "--source", &source],
            );
            until("200 users", || peer.count() == 200);
            users.signal(Signal::SIGTERM);
            let windows = peer.windows();
            let last = windows.iter().rposition(|n| *n > 0).unwrap();
            assert!(last >= 19, "200 users at 100/s take 2 s: {windows:?}");
            peer.answer_ends();
            let last = users.outcome().last();
            assert_eq!(last.opened, 200);
            assert!((1.8..20.0).contains(&last.ramp_seconds), "{last:?}");
            let worst = *windows[2..].iter().max().unwrap();
            (attempt == 0 || worst > 25).then_some(worst)
        })
        .collect();
    assert!(
        worst.len() < 4 || worst.iter().any(|n| *n <= 25),
        "most in 100 ms, four times: {worst:?}"
    );
}

#[test]
fn users_go_round_all_targets() {
    for target_count in [2, 3, 5] {
        let peers: Vec<_> = (0..target_count).map(|_| Peer::silent()).collect();
        let targets: Vec<_> = peers.iter().map(|p| p.address.to_string()).collect();
        let more = targets[1..].join(",");
        let source = own_address().to_string();
        let users = client(
            peers[0].address,
            &["--target", &more, "--users", "301", "--source", &source],
        );
        let total = || peers.iter().map(Peer::count).sum::<usize>();
        until("all users", || total() == 301);
        let counts: Vec<_> = peers.iter().map(Peer::count).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "{counts:?}");
        users.signal(Signal::SIGTERM);
        peers.into_iter().for_each(Peer::answer_ends);
        assert_eq!(count(&users.outcome().last().ended, "held"), 301);
    }
}

#[test]
fn users_keep_to_servers_by_weight_and_come_back_to_theirs() {
    // The first ends every connection once.
    let first = Peer::start(|number, stream| (number >= 150).then_some(stream));
    let second = Peer::on((Ipv6Addr::LOCALHOST, 0).into(), |_, stream| Some(stream));
    let folder = Folder::new("longconn-targets");
    let file = folder.file("targets");
    let text = format!("{} 3\n# IPv6\n{}\n", first.address, second.address);
    std::fs::write(&file, text).expect("a file");
    let source = format!("{},::1", own_address());
    let mut command = subcommand("holdfast-client", "longconn", &[]);
    command.args([
        "--targets-file",
        &file,
        "--users",
        "200",
        "--source",
        &source,
    ]);
    command.args(["--reconnect", "--reconnect-pause", "50ms"]);
    let users = Running::<ClientReport>::start(command);
    until("all are there again", || first.count() == 300);
    users.until("all open", |r| r.open_now == 200);
    assert_eq!((first.count(), second.count()), (300, 50));
    users.signal(Signal::SIGTERM);
    first.answer_ends();
    second.answer_ends();
    assert_eq!(count(&users.outcome().last().ended, "held"), 200);
}

#[test]
fn sources_and_ports_are_those_given_and_each_is_used_once() {
    let peer = Peer::silent();
    let users = client(
        peer.address,
        &[
            "--users",
            "40",
            "--source",
            "127.0.8.1-127.0.8.4",
            "--ports",
            "2000-2009",
        ],
    );
    until("all users", || peer.count() == 40);
    let mut seen: Vec<_> = peer.accepted().iter().map(|a| a.from).collect();
    seen.sort();
    let expected: Vec<SocketAddr> = (1..=4u8)
        .flat_map(|host| (2000..=2009).map(move |port| SocketAddr::from(([127, 0, 8, host], port))))
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(peer.stop(users).code(), Some(0));
}

#[test]
fn an_ipv6_target_is_reached() {
    let peer = Peer::on((Ipv6Addr::LOCALHOST, 0).into(), |_, stream| Some(stream));
    let users = client(peer.address, &["--users", "10"]);
    until("all users", || peer.count() == 10);
    assert!(
        peer.accepted()
            .iter()
            .all(|a| a.from.ip() == IpAddr::from(Ipv6Addr::LOCALHOST))
    );
    assert_eq!(peer.stop(users).code(), Some(0));
}

#[test]
fn what_is_sent_upward_arrives_whole() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (hearing, ended) = (Arc::clone(&heard), Arc::new(AtomicUsize::new(0)));
    let ending = Arc::clone(&ended);
    let peer = Peer::start(move |_, mut stream| {
        let (hearing, ending) = (Arc::clone(&hearing), Arc::clone(&ending));
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("FIN");
            hearing.lock().unwrap().push(bytes);
            ending.fetch_add(1, Ordering::SeqCst);
        });
        None
    });
    let source = own_address().to_string();
    let outcome = client(
        peer.address,
        &[
            &["--users", "5", "--run-time", "2s", "--source", &source][..],
            &["--send", "ping!", "--send-every", "200ms"],
        ]
        .concat(),
    )
    .outcome();
    until("all ends", || ended.load(Ordering::SeqCst) == 5);
    let last = outcome.last();
    let heard = heard.lock().unwrap();
    assert!(
        heard
            .iter()
            .all(|bytes| bytes.chunks(5).all(|m| m == b"ping!")),
        "whole messages only"
    );
    let messages: usize = heard.iter().map(|bytes| bytes.len() / 5).sum();
    assert_eq!(messages as u64, last.messages_sent);
    // Each sends every 200 ms from within the first 200 ms on: 9 or 10 in 2 s; fewer on a loaded
    // machine.
    assert!((15..=55).contains(&messages), "{messages}");
    assert_eq!(
        (count(&last.ended, "held"), outcome.code()),
        (5, Some(0)),
        "{last:?}"
    );
}

#[test]
fn reconnect_comes_back_after_the_peer_has_closed() {
    let peer = Peer::start(|number, stream| (number >= 10).then_some(stream));
    let source = own_address().to_string();
    let users = client(
        peer.address,
        &[
            "--users",
            "10",
            "--reconnect",
            "--reconnect-pause",
            "100ms",
            "--source",
            &source,
        ],
    );
    let report = users.until("all back", |r| r.opened == 20 && r.open_now == 10);
    assert_eq!(count(&report.ended, "closed_by_server"), 10, "{report:?}");
    let last = peer.stop(users).last();
    assert_eq!(
        (last.attempts, last.opened, sum(&last.ended)),
        (20, 20, 20),
        "{last:?}"
    );
    assert_eq!(count(&last.ended, "held"), 10, "{last:?}");
}

#[test]
fn reconnect_comes_back_when_the_server_starts_again() {
    let first = Server::start(&["--every", "0s"]);
    let address = first.address;
    let source = own_address().to_string();
    let users = client(
        address,
        &[
            "--users",
            "50",
            "--reconnect",
            "--reconnect-pause",
            "200ms",
            "--source",
            &source,
        ],
    );
    users.until("all open", |r| r.open_now == 50);
    first.running.signal(Signal::SIGKILL);
    users.until("all lost, some refused", |r| {
        r.open_now == 0 && count(&r.failed, "refused") > 0
    });
    drop(first);
    let mut command = crate::common::longconn("holdfast-server", &["--every", "0s"]);
    command.args(["--listen", &address.to_string()]);
    let second = Server::run(command);
    users.until("all open again", |r| r.open_now == 50);
    second.until_open(50);
    let last = users.stop().last();
    assert_eq!(last.attempts, last.opened + sum(&last.failed), "{last:?}");
    assert_eq!(
        (last.opened, sum(&last.ended), count(&last.ended, "held")),
        (100, 100, 50),
        "{last:?}"
    );
}

#[test]
fn a_second_run_from_the_same_ports_directly_after_the_first_passes() {
    let server = Server::start(&["--every", "0s"]);
    let args = [
        "--users",
        "1000",
        "--source",
        "127.0.0.9",
        "--ports",
        "20000-20999",
    ];
    for run in 1..=3u64 {
        let users = client(server.address, &args);
        users.until("all open", |r| r.open_now == 1_000 || !r.failed.is_empty());
        server
            .running
            .until("all held", |r| r.accepted == run * 1_000);
        let outcome = users.stop();
        let last = outcome.last();
        assert_eq!(
            (outcome.code(), last.opened),
            (Some(0), 1_000),
            "run {run}: {last:?}"
        );
        server.until_open(0);
    }
}

#[test]
fn the_histogram_log_is_in_the_standard_format_and_complete() {
    let folder = Folder::new("histogram");
    let path = folder.file("client.hlog");
    let server = Server::start(&["--every", "200ms"]);
    let source = own_address().to_string();
    let outcome = client(
        server.address,
        &[
            &[
                "--users",
                "100",
                "--spawn-rate",
                "80",
                "--run-time",
                "3s",
                "--every",
                "200ms",
            ][..],
            &["--source", &source, "--histogram-log", &path],
        ]
        .concat(),
    )
    .outcome();
    let last = outcome.last();
    assert_eq!(kept(&last.ended), 100, "{last:?}");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.starts_with('#'), "{text:.80}");
    assert!(
        text.contains("\nTag=connect,") && text.contains("\nTag=lateness,"),
        "{text:.400}"
    );

    let sums = histograms(&text);
    let (connect, lateness) = (&sums["connect"], &sums["lateness"]);
    assert_eq!((connect.len(), last.connect_us.count), (100, 100));
    assert_eq!(lateness.len(), last.lateness_us.count);
    // What arrives after the end of the run is received but not timed: at most one message of each
    // user here.
    let untimed = last.messages_received - last.lateness_us.count;
    assert!(untimed <= 100 && last.lateness_us.count >= 500, "{last:?}");
    assert_eq!(connect.value_at_quantile(0.5), last.connect_us.p50);
}
