//! `holdfast-tune` as a user meets it: the real binary, the real `/proc/sys`, in namespaces of its own.
//!
//! Invariants: nothing of this machine is changed. A test that writes does so inside `common::within`: network and mounts of its own, all of
//! `/proc/sys` but `net` read-only, `/etc` and `/run` empty and its own. No process outlives its test.

mod common;
mod described;

mod built_in;
mod crash;
mod door;
mod dry;
mod failures;
mod kept;
mod needs;
mod persist;
mod plan;
mod profiles;
mod rights;
mod round_trip;
mod saved;
