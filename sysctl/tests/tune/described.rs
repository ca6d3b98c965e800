//! Described machines, for `plan --machine`.
//!
//! Must not depend on: what is expected of a plan.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::common::*;

const GIB: u64 = 1_073_741_824;

/// The differences between described machines.
#[derive(Clone, Copy)]
pub struct Described {
    pub gib: u64,
    /// The kernel's default: a tenth of the memory in KiB.
    pub file_max: u64,
    pub nofile: u64,
    pub addresses: u64,
    pub kernel: (u64, u64),
    pub sys_admin: bool,
    pub tracked: u64,
    /// Left below the limit of a memory cgroup; none where 0.
    pub cgroup_gib: u64,
    /// RLIMIT_MEMLOCK; none where 0.
    pub locked_kib: u64,
    pub is_io_uring_refused: bool,
}

pub const SMALL: Described = Described {
    gib: 1,
    file_max: 104_857,
    nofile: 20_000,
    addresses: 1,
    kernel: (6, 18),
    sys_admin: false,
    tracked: 0,
    cgroup_gib: 0,
    locked_kib: 0,
    is_io_uring_refused: false,
};
pub const LAPTOP: Described = Described {
    gib: 8,
    file_max: 838_860,
    ..SMALL
};
pub const OURS: Described = Described {
    gib: 24,
    file_max: 2_516_582,
    ..SMALL
};
pub const LARGE: Described = Described {
    gib: 512,
    file_max: 53_687_091,
    nofile: 1_048_576,
    ..SMALL
};

impl Described {
    /// As `holdfast-tune machine` prints it, with all of its memory available.
    pub fn file(self, folder: &TempDir) -> PathBuf {
        let mut document = tune(&[&"machine"]).json();
        let machine = &mut document["machine"];
        for (fact, value) in [
            (
                "kernel_release",
                json!(format!("{}.{}.0", self.kernel.0, self.kernel.1)),
            ),
            ("kernel_version", json!([self.kernel.0, self.kernel.1])),
            ("memory_bytes", json!(self.gib * GIB)),
            ("memory_available_bytes", json!(self.gib * GIB)),
            ("nofile_soft", json!(1024)),
            ("nofile_hard", json!(self.nofile)),
            ("sys_admin", json!(self.sys_admin)),
            ("address_count", json!(self.addresses)),
        ] {
            assert!(!machine[fact].is_null(), "no {fact}: {machine}");
            machine[fact] = value;
        }
        machine["memory_cgroup_left_bytes"] = match self.cgroup_gib {
            0 => Value::Null,
            gib => json!(gib * GIB),
        };
        machine["locked_memory_bytes"] = match self.locked_kib {
            0 => Value::Null,
            kib => json!(kib << 10),
        };
        machine["io_uring_refusal"] = match self.is_io_uring_refused {
            false => Value::Null,
            true => json!({"cause": "no ring", "next_step": "a ring"}),
        };
        document["values"] = json!({"Described": {
            "fs.file-max": self.file_max.to_string(),
            "kernel.io_uring_disabled": "0",
            "limit nofile": self.nofile.to_string(),
            "net.ipv4.tcp_mem": "47427\t63239\t94854",
            "net.netfilter.nf_conntrack_count": self.tracked.to_string(),
            "net.netfilter.nf_conntrack_max": "262144",
        }});
        file(folder, "machine.json", document.to_string())
    }

    /// The plan and its exit code.
    pub fn plan(self, role: &str, connections: u64, more: &[&str]) -> (Value, i32) {
        let folder = folder();
        let connections = connections.to_string();
        let args = [
            "plan",
            "--json",
            "--role",
            role,
            "--connections",
            &connections,
            "--machine",
        ];
        let said = run(bounded(TUNE).args(args).arg(self.file(&folder)).args(more));
        assert_eq!(said.err, "", "{said:#?}");
        (said.json()["plan"].take(), said.code)
    }
}

/// The row of a key: wanted, and how many connections what is there suffices for.
pub fn row<'a>(plan: &'a Value, key: &str) -> (&'a str, &'a Value) {
    let mut rows = plan["rows"].as_array().unwrap().iter();
    let row = rows
        .find(|row| row["key"] == key)
        .unwrap_or_else(|| panic!("no row of {key}"));
    (row["wanted"].as_str().unwrap(), &row["holds"])
}
