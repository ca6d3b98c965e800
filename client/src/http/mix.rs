//! The URLs that users request, and in which order: those of `--target` or `--targets-file`.
//!
//! Each request has the next URL in turn, whichever user sends it; of URLs with weights, each has its share of the turns. Where the
//! URLs lead to several servers, a user keeps to one of them, since its connection does, and takes turns among that server's URLs: users
//! then are shared out by weight. With a connection for each request, every request has the next URL of all. Each thread takes turns of
//! its own.
//! Invariants: a turn's URL is found in constant time; every URL has a turn.
//! Must not depend on: connections, addresses.

use std::sync::Arc;

use super::request::Batch;
use super::url::{self, Url};
use crate::turns::{self, Turns};

/// Most URLs.
pub const URL_COUNT_MAX: usize = 10_000;

/// What is requested, in turns.
#[derive(Debug, Clone)]
pub struct Mix {
    batches: Arc<[Batch]>,
    weights: Arc<[u64]>,
    /// Of all URLs.
    turns: Turns,
    /// Where there are several servers.
    servers: Option<Servers>,
}

/// Which URLs are of which server.
#[derive(Debug, Clone)]
struct Servers {
    /// The server of each URL.
    of_urls: Arc<[u16]>,
    /// One URL of each server.
    first_urls: Arc<[u16]>,
    /// Places in `urls` of each server.
    turns: Vec<Turns>,
    urls: Arc<[Vec<u16>]>,
    /// Servers, by the numbers of users.
    users: Turns,
}

impl Mix {
    /// All requests are the same.
    pub fn one(batch: Batch) -> Self {
        Mix {
            batches: [batch].into(),
            weights: [1].into(),
            turns: Turns::new(&[1]).expect("a single weight"),
            servers: None,
        }
    }

    /// Batches of equal counts by weight.
    ///
    /// # Errors
    /// One line when there are none or too many, or the turns they share are too many.
    pub fn new(batches: Vec<(Batch, u64)>) -> Result<Self, anyhow::Error> {
        if batches.is_empty() || batches.len() > URL_COUNT_MAX {
            anyhow::bail!(
                "{} URLs are given; next: give 1 to {URL_COUNT_MAX}",
                batches.len()
            );
        }
        let (batches, weights): (Vec<_>, Vec<_>) = batches.into_iter().unzip();
        Ok(Mix {
            turns: Turns::new(&weights)?,
            batches: batches.into(),
            weights: weights.into(),
            servers: None,
        })
    }

    /// The same, with the server of each URL, numbered from 0. Returns the turns of servers that users of `thread_count` threads take by
    /// their numbers.
    ///
    /// # Errors
    /// As of [`Mix::new`].
    pub fn set_servers(
        &mut self,
        of_urls: Vec<u16>,
        thread_count: usize,
    ) -> Result<Turns, anyhow::Error> {
        let count = usize::from(of_urls.iter().copied().max().unwrap_or_default()) + 1;
        let mut urls = vec![Vec::new(); count];
        let mut url_weights = vec![Vec::new(); count];
        for (url, (server, weight)) in of_urls.iter().zip(&*self.weights).enumerate() {
            urls[usize::from(*server)].push(url as u16);
            url_weights[usize::from(*server)].push(*weight);
        }
        let weights = url_weights.iter().map(|weights| weights.iter().sum());
        let users = Turns::new(&weights.collect::<Vec<u64>>())?.spread_over(thread_count);
        self.servers = (count > 1)
            .then(|| -> Result<Servers, anyhow::Error> {
                let turns = url_weights.iter().map(|weights| Turns::new(weights));
                Ok(Servers {
                    of_urls: of_urls.into(),
                    first_urls: urls.iter().map(|urls| urls[0]).collect(),
                    turns: turns.collect::<Result<_, _>>()?,
                    urls: urls.into(),
                    users: users.clone(),
                })
            })
            .transpose()?;
        Ok(users)
    }

    /// True if the URLs lead to several servers.
    pub fn has_servers(&self) -> bool {
        self.servers.is_some()
    }

    /// The server that a URL leads to.
    #[inline]
    pub fn server(&self, url: u16) -> u16 {
        match &self.servers {
            None => 0,
            Some(servers) => servers.of_urls[usize::from(url)],
        }
    }

    /// A URL of the server that user `number` keeps to.
    pub fn url_of_user(&self, number: u64) -> u16 {
        match &self.servers {
            None => 0,
            Some(servers) => servers.first_urls[usize::from(servers.users.at(number))],
        }
    }

