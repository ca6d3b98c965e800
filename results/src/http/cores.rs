//! Which cores belong to whom.
//!
//! Purpose: the cores this process may use, halved between server and client, and a child started
//! on its half.
//! Invariants: a child has its cores before its first instruction, so every thread it makes has
//! them too. This process itself keeps all its cores.
//! Must not depend on: what runs on them.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halves {
    /// Cores of the server.
    pub server: Vec<usize>,
    /// Cores of the client.
    pub client: Vec<usize>,
}

impl Halves {
    /// Halves `cores`; one core goes to both.
    #[must_use]
    pub fn of(cores: &[usize]) -> Self {
        let (server, client) = cores.split_at(cores.len() / 2);
        if server.is_empty() {
            return Self::same(client);
        }
        Self {
            server: server.to_vec(),
            client: client.to_vec(),
        }
    }

    /// Both ends on the first of `cores`.
    #[must_use]
    pub fn same(cores: &[usize]) -> Self {
        let first = cores[..cores.len().min(1)].to_vec();
        Self {
            server: first.clone(),
            client: first,
        }
    }

    /// Both ends have the same cores.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.server == self.client
    }
}

/// The cores this process may use; `[0]` if the kernel does not say.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let cores: Vec<usize> = sched_getaffinity(Pid::from_raw(0))
        .map(|set| {
            (0..CpuSet::count())
                .filter(|core| set.is_set(*core).unwrap_or(false))
                .collect()
        })
        .unwrap_or_default();
    if cores.is_empty() { vec![0] } else { cores }
}

/// Does `work` with this thread on `cores`; what it starts stays there. Afterwards this thread is
/// where it was.
///
/// # Errors
/// When the kernel refuses these cores; `work` is not done then.
pub fn on<T>(cores: &[usize], work: impl FnOnce() -> T) -> Result<T, String> {
    let say = |e: nix::Error| format!("cores {cores:?} cannot be had: {e}");
    let me = Pid::from_raw(0);
    let before = sched_getaffinity(me).map_err(say)?;
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).map_err(say)?;
    }
    sched_setaffinity(me, &set).map_err(say)?;
    let done = work();
    sched_setaffinity(me, &before).map_err(say)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves() {
        let of = |cores: &[usize]| {
            let halves = Halves::of(cores);
            (halves.server, halves.client)
        };
        assert_eq!(of(&[0]), (vec![0], vec![0]));
        assert_eq!(of(&[0, 1]), (vec![0], vec![1]));
        assert_eq!(of(&[2, 3, 5]), (vec![2], vec![3, 5]));
        assert!(Halves::of(&[7]).is_shared() && !Halves::of(&[0, 1]).is_shared());
        assert_eq!(Halves::same(&[4, 5]).client, [4]);
    }

    #[test]
    fn what_is_started_on_a_core_stays_there() {
        let all = allowed();
        let last = *all.last().expect("a core");
        let seen = on(&[last], || {
            std::process::Command::new("cat")
                .arg("/proc/self/status")
                .output()
                .expect("cat")
        })
        .expect("allowed");
        let text = String::from_utf8(seen.stdout).expect("text");
        assert!(
            text.contains(&format!("Cpus_allowed_list:\t{last}\n")),
            "{text}"
        );
        assert_eq!(allowed(), all);
    }
}
