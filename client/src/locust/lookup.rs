//! Resolves the names of targets in the background, while the master is served.
//!
//! Invariants: a caller waits no longer than it asks to. A resolver that does not answer blocks
//! only a thread of its own, and does not delay the end of the process.
//! Must not depend on: the use of the targets.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::target::{self, Override};

/// How long a resolver may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A lookup that is under way.
#[derive(Debug)]
pub struct TargetLookup {
    texts: Vec<String>,
    since: Instant,
    answer: Receiver<Result<Vec<SocketAddr>, anyhow::Error>>,
}

impl TargetLookup {
    /// Starts to resolve `HOST:PORT` texts. `overrides` go before the resolver.
    pub fn start(texts: Vec<String>, overrides: Vec<Override>) -> Self {
        let (sender, answer) = channel();
        let targets = texts.clone();
        // Sending fails if the lookup was dropped.
        std::thread::spawn(move || sender.send(target::resolve(&targets, &overrides)));
        TargetLookup {
            texts,
            since: Instant::now(),
            answer,
        }
    }

    /// True if it resolves these targets.
    pub fn is_of(&self, texts: &[String]) -> bool {
        self.texts == texts
    }

    /// The addresses; `None` if they are not known within `wait_max`.
    ///
    /// # Errors
    /// One line, when there are none, or when the resolver does not answer.
    pub fn answer(&self, wait_max: Duration) -> Result<Option<Vec<SocketAddr>>, anyhow::Error> {
        match self.answer.recv_timeout(wait_max) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::parse_override;

    #[test]
    fn overrides_go_before_the_resolver() {
        let given = parse_override("nowhere.invalid:80:127.0.0.9").unwrap();
        let lookup = TargetLookup::start(vec!["nowhere.invalid:80".to_owned()], vec![given]);
        let found = lookup.answer(ANSWER_MAX).unwrap().unwrap();
        assert_eq!(found, ["127.0.0.9:80".parse().unwrap()]);
    }
}
