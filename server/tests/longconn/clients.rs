//! The server and the real client together: what both count agrees, and a client's death costs
//! nothing.

use nix::sys::signal::Signal;

use crate::common::{Random, Server, client, count, kept, own_address, sum};

#[test]
fn killed_client_frees_every_slot() {
    let server = Server::start(&["--connections", "5000", "--every", "1s"]);
    let source = own_address().to_string();
    let args = ["--users", "5000", "--every", "1s", "--source", &source];
    let first = client(server.address, &args);
    server.until_open(5_000);
    first.signal(Signal::SIGKILL);
    assert_eq!(first.outcome().code(), None, "killed");
    let report = server.until_open(0);
    assert_eq!(sum(&report.closed), 5_000, "{:?}", report.closed);

    let second = client(server.address, &args);
    server.until_open(5_000);
    let outcome = second.stop();
    let last = outcome.last();
    assert_eq!(
        (count(&last.ended, "held"), outcome.code()),
        (5_000, Some(0)),
        "{last:?}"
    );
    let report = server.until_open(0);
    assert_eq!((report.accepted, report.refused_full), (10_000, 0));
}

#[test]
fn what_both_count_agrees_in_any_mix() {
    for seed in 1..=3 {
        let mut random = Random(seed);
        let capacity = 50 + random.below(300);
        let users = capacity - 40 + random.below(200);
        let every = format!("{}ms", 100 + random.below(400));
        let send_every = format!("{}ms", 50 + random.below(300));
        let rate = if random.below(2) == 0 {
            "max".to_owned()
        } else {
            (200 + random.below(400)).to_string()
        };
        let mix =
            format!("seed {seed}: {users} users at {rate}/s for {capacity}, {every}, {send_every}");
        let server = Server::start(&["--connections", &capacity.to_string(), "--every", &every]);
        let outcome = client(
            server.address,
            &[
                &[
                    "--users",
                    &users.to_string(),
                    "--spawn-rate",
                    &rate,
                    "--every",
                    &every,
                ][..],
                &[
                    "--send",
                    "upward",
                    "--send-every",
                    &send_every,
                    "--run-time",
                    "3s",
                ],
                &["--source", &own_address().to_string()],
            ]
            .concat(),
        )
        .outcome();
        let ours = outcome.last();
        let theirs = server.running.stop().last();

        let refused = users.saturating_sub(capacity);
        assert!(ours.is_final && theirs.is_final, "{mix}");
        assert_eq!(ours.attempts, users, "{mix}");
        assert_eq!(
            ours.attempts,
            ours.opened + sum(&ours.failed),
            "{mix}: {ours:?}"
        );
        assert_eq!(ours.opened, sum(&ours.ended), "{mix}: {ours:?}");
        // A refused connection was opened by the kernel; a reset that overtakes the client's look
        // at it fails the attempt.
        assert_eq!(theirs.accepted, users - refused, "{mix}");
        assert_eq!(theirs.refused_full, refused, "{mix}");
        assert_eq!(
            ours.opened + count(&ours.failed, "reset"),
            theirs.accepted + theirs.refused_full,
            "{mix}"
        );
        assert_eq!(kept(&ours.ended), theirs.accepted, "{mix}: {ours:?}");
        assert_eq!(
            theirs.accepted,
            sum(&theirs.closed) + theirs.open_now,
            "{mix}: {theirs:?}"
        );
        assert_eq!(ours.messages_received, theirs.messages_sent, "{mix}");
        assert_eq!((ours.messages_wrong, ours.messages_missed), (0, 0), "{mix}");
        // What refused users sent before they heard of it was dropped unread.
        let sent_bytes = ours.messages_sent * 6;
        assert!(
            theirs.bytes_received <= sent_bytes && theirs.bytes_received > 0,
            "{mix}"
        );
        if refused == 0 {
            assert_eq!(theirs.bytes_received, sent_bytes, "{mix}");
        }
        assert_eq!(
            outcome.code(),
            Some(if refused == 0 { 0 } else { 1 }),
            "{mix}"
        );
    }
}
