//! A server of the test's own: a thread that accepts and gives each connection to a closure.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_telemetry::wire::ClientReport;
use nix::sys::signal::Signal;

use crate::common::{Outcome, PATIENCE, Running};

/// Accepts until dropped.
pub struct Peer {
    pub address: SocketAddr,
    accepted: Arc<Mutex<Vec<Accepted>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One connection: when it came and from where. It stays open as long as this, if it was kept.
pub struct Accepted {
    pub at: Instant,
    pub from: SocketAddr,
    kept: Option<TcpStream>,
}

impl Peer {
    /// `serve` gets the number of the connection and the connection, and gives it back to keep it
    /// open.
    pub fn start(
        serve: impl FnMut(usize, TcpStream) -> Option<TcpStream> + Send + 'static,
    ) -> Self {
        Peer::on((Ipv4Addr::LOCALHOST, 0).into(), serve)
    }

    pub fn on(
        address: SocketAddr,
        mut serve: impl FnMut(usize, TcpStream) -> Option<TcpStream> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a flag");
        let address = listener.local_addr().expect("bound");
        let (accepted, is_over) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (list, over) = (Arc::clone(&accepted), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                let Ok((stream, from)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let at = Instant::now();
                stream.set_nonblocking(false).expect("a flag");
                let kept = serve(number, stream);
                number += 1;
                list.lock().unwrap().push(Accepted { at, from, kept });
            }
        });
        Peer {
            address,
            accepted,
            is_over,
            thread: Some(thread),
        }
    }

    /// A peer that holds connections and says nothing.
    pub fn silent() -> Self {
        Peer::start(|_, stream| Some(stream))
    }

    pub fn accepted(&self) -> MutexGuard<'_, Vec<Accepted>> {
        self.accepted.lock().unwrap()
    }

    /// Waits for the client's end of each connection that was kept, then ends it too, as a server
    /// does.
    pub fn answer_ends(self) {
        for accepted in self.accepted().drain(..) {
            if let Some(mut stream) = accepted.kept {
                stream.set_read_timeout(Some(PATIENCE)).expect("an option");
                std::io::copy(&mut stream, &mut std::io::sink()).expect("the client's FIN");
            }
        }
    }

    /// Asks users of this peer alone for an end in order, answers theirs, and waits for it.
    pub fn stop(self, users: Running<ClientReport>) -> Outcome<ClientReport> {
        users.signal(Signal::SIGTERM);
        self.answer_ends();
        users.outcome()
    }

    pub fn count(&self) -> usize {
        self.accepted().len()
    }

    /// Connections in each tenth of a second since the first one, of the first twenty seconds.
    pub fn windows(&self) -> [usize; 200] {
        let accepted = self.accepted();
        let mut windows = [0; 200];
        for one in accepted.iter() {
            let window = one.at.duration_since(accepted[0].at).as_millis() as usize / 100;
            windows[window.min(199)] += 1;
        }
        windows
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            assert!(std::thread::panicking(), "the peer failed");
        }
    }
}

/// Ends a connection with a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("an option");
}
