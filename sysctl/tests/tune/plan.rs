//! `plan` for described machines: how many connections they hold and which limit decides,
//! calculated by hand.
//!
//! What a connection takes is in KERNEL.md and cost.rs: 3,829 bytes of socket, 40 of direct
//! descriptor, 256 of poll, 64 of ours at most, 576 to close: 4,765 at the end that accepts; its
//! bind bucket, 128, more at the end that dials: 4,893; 9,658 for both. 512 MiB are left to the
//! system. Files are 1 an end and 65,536 besides; ports 1025 to 65535 of an address are 64,511.

use serde_json::{Value, json};

use super::common::*;
use super::described::*;

/// The tightest limit, how many can be held now, and after apply, and the exit code.
fn bounds((plan, code): &(Value, i32)) -> (&str, u64, u64, i32) {
    let holds = |when: &str| plan[when].as_u64().unwrap();
    let first = plan["limits"][0]["name"].as_str().unwrap();
    (first, holds("holds_now"), holds("holds_tuned"), *code)
}

#[test]
fn servers() {
    // (536,870,912 =) 1 GiB - 512 MiB, over 4,765: 112,669. 104,857 files - 65,536: 39,321.
    for (connections, code) in [
        (1_000, 0),
        (64_511, 0),
        (64_512, 0),
        (112_669, 0),
        (112_670, 1),
        (1_000_000, 1),
        (10_000_000, 1),
    ] {
        let plan = SMALL.plan("server", connections, &[]);
        assert_eq!(
            bounds(&plan),
            ("fs.file-max", 39_321, 112_669, code),
            "{connections}"
        );
    }
    // 8 GiB - 512 MiB = 8,053,063,680, over 4,765: 1,690,044. 838,860 - 65,536 = 773,324.
    for (connections, code) in [
        (1_000, 0),
        (64_511, 0),
        (64_512, 0),
        (1_000_000, 0),
        (10_000_000, 1),
    ] {
        let plan = LAPTOP.plan("server", connections, &[]);
        assert_eq!(
            bounds(&plan),
            ("fs.file-max", 773_324, 1_690_044, code),
            "{connections}"
        );
    }
    // 24 GiB - 512 MiB = 25,232,932,864, over 4,765: 5,295,473. 2,516,582 - 65,536 = 2,451,046.
    for (connections, code) in [
        (1_000, 0),
        (64_511, 0),
        (64_512, 0),
        (1_000_000, 0),
        (10_000_000, 1),
    ] {
        let plan = OURS.plan("server", connections, &[]);
        assert_eq!(
            bounds(&plan),
            ("fs.file-max", 2_451_046, 5_295_473, code),
            "{connections}"
        );
    }
    // 512 GiB - 512 MiB = 549,218,942,976, over 4,765: 115,261,058. 53,687,091 - 65,536 =
    // 53,621,555.
    for (connections, code) in [
        (1_000, 0),
        (64_511, 0),
        (64_512, 0),
        (1_000_000, 0),
        (10_000_000, 0),
    ] {
        let plan = LARGE.plan("server", connections, &[]);
        assert_eq!(
            bounds(&plan),
            ("fs.file-max", 53_621_555, 115_261_058, code),
            "{connections}"
        );
    }
}

#[test]
fn clients_of_one_target() {
    // One address: 64,511, and no apply adds another.
    for (connections, needed, code) in [
        (1_000, 1, 0),
        (64_511, 1, 0),
        (64_512, 2, 1),
        (1_000_000, 16, 1),
        (10_000_000, 156, 1),
    ] {
        // 1,000,000 / 64,511 = 15.50; 10,000,000 / 64,511 = 155.01.
        for machine in [LAPTOP, OURS, LARGE] {
            let plan = machine.plan("client", connections, &[]);
            assert_eq!(
                bounds(&plan),
                ("source addresses", 64_511, 64_511, code),
                "{connections}"
            );
            assert_eq!(plan.0["sources"]["needed"], needed, "{connections}");
            assert_eq!(plan.0["sources"]["per_address"], 64_511);
        }
        // With 1 GiB there are fewer files than ports: 39,321 now. Memory would do for 536,870,912
        // / 4,893 = 109,722.
        let plan = SMALL.plan("client", connections, &[]);
        assert_eq!(
            bounds(&plan),
            ("fs.file-max", 39_321, 64_511, code),
            "{connections}"
        );
    }
    // 16 addresses: 1,032,176. Files are the limit now, memory after apply: 8,053,063,680 / 4,893 =
    // 1,645,833.
    let sixteen = Described {
        addresses: 16,
        ..LAPTOP
    };
    assert_eq!(
        bounds(&sixteen.plan("client", 1_000_000, &[])),
        ("fs.file-max", 773_324, 1_032_176, 0)
    );
    assert_eq!(
        bounds(&sixteen.plan("client", 1_032_177, &[])),
        ("fs.file-max", 773_324, 1_032_176, 1)
    );
    // 156 addresses: 10,063,716.
    let many = Described {
        addresses: 156,
        ..LARGE
    };
    assert_eq!(
        bounds(&many.plan("client", 10_000_000, &[])),
        ("source addresses", 10_063_716, 10_063_716, 0)
    );
    // Each further target is another 64,511: 16 of them are as good as 16 addresses.
    let plan = LAPTOP.plan("client", 1_000_000, &["--targets", "16"]);
    assert_eq!(bounds(&plan), ("fs.file-max", 773_324, 1_032_176, 0));
    assert_eq!(plan.0["sources"]["needed"], 1);
}

