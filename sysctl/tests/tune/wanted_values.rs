//! `plan` for described machines: memory, rings and wanted values, calculated by hand.
//!
//! What a connection takes is in KERNEL.md and cost.rs: 3,829 bytes of socket, 40 of direct
//! descriptor, 256 of poll, 64 of ours at most, 576 to close: 4,765 at the end that accepts; its
//! bind bucket, 128, more at the end that dials: 4,893; 9,658 for both.

use serde_json::json;

use super::described::*;

#[test]
fn memory_and_rings() {
    // Times 4,765, 4,893 and 9,658 bytes; over 20,000 descriptors a ring, over 1,048,576.
    for (connections, server, client, both, rings, rings_large) in [
        (1_000, 4_765_000, 4_893_000, 9_658_000, 1, 1),
        (64_511, 307_394_915, 315_652_323, 623_047_238, 4, 1),
        (64_512, 307_399_680, 315_657_216, 623_056_896, 4, 1),
        (
            1_000_000,
            4_765_000_000,
            4_893_000_000,
            9_658_000_000_u64,
            50,
            1,
        ),
        (
            10_000_000,
            47_650_000_000,
            48_930_000_000,
            96_580_000_000,
            500,
            10,
        ),
    ] {
        for (role, total) in [("server", server), ("client", client), ("both", both)] {
            let (plan, _) = OURS.plan(role, connections, &[]);
            assert_eq!(plan["memory"]["total_bytes"], total, "{role} {connections}");
            assert_eq!(plan["rings"], rings, "{role} {connections}");
            let parts = [
                "sockets",
                "descriptors",
                "polls",
                "bind_buckets",
                "closing",
                "own",
            ];
            let sum: u64 = parts
                .iter()
                .map(|part| plan["memory"][format!("{part}_bytes")].as_u64().unwrap())
                .sum();
            assert_eq!(sum, total, "{role} {connections}");
        }
        assert_eq!(
            LARGE.plan("server", connections, &[]).0["rings"],
            rings_large,
            "{connections}"
        );
    }
    // Two sockets of 3,829.
    assert_eq!(
        OURS.plan("both", 1_000_000, &[]).0["memory"]["sockets_bytes"],
        7_658_000_000_u64
    );
}

#[test]
fn wanted_values() {
    // Files: N + 65,536 an end. Pages for queues: a half, three quarters, one for each end. Tracked
    // entries: N + 65,536, whatever is here.
    for (connections, files, files_both, pages, pages_both) in [
        (1_000, "66536", "67536", "500 750 1000", "1000 1500 2000"),
        (
            64_511,
            "130047",
            "194558",
            "32256 48384 64511",
            "64511 96767 129022",
        ),
        (
            64_512,
            "130048",
            "194560",
            "32256 48384 64512",
            "64512 96768 129024",
        ),
        (
            1_000_000,
            "1065536",
            "2065536",
            "500000 750000 1000000",
            "1000000 1500000 2000000",
        ),
        (
            10_000_000,
            "10065536",
            "20065536",
            "5000000 7500000 10000000",
            "10000000 15000000 20000000",
        ),
    ] {
        let (server, _) = OURS.plan("server", connections, &[]);
        assert_eq!(
            row(&server, "fs.file-max"),
            (files, &json!(2_451_046)),
            "{connections}"
        );
        assert_eq!(row(&server, "net.ipv4.tcp_mem").0, pages, "{connections}");
        assert_eq!(
            row(&server, "net.netfilter.nf_conntrack_max").0,
            files,
            "{connections}"
        );
        let (both, _) = OURS.plan("both", connections, &[]);
        assert_eq!(
            row(&both, "fs.file-max"),
            (files_both, &json!(1_225_523)),
            "{connections}"
        );
        assert_eq!(
            row(&both, "net.ipv4.tcp_mem").0,
            pages_both,
            "{connections}"
        );
        assert_eq!(
            row(&both, "net.netfilter.nf_conntrack_max").0,
            files,
            "{connections}"
        );
    }
    // Two buckets a socket and 65,536 for TIME_WAIT, a power of two, at most 2^24: 67,536, 194,558,
    // 194,560, 2,065,536 and 20,065,536; with both ends 69,536, 323,580, 323,584, 4,065,536 and
    // 40,065,536.
    for (connections, server, both) in [
        (1_000, "131072", "131072"),
        (64_511, "262144", "524288"),
        (64_512, "262144", "524288"),
        (1_000_000, "2097152", "4194304"),
        (10_000_000, "16777216", "16777216"),
    ] {
        for key in ["net.ipv4.tcp_child_ehash_entries", "thash_entries"] {
            assert_eq!(
                row(&OURS.plan("server", connections, &[]).0, key).0,
                server,
                "{key} {connections}"
            );
            assert_eq!(
                row(&OURS.plan("both", connections, &[]).0, key).0,
                both,
                "{key} {connections}"
            );
        }
    }
}
