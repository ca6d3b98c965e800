//! One host of the lab: a network namespace with a name.
//!
//! Purpose: doing something in it, by a thread that enters it or by a program that `ip netns exec`
//! starts there.
//! Invariants: the calling thread stays where it is. What is read is read in the host's own
//! network.
//! Must not depend on: which hosts there are, what runs on them.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::sandbox::NAMES;

use holdfast_telemetry::namespace::NamespaceRecord;
use holdfast_telemetry::proc::KernelSample;

/// A host that exists.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its addresses; the first is what others know it by.
    pub addresses: Vec<Ipv4Addr>,
    /// Its kernel settings, where this process made them.
    pub lab: NamespaceRecord,
}

impl Host {
    /// Its main address with a port.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.addresses[0], port))
    }

    /// Does `work` on this host, on a thread of its own.
    ///
    /// # Errors
    /// When the host is gone.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, String> {
        let path = Path::new(NAMES).join(&self.name);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                setns(file, CloneFlags::CLONE_NEWNET)
                    .map_err(|e| format!("entering {}: {e}", self.name))?;
                Ok(work())
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(format!("{}: a thread in it panicked", self.name)))
        })
    }

    /// What its kernel says; nothing if it is gone.
    #[must_use]
    pub fn kernel(&self) -> KernelSample {
        self.inside(KernelSample::read).unwrap_or_default()
    }

    /// The command line that starts `program` on this host. The process is the program's own: `ip`
    /// becomes it.
    #[must_use]
    pub fn command(
        &self,
        ip: &Path,
        program: &Path,
        args: impl IntoIterator<Item = String>,
    ) -> (PathBuf, Vec<String>) {
        let start = ["netns", "exec", &self.name].map(String::from);
        let words = start
            .into_iter()
            .chain([program.display().to_string()])
            .chain(args)
            .collect();
        (ip.to_path_buf(), words)
    }
}