#[test]
fn both_ends_on_one_machine() {
    // Two files a connection: (104,857 - 65,536) / 2 = 19,660. Memory: 536,870,912 / 9,658 =
    // 55,588. Sources are on loopback.
    for (connections, code) in [
        (1_000, 0),
        (55_588, 0),
        (64_511, 1),
        (64_512, 1),
        (1_000_000, 1),
        (10_000_000, 1),
    ] {
        let plan = SMALL.plan("both", connections, &[]);
        assert_eq!(
            bounds(&plan),
            ("fs.file-max", 19_660, 55_588, code),
            "{connections}"
        );
    }
    // (838,860 - 65,536) / 2 = 386,662; 8,053,063,680 / 9,658 = 833,823: the million does not fit
    // into 8 GiB twice.
    assert_eq!(
        bounds(&LAPTOP.plan("both", 1_000_000, &[])),
        ("fs.file-max", 386_662, 833_823, 1)
    );
    // (2,516,582 - 65,536) / 2 = 1,225,523; 25,232,932,864 / 9,658 = 2,612,645.
    assert_eq!(
        bounds(&OURS.plan("both", 1_000_000, &[])),
        ("fs.file-max", 1_225_523, 2_612_645, 0)
    );
    assert_eq!(
        bounds(&OURS.plan("both", 10_000_000, &[])),
        ("fs.file-max", 1_225_523, 2_612_645, 1)
    );
    // (53,687,091 - 65,536) / 2 = 26,810,777; 549,218,942,976 / 9,658 = 56,866,736.
    assert_eq!(
        bounds(&LARGE.plan("both", 10_000_000, &[])),
        ("fs.file-max", 26_810_777, 56_866_736, 0)
    );
}

