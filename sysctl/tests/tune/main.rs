//! `holdfast-tune` as users run it: the real binary, the real `/proc/sys`, in namespaces of its
//! own.
//!
//! Invariants: nothing on this machine is changed. A test that writes does so inside
//! `common::within`: network and mounts of its own, all of `/proc/sys` but `net` read-only, `/etc`
//! and `/run` empty and its own. No process outlives its test.

mod common;
mod described;

mod built_in_profiles;
mod command_line;
mod crash;
mod dry_run;
mod failures;
mod own_profiles;
mod persist;
mod plan;
mod raised_values;
mod round_trip;
mod sources;
mod state_file;
mod unprivileged;
mod wanted_values;
