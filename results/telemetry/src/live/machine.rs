//! Samples of the machine for the live view: memory and CPU time of the processes shown, cores,
//! sockets.
//!
//! Invariants: reads `/proc` only, a dozen small files per sample; what cannot be read is left out.
//! Must not depend on: what the processes do, how figures are shown.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::proc::{CoreTicks, KernelSample, ProcessSample, TICKS_PER_SECOND};

/// Takes samples, each compared with the one before.
#[derive(Debug)]
pub struct MachineSampler {
    slab_base_bytes: u64,
    at: Instant,
    cores: BTreeMap<usize, CoreTicks>,
    process_ticks: BTreeMap<u32, u64>,
    /// The last sample.
    pub now: MachineSample,
}

/// One sample.
#[derive(Debug, Default)]
pub struct MachineSample {
    /// Cores by number: how much of the time since the sample before each was busy, percent.
    pub cores: Vec<(usize, f64)>,
    /// The processes, those that still live.
    pub processes: Vec<Process>,
    /// Sockets and memory.
    pub kernel: KernelSample,
    /// Growth of all kernel slabs since the first sample, bytes.
    pub slab_growth_bytes: u64,
}

/// One process.
#[derive(Debug)]
pub struct Process {
    /// As the snapshot calls it.
    pub name: &'static str,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Time on cores since the sample before, percent of one core; `None` in the first sample.
    pub cpu_percent: Option<f64>,
}

impl Default for MachineSampler {
    /// Takes the first sample, which later ones are compared with.
    fn default() -> Self {
        let mut machine = Self {
            slab_base_bytes: 0,
            at: Instant::now(),
            cores: BTreeMap::new(),
            process_ticks: BTreeMap::new(),
            now: MachineSample::default(),
        };
        machine.sample(&[]);
        machine.slab_base_bytes = machine.now.kernel.slab_bytes;
        machine
    }
}

impl MachineSampler {
    /// Samples the machine and these processes.
    pub fn sample(&mut self, processes: &[(&'static str, u32)]) {
        let kernel = KernelSample::read();
        let seconds = std::mem::replace(&mut self.at, Instant::now())
            .elapsed()
            .as_secs_f64();
        let cores = kernel.cores.clone();
        let ticks_before = std::mem::take(&mut self.process_ticks);
        let processes = processes.iter().filter_map(|(name, pid)| {
            let sample = ProcessSample::read(*pid)?;
            self.process_ticks.insert(*pid, sample.cpu_ticks);
            let before = ticks_before.get(pid);
            Some(Process {
                name,
                rss_bytes: sample.rss_bytes,
                cpu_percent: before.filter(|_| seconds > 0.0).map(|before| {
                    let ticks = sample.cpu_ticks.saturating_sub(*before) as f64;
                    100.0 * ticks / TICKS_PER_SECOND / seconds
                }),
            })
        });
        self.now = MachineSample {
            processes: processes.collect(),
            cores: cores
                .iter()
                .filter_map(|(core, now)| {
                    let before = self.cores.get(core)?;
                    let passed = now.since(*before);
                    (passed.all > 0)
                        .then(|| (*core, 100.0 * (passed.busy as f64 / passed.all as f64)))
                })
                .collect(),
            slab_growth_bytes: kernel.slab_bytes.saturating_sub(self.slab_base_bytes),
            kernel,
        };
        self.cores = cores;
    }
}