#[test]
fn other_limits() {
    // 1,024 descriptors: (1,024 - 64) / 2 = 480 rings of 1,024: 491,520. Neither apply nor root is
    // enough for more.
    let few = Described {
        nofile: 1024,
        sys_admin: true,
        ..OURS
    };
    assert_eq!(
        bounds(&few.plan("server", 1_000_000, &[])),
        ("descriptors", 491_520, 491_520, 1)
    );
    assert_eq!(bounds(&few.plan("server", 491_520, &[])).3, 0);
    // 4,096: 2,016 rings of 4,096: 8,257,536.
    let more = Described {
        nofile: 4096,
        ..LARGE
    };
    assert_eq!(
        bounds(&more.plan("server", 10_000_000, &[])),
        ("descriptors", 8_257_536, 8_257_536, 1)
    );
    // The limit of files is not one for CAP_SYS_ADMIN.
    let root = Described {
        sys_admin: true,
        ..OURS
    };
    assert_eq!(
        bounds(&root.plan("server", 1_000_000, &[])),
        ("memory", 5_295_473, 5_295_473, 0)
    );
    // Once connections are tracked: 262,144 - 65,536 = 196,608.
    let tracked = Described { tracked: 5, ..root };
    assert_eq!(
        bounds(&tracked.plan("server", 1_000_000, &[])),
        ("net.netfilter.nf_conntrack_max", 196_608, 5_295_473, 0)
    );
    // A memory cgroup with 4 GiB left, of which 64 MiB stay with it: 4,227,858,432 / 4,765 =
    // 887,273.
    let container = Described {
        cgroup_gib: 4,
        ..root
    };
    assert_eq!(
        bounds(&container.plan("server", 887_273, &[])),
        ("memory", 887_273, 887_273, 0)
    );
    assert_eq!(bounds(&container.plan("server", 887_274, &[])).3, 1);
    // 8 MiB of locked memory: (8,192 - 28) KiB / 56 KiB = 145 rings of 20,000 at one end, (8,192 -
    // 56) / 112 = 72 at each of two.
    let locked = Described {
        locked_kib: 8192,
        ..root
    };
    assert_eq!(
        bounds(&locked.plan("server", 1_000_000, &[])),
        ("locked memory", 2_900_000, 2_900_000, 0)
    );
    assert_eq!(
        bounds(&locked.plan("both", 2_000_000, &[])),
        ("locked memory", 1_440_000, 1_440_000, 1)
    );
    // Seccomp, or anything else that refuses a ring.
    let refused = Described {
        is_io_uring_refused: true,
        ..root
    };
    for role in ["server", "client", "both"] {
        assert_eq!(bounds(&refused.plan(role, 1, &[])), ("io_uring", 0, 0, 1));
    }
    // Kernels that lack what the programs need.
    let old = Described {
        kernel: (6, 9),
        ..root
    };
    assert_eq!(bounds(&old.plan("server", 1_000, &[])), ("kernel", 0, 0, 1));
    let middle = Described {
        kernel: (6, 10),
        ..root
    };
    assert_eq!(bounds(&middle.plan("server", 1_000, &[])).3, 0);
    assert_eq!(
        bounds(&middle.plan("client", 1_000, &[])),
        ("kernel", 0, 0, 1)
    );
    // Less memory than is left to the system.
    let none = Described { gib: 0, ..root };
    assert_eq!(bounds(&none.plan("server", 1, &[])), ("memory", 0, 0, 1));
}

#[test]
fn max_shows_the_tightest_limits() {
    let folder = folder();
    let machine = LAPTOP.file(&folder);
    // The number asked for does not matter.
    for connections in ["1k", "10M"] {
        let said = tune(&[
            &"plan",
            &"--max",
            &"-r",
            &"server",
            &"-c",
            &connections,
            &"--machine",
            &machine,
        ]);
        assert_eq!(said.code, 0, "{said:#?}");
        assert_eq!(
            said.out,
            "now          773,324 connections, limited by fs.file-max\n\
             after apply  1,690,044 connections, limited by memory\n"
        );
    }
    // Packets that pass take nothing of this but tracking.
    let said = tune(&[&"plan", &"--max", &"-r", &"host", &"--machine", &machine]);
    assert!(
        said.out
            .starts_with("now          any number of connections\n"),
        "{said:#?}"
    );
}

#[test]
fn machine_describes_this_machine() {
    let folder = folder();
    let described = file(&folder, "here.json", tune(&[&"machine"]).out);
    for role in ["server", "client", "both", "host"] {
        let there = tune(&[
            &"plan",
            &"--json",
            &"--role",
            &role,
            &"--machine",
            &described,
        ])
        .json();
        let here = tune(&[&"plan", &"--json", &"--role", &role]).json();
        let rows = |document: &Value| -> Vec<Value> {
            let rows = document["plan"]["rows"].as_array().unwrap().iter();
            rows.map(|row| json!([row["key"], row["now"], row["wanted"], row["holds"]]))
                .collect()
        };
        assert_eq!(rows(&there), rows(&here), "{role}");
        assert_eq!(
            there["machine"]["core_count"],
            here["machine"]["core_count"]
        );
    }
}

#[test]
fn malformed_descriptions() {
    let folder = folder();
    let missing = folder.path().join("missing.json");
    for (file, expected) in [
        (missing.clone(), "cannot be read (No such file"),
        (file(&folder, "garbage", "garbage"), "describes no machine"),
        (file(&folder, "empty", "{}"), "describes no machine"),
        (
            file(&folder, "huge", vec![b' '; 2 << 20]),
            "larger than 1 MiB",
        ),
    ] {
        let said = tune(&[&"plan", &"--machine", &file]);
        let error = said.error();
        assert!(
            error.contains(file.to_str().unwrap()) && error.contains(expected),
            "{said:#?}"
        );
        assert!(
            error.ends_with("; next: make one with: holdfast-tune machine > FILE"),
            "{said:#?}"
        );
    }
}