    /// Begins where thread `share` of `share_count` does, so that few requests are not all the first URL's.
    pub fn start_at(&mut self, share: usize, share_count: usize) {
        self.turns.start_at(share, share_count);
        for turns in self.servers.iter_mut().flat_map(|s| &mut s.turns) {
            turns.start_at(share, share_count);
        }
    }

    /// The number of the batch whose turn it is among all.
    #[inline]
    pub fn take_turn(&mut self) -> u16 {
        self.turns.take()
    }

    /// The number of the batch whose turn it is among those of the server that `url` leads to.
    #[inline]
    pub fn take_turn_beside(&mut self, url: u16) -> u16 {
        match &mut self.servers {
            None => self.turns.take(),
            Some(servers) => {
                let server = usize::from(servers.of_urls[usize::from(url)]);
                let place = servers.turns[server].take();
                servers.urls[server][usize::from(place)]
            }
        }
    }

    /// The batch of a turn.
    #[inline]
    pub fn batch(&self, number: u16) -> &Batch {
        &self.batches[usize::from(number)]
    }

    /// Requests of a batch.
    #[inline]
    pub fn count(&self) -> u8 {
        self.batches[0].count()
    }

    /// Different batches.
    pub fn batch_count(&self) -> usize {
        self.batches.len()
    }
}

/// Parses a file of `URL [WEIGHT]` lines. Empty lines and those that begin with `#` say nothing.
///
/// # Errors
/// The number of the first bad line, and what is wrong with it.
pub fn parse_targets(text: &str) -> Result<Vec<(Url, u64)>, String> {
    turns::parse_lines(text, ("a URL", "http://192.0.2.1:8080/path"), url::parse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::{Parts, render};

    fn mix(weights: &[u64]) -> Result<Mix, anyhow::Error> {
        let url = url::parse("http://a/").unwrap();
        let parts = Parts {
            method: "GET".to_owned(),
            count: 1,
            ..Parts::default()
        };
        let batch = render(&url, &parts).unwrap();
        Mix::new(weights.iter().map(|weight| (batch, *weight)).collect())
    }

    #[test]
    fn users_keep_to_a_server_and_take_turns_among_its_urls() {
        assert!(mix(&[]).is_err());
        let mut mix = mix(&[1, 2, 3, 4]).unwrap();
        assert_eq!((mix.server(3), mix.url_of_user(7)), (0, 0), "one server");
        let users = mix.set_servers(vec![0, 1, 0, 2], 1).unwrap();
        assert_eq!(users.shares(100, 3), [40, 20, 40]);
        for number in 0..10 {
            let url = mix.url_of_user(number);
            assert_eq!(mix.server(url), users.at(number));
        }
        let beside: Vec<_> = (0..8).map(|_| mix.take_turn_beside(2)).collect();
        assert_eq!(beside.iter().filter(|url| **url == 0).count(), 2);
        assert_eq!(beside.iter().filter(|url| **url == 2).count(), 6);
        assert_eq!([mix.take_turn_beside(1), mix.take_turn_beside(3)], [1, 3]);
        let all: Vec<_> = (0..10).map(|_| mix.take_turn()).collect();
        for (url, count) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            assert_eq!(all.iter().filter(|n| **n == url).count(), count);
        }
        mix.set_servers(vec![0; 4], 1).unwrap();
        assert!(!mix.has_servers());
    }

    #[test]
    fn files_of_urls_are_read_and_bad_lines_named() {
        let text = "# mix\nhttp://a/x\n\n  http://a/y\t3 \r\na:80/z 1k\n";
        let found = parse_targets(text).unwrap();
        let found: Vec<_> = found.iter().map(|(url, w)| (&*url.path, *w)).collect();
        assert_eq!(found, [("/x", 1), ("/y", 3), ("/z", 1_000)]);
        for (text, words) in [
            ("", "no line"),
            ("# only\n\n", "no line"),
            ("http://a/\nhttps://a/\n", "line 2: https"),
            ("http://a/ 0", "line 1: 0 is out of range"),
            ("http://a/ many", "line 1: 'many' is not a count"),
            ("http://a/ 1 2", "line 1: '1 2' is not a count"),
            ("http://a/\n\n\nnot a url\n", "line 4: "),
        ] {
            let error = parse_targets(text).unwrap_err();
            assert!(
                error.starts_with(words) && error.contains("; next: "),
                "{text:?}: {error}"
            );
        }
    }
}
