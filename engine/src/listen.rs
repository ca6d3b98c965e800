//! Listening sockets: made here, one for each core thread and address in one SO_REUSEPORT group; inherited from a service manager or a
//! predecessor; passed on to a successor.
//!
//! The kernel would let a group share its connections with another process's listener, or with those of a process that is still
//! dying. So every address is first bound without SO_REUSEPORT: only a free one succeeds.
//! Invariants: after success every thread has one listener for every address. A listener is given up by closing its descriptor,
//! never by shutdown(2), which would stop every process that shares the socket.
//! Must not depend on: rings, connections.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

mod inherited;
mod listener;
mod successor;

pub use inherited::{Inherited, inherited};
pub use listener::Listener;
pub use successor::{Successor, SuccessorState};

use crate::error::{SetupError, SetupErrorKind};

/// Length of the accept queue, connections; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 65_535;

/// Why an address cannot be listened on. [`SetupErrorKind::InUse`] means that another socket listens there.
#[derive(Debug)]
pub struct ListenError {
    address: SocketAddr,
    error: SetupError,
}

impl ListenError {
    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What kind of cause it has.
    pub fn kind(&self) -> SetupErrorKind {
        self.error.kind()
    }
}

impl From<ListenError> for SetupError {
    fn from(listen: ListenError) -> Self {
        listen.error
    }
}

impl std::fmt::Display for ListenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Binds `thread_count` listeners for each address: `listeners[thread][address]`, and the addresses with their ports. With `cores`, the
/// kernel prefers for a connection the listener of the thread on the core its packets arrive on (SO_INCOMING_CPU). Port 0 takes
/// any free port, the same for all threads.
///
/// # Errors
/// [`ListenError`] names the address, the cause and the next step.
pub fn listeners(
    addresses: &[SocketAddr],
    thread_count: usize,
    cores: Option<&[usize]>,
) -> Result<(Vec<Vec<Listener>>, Vec<SocketAddr>), ListenError> {
    let mut threads: Vec<Vec<Listener>> = (0..thread_count).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for address in addresses {
        let mut address = *address;
        // [::]:PORT accepts IPv4 too, unless an IPv4 address with this port is listened on as well.
        let is_same_port = |a: &SocketAddr| a.is_ipv4() && a.port() == address.port();
        let is_v6_only = address.is_ipv6() && addresses.iter().any(is_same_port);
        {
            let probe = socket(address, false, is_v6_only)?;
            bind(&probe, address)?;
            probe.listen(1).map_err(|e| listen_error(address, e))?;
            if address.port() == 0 {
                let local: TcpListener = probe.into();
                address.set_port(
                    local
                        .local_addr()
                        .map_err(|e| listen_error(address, e))?
                        .port(),
                );
            }
        }
        for (thread, own) in threads.iter_mut().enumerate() {
            let socket = socket(address, true, is_v6_only)?;
            if let Some(cores) = cores.filter(|c| !c.is_empty()) {
                // A preference: without it the kernel spreads by hash.
                let _ = socket.set_cpu_affinity(cores[thread % cores.len()]);
            }
            bind(&socket, address)?;
            socket
                .listen(BACKLOG)
                .map_err(|e| listen_error(address, e))?;
            own.push(Listener::owned(socket));
        }
        bound.push(address);
    }
    Ok((threads, bound))
}

/// Spreads listeners, such as inherited ones, over `thread_count` threads: every listener is accepted from, and every thread accepts
/// at every address. Threads share a listener when an address has fewer listeners than there are threads.
///
/// # Errors
/// No descriptor is left.
///
/// # Panics
/// Without a thread.
pub fn spread(
    listeners: Vec<Listener>,
    thread_count: usize,
) -> std::io::Result<Vec<Vec<Listener>>> {
    let mut threads: Vec<Vec<Listener>> = (0..thread_count).map(|_| Vec::new()).collect();
    let addresses: Vec<_> = listeners.iter().map(Listener::local_addr).collect();
    let mut groups: Vec<(Option<SocketAddr>, Vec<Listener>)> = Vec::new();
    for (listener, address) in listeners.into_iter().zip(addresses) {
        let address = address.ok();
        match groups.iter_mut().find(|(of, _)| *of == address) {
            Some((_, group)) => group.push(listener),
            None => groups.push((address, vec![listener])),
        }
    }
    for (_, group) in groups {
        for place in group.len()..thread_count {
            threads[place].push(group[place % group.len()].try_clone()?);
        }
        for (place, listener) in group.into_iter().enumerate() {
            threads[place % thread_count].push(listener);
        }
    }
    Ok(threads)
}

fn socket(address: SocketAddr, shared: bool, is_v6_only: bool) -> Result<Socket, ListenError> {
    let make = || -> std::io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if is_v6_only {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit it: what a handler sends at once is complete and should not wait for an acknowledgement.
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    };
    make().map_err(|e| listen_error(address, e))
}

fn bind(socket: &Socket, address: SocketAddr) -> Result<(), ListenError> {
    socket
        .bind(&address.into())
        .map_err(|e| listen_error(address, e))
}

fn listen_error(address: SocketAddr, error: std::io::Error) -> ListenError {
    let port = address.port();
    let error = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => SetupError::new(
            SetupErrorKind::InUse,
            format!("{address} is in use"),
            format!("stop the process listening on that port (ss -ltnp sport = {port}), or choose another port"),
        )
        .with_source(error),
        code => {
            let next_step = match code {
                Some(libc::EACCES) => {
                    "use a port above 1023, or sysctl -w net.ipv4.ip_unprivileged_port_start=0"
                }
                Some(libc::EADDRNOTAVAIL) => "use an address of this machine: ip address",
                Some(libc::EMFILE | libc::ENFILE) => "raise the descriptor limit: ulimit -n 20000",
                _ => "see dmesg",
            };
            SetupError::from_io(format_args!("cannot listen on {address}"), error, next_step)
        }
    };
    ListenError { address, error }
}
