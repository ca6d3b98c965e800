//! Takes inherited listeners and binds the other ports, also while a killed server still has
//! listeners there.
//!
//! A killed process with a million sockets takes seconds to end, and until then its listeners
//! accept connections, only to reset them. So the owner of a port in use is looked up: a living
//! process is an error, listeners without a process are waited for.
//! Must not depend on: what is served.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use holdfast_engine::SetupErrorKind;
use holdfast_engine::listen::{Listener, listeners, spread};
use holdfast_supervisor::control::{Control, Interrupted};
use holdfast_telemetry::console::Console;

/// How long to wait for listeners without a living process.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long to wait for a listener without a visible owner when not every process may be inspected.
const WAIT_UNSURE: Duration = Duration::from_secs(5);
/// How long to wait for a living owner, which may be about to end.
const WAIT_OWNED: Duration = Duration::from_millis(500);

/// Who listens on a port.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// A living process: name and pid.
    Process(String, u32),
    /// No living process.
    Nobody,
    /// Not every process may be inspected.
    Unsure,
}

/// What a server listens on.
#[derive(Debug)]
pub struct Bound {
    /// The listeners of each thread.
    pub listeners: Vec<Vec<Listener>>,
    /// Their addresses.
    pub addresses: Vec<SocketAddr>,
}

/// Listeners for every thread and address: those that were inherited, and new ones at `wanted`
/// addresses that have none yet.
///
/// # Errors
/// One line naming who has the port, or why it cannot be had.
pub fn listen(
    inherited: Vec<Listener>,
    mut wanted: Vec<SocketAddr>,
    thread_count: usize,
    cores: Option<&[usize]>,
    control: &mut Control,
    console: &mut Console,
) -> Result<Bound, anyhow::Error> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for listener in &inherited {
        let address = listener.local_addr()?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    wanted.retain(|address| !addresses.contains(address));
    let mut listeners = spread(inherited, thread_count)?;
    let (own, bound) = bind(&wanted, thread_count, cores, control, console)?;
    for (thread, own) in listeners.iter_mut().zip(own) {
        thread.extend(own);
    }
    addresses.extend(bound);
    Ok(Bound {
        listeners,
        addresses,
    })
}

/// Binds every address.
fn bind(
    addresses: &[SocketAddr],
    thread_count: usize,
    cores: Option<&[usize]>,
    control: &mut Control,
    console: &mut Console,
) -> Result<(Vec<Vec<Listener>>, Vec<SocketAddr>), anyhow::Error> {
    let since = Instant::now();
    let mut was_said = false;
    loop {
        let address = match listeners(addresses, thread_count, cores) {
            Ok(listeners) => return Ok(listeners),
            Err(error) if error.kind() == SetupErrorKind::InUse => error.address(),
            Err(error) => return Err(error.into()),
        };
        let port = address.port();
        let (patience, who) = match owner(port) {
            Owner::Process(name, pid) => (WAIT_OWNED, format!("{name} (pid {pid}) listens there")),
            Owner::Nobody => (
                WAIT_MAX,
                "listeners without a living process remain there".to_owned(),
            ),
            Owner::Unsure => (WAIT_UNSURE, "another process listens there".to_owned()),
        };
        if since.elapsed() >= patience {
            anyhow::bail!(
                "port {port} is in use: {who}; next: stop that process, or choose another port with --listen"
            );
        }
        if patience == WAIT_MAX && !was_said {
            was_said = true;
            console.note(format_args!(
                "port {port}: waiting for the listeners of a process that is ending"
            ));
        }
        if control.is_stopped_within(Duration::from_millis(100), console) {
            anyhow::bail!(Interrupted(format!("waiting for port {port}")));
        }
    }
}

/// Looks for the living process that listens on `port`.
fn owner(port: u16) -> Owner {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|text| listening_inodes(&text, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let mut is_sure = true;
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(fds) = std::fs::read_dir(process.path().join("fd")) else {
            // It has ended, is a zombie, or belongs to somebody else.
            is_sure &= !process.path().join("fd").exists() || nix::unistd::geteuid().is_root();
            continue;
        };
        let has_it = fds
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .any(|link| {
                inodes
                    .iter()
                    .any(|inode| link.as_os_str() == inode.as_str())
            });
        if has_it {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Owner::Process(name.trim().to_owned(), pid);
        }
    }
    if is_sure {
        Owner::Nobody
    } else {
        Owner::Unsure
    }
}

/// Inodes of the sockets in state LISTEN on `port`, from the text of /proc/net/tcp or tcp6.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let local = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_it = fields.len() > 9 && fields[1].ends_with(&local) && fields[3] == "0A";
            is_it.then(|| fields[9].parse().ok()).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_listeners_of_the_port_only() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 00000000:1B9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
            1: 0100007F:1B9E 0100007F:0400 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1\n   \
            2: 00000000:1B9F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";
        assert_eq!(listening_inodes(table, 0x1B9E), [4711]);
    }

    #[test]
    fn finds_this_process_by_its_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(matches!(owner(port), Owner::Process(_, pid) if pid == std::process::id()));
    }
}
