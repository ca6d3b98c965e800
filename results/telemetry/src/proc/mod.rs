//! What the kernel says in `/proc`: the one place that reads it for measurements.
//!
//! Purpose: samples of this network namespace and machine ([`kernel`], [`saturation`],
//! [`machine`]), of one process ([`process`], [`threads`]) and of a process with its descendants
//! ([`tree`]).
//! Invariants: reads only. A figure that a kernel does not have reads as zero or `None`, never as
//! an error. The parsers take text, so tests and the fuzzer need no kernel. They are our own and
//! not the `procfs` crate's, which refuses a whole file when one line is missing or new, and reads
//! every field of a file of which a sample needs one, every second, beside a load that fills all
//! cores.
//! Must not depend on: phases, runs, verdicts.

pub mod kernel;
pub mod machine;
mod parse;
pub mod process;
pub mod saturation;
pub mod threads;
pub mod tree;

pub use kernel::{COUNTERS, CoreTicks, KernelSample, core_ticks, snmp};
pub use parse::kib_line;
pub use process::{ProcessSample, TICKS_PER_SECOND, all_pids, command_line, cpu_ticks};
pub use saturation::{Saturation, conntrack_drops, oom_kills, packets_dropped};
pub use threads::{BusiestThread, ThreadTimes};
