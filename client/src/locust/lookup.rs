//! Names of targets into addresses, while the master is served.
//!
//! Invariants: whoever asks for the answer waits no longer than they say. A resolver that does not answer keeps a thread of its own, and
//! nothing else; the process does not wait for it when it ends.
//! Must not know: what the targets are for.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::target;

/// A resolver that says nothing for so long is not waited for.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Targets that are being looked up.
#[derive(Debug)]
pub struct Lookup {
    texts: Vec<String>,
    since: Instant,
    answer: Receiver<Result<Vec<SocketAddr>, anyhow::Error>>,
}

impl Lookup {
    /// Begins to look up `HOST:PORT` texts.
    pub fn start(texts: Vec<String>) -> Self {
        let (sender, answer) = channel();
        let asked = texts.clone();
        // Nobody may hear it any more.
        std::thread::spawn(move || sender.send(target::resolve(&asked, &[])));
        Lookup {
            texts,
            since: Instant::now(),
            answer,
        }
    }

    /// Whether it is these that are looked up.
    pub fn is_of(&self, texts: &[String]) -> bool {
        self.texts == texts
    }

    /// The addresses, if they are known within `patience`; `None`: not yet.
    ///
    /// # Errors
    /// One line, when there are none, or when the resolver does not answer.
    pub fn answer(&self, patience: Duration) -> Result<Option<Vec<SocketAddr>>, anyhow::Error> {
        match self.answer.recv_timeout(patience) {
            Ok(answer) => answer.map(Some),
            Err(RecvTimeoutError::Timeout) if self.since.elapsed() < ANSWER_MAX => Ok(None),
            Err(_) => anyhow::bail!(
                "cannot resolve target '{}' (the resolver has not answered for {} s); next: give addresses instead of names, or look at \
                 /etc/resolv.conf on this host",
                self.texts.join("', '"),
                ANSWER_MAX.as_secs()
            ),
        }
    }
}
