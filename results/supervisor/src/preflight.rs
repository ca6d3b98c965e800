//! Checks of the machine before an engine starts, and the sizes of the engine that follow from
//! them.
//!
//! Invariants: everything a run needs is checked before the first connection; each failure names
//! the limit and the remedy.
//! Must not depend on: protocols, consoles.

use std::fmt;

use holdfast_engine::config::{RING_SLOTS_MAX, SPARE_SLOTS};
use holdfast_engine::{Config, ConfigBuilder, SetupError, allowed_cores, check_io_uring};
use holdfast_sysctl::preflight::{self, Nofile};
use holdfast_sysctl::{Machine, Role};

use crate::flags::EngineFlags;

/// A machine that passed the checks every engine needs.
#[derive(Debug)]
pub struct Preflight {
    /// The machine.
    pub machine: Machine,
    role: Role,
    nofile: Nofile,
}

impl Preflight {
    /// Checks kernel and io_uring, and raises the descriptor limit of this process to the hard
    /// limit.
    ///
    /// # Errors
    /// One line: what is missing and the next command.
    pub fn check(role: Role) -> Result<Self, anyhow::Error> {
        let machine = Machine::read()?;
        let is_dialling = role == Role::Client;
        let (feature, version) = match is_dialling {
            true => ("io_uring's BIND", preflight::KERNEL_BIND),
            false => (
                "io_uring's ACCEPT_DONTWAIT",
                preflight::KERNEL_ACCEPT_DONTWAIT,
            ),
        };
        preflight::check_kernel(&machine, feature, version)?;
        preflight::check_io_uring(&machine)?;
        let nofile = preflight::raise_nofile()?;
        check_io_uring(is_dialling)?;
        Ok(Preflight {
            machine,
            role,
            nofile,
        })
    }

    /// The engine's config: `base` with capacity, threads and ring sizes filled in. A connection
    /// has up to `slots_per_connection` slots at once.
    ///
    /// # Errors
    /// A value is out of its range, or this user may not lock enough memory for the rings.
    pub fn config(
        &self,
        flags: &EngineFlags,
        capacity: u64,
        slots_per_connection: u64,
        base: ConfigBuilder,
    ) -> Result<Config, SetupError> {
        let cores = allowed_cores();
        let thread_count = flags.thread_count();
        let share = capacity.div_ceil(thread_count as u64) * slots_per_connection;
        let ring_slots = flags.ring_slots.map_or(self.nofile.limit, u64::from);
        let ring_slots = ring_slots.min(share + u64::from(SPARE_SLOTS) * 2);
        let mut config = base
            .capacity(capacity)
            .thread_count(thread_count)
            .cores(cores)
            .ring_slots(ring_slots.min(u64::from(RING_SLOTS_MAX)) as u32);
        if let Some(delay) = flags.batch_delay {
            config = config.batch_delay(delay);
        }
        if let Some(timeout) = flags.drain_timeout {
            config = config.drain_timeout(timeout);
        }
        let config = config.build()?;
        preflight::check_locked_memory(&self.machine, 1, config.ring_count())?;
        Ok(config)
    }

    /// Settings of the machine that are too low for `connections`.
    pub fn warnings(&self, connections: u64) -> Vec<SetupError> {
        holdfast_sysctl::plan::warnings(&self.machine, self.role, connections)
    }

    /// Descriptor limit and rings, in words.
    pub fn summary(&self, config: &Config) -> impl fmt::Display + use<> {
        let (rings, slots) = (config.ring_count(), config.ring_slots());
        format!("{}; {rings} rings of {slots} when full", self.nofile)
    }
}
