//! What a final report says of its run besides its figures: what was asked for, by which program,
//! when and where.
//!
//! Invariants: known at the start of a run and never changed. What cannot be found out is empty or
//! `unknown`.
//! Must not depend on: what the report contains.

use std::collections::BTreeMap;
use std::time::SystemTime;

use holdfast_sysctl::cli;
use serde::{Deserialize, Serialize};

use crate::proc::machine;

/// The keys that every final report has besides its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Version of the program.
    pub version: String,
    /// Commit it was built from, `-dirty` behind it if files differed; `unknown` unless built by
    /// `make`.
    pub commit: String,
    /// Start of the run, RFC 3339, UTC.
    pub started_at: String,
    /// The command line.
    pub command: Vec<String>,
    /// The options in force, defaults included: values by the name of the flag.
    pub options: BTreeMap<String, Vec<String>>,
    /// The machine it ran on.
    pub machine: MachineInfo,
}

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// Its name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Model name of the processor.
    pub cpu: String,
    /// Cores this process may use.
    pub core_count: usize,
    /// All memory, bytes.
    pub memory_bytes: u64,
}

impl RunInfo {
    /// Of this process, which starts its run now.
    #[must_use]
    pub fn now() -> Self {
        #[expect(clippy::disallowed_methods, reason = "people read this date")]
        let now = SystemTime::now();
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("HOLDFAST_COMMIT")
                .unwrap_or("unknown")
                .to_owned(),
            started_at: humantime::format_rfc3339_seconds(now).to_string(),
            command: words.collect(),
            options: cli::options(),
            machine: MachineInfo {
                host: machine::host_name(),
                kernel: machine::kernel_release(),
                cpu: machine::cpu_model(),
                core_count: std::thread::available_parallelism().map_or(0, usize::from),
                memory_bytes: machine::memory_bytes(),
            },
        }
    }
}
