//! The addresses connections use: sources, ports, targets, and which of their combinations are in use.
//!
//! A *tuple* is one (source address, source port, target). The plan numbers all of them; each core thread owns those whose number
//! leaves its own remainder, so threads never share one. Numbers run through targets first, then addresses, then ports: neighbours
//! share a port, and one (address, port) serves all targets.
//! Targets may move to other addresses while connections are made ([`Targets::set`]); numbers stay what they are.
//! Invariants: a tuple is in use at most once; a thread cycles through all of its tuples before it reuses one, so that a port rests as
//! long as possible (TIME_WAIT).
//! Must not depend on: slots, rings, pacing.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::config::TUPLE_COUNT_MAX;
use crate::error::{SetupError, SetupErrorKind};

/// All combinations a client may use. Shared by its threads; a clone is the same plan.
#[derive(Debug, Clone)]
pub struct DialPlan {
    sources: Arc<[IpAddr]>,
    /// Ascending.
    ports: Arc<[u16]>,
    targets: Arc<RwLock<Vec<SocketAddr>>>,
    target_count: u64,
    is_ipv6: bool,
    tuple_count: u64,
}

/// The targets of a plan, to be changed while it is used. Does not keep the plan alive.
#[derive(Debug, Clone)]
pub struct Targets {
    targets: Weak<RwLock<Vec<SocketAddr>>>,
    is_ipv6: bool,
}

impl Targets {
    /// New attempts go to these addresses from now on, those of the plan's IP version: in turn, to as many of them as the plan
    /// had targets. Without an address of that version, the targets stay what they are. `false` when the plan is gone.
    pub fn set(&self, addresses: &[SocketAddr]) -> bool {
        let Some(targets) = self.targets.upgrade() else {
            return false;
        };
        let usable = addresses.iter().filter(|a| a.is_ipv6() == self.is_ipv6);
        if usable.clone().next().is_none() {
            return true;
        }
        let mut targets = targets.write().unwrap_or_else(PoisonError::into_inner);
        for (target, address) in targets.iter_mut().zip(usable.cycle()) {
            *target = *address;
        }
        true
    }
}

impl DialPlan {
    /// A plan from `sources` and `ports` to `targets`. Ports that the targets listen on are skipped, so that a client never occupies
    /// the port of a server on its own machine. At most the first `tuple_count_max` combinations are used, and never more than 2^31.
    ///
    /// # Errors
    /// [`SetupErrorKind::InvalidInput`] without sources, targets or ports, or with mixed address families.
    pub fn new(
        sources: Vec<IpAddr>,
        ports: impl IntoIterator<Item = u16>,
        targets: Vec<SocketAddr>,
        tuple_count_max: u64,
    ) -> Result<Self, SetupError> {
        let is_listening = |port: &u16| targets.iter().any(|t| t.port() == *port);
        let mut ports: Vec<u16> = ports.into_iter().filter(|p| !is_listening(p)).collect();
        ports.sort_unstable();
        ports.dedup();
        if targets.is_empty() || sources.is_empty() || ports.is_empty() {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "{} targets, {} sources, {} ports give no address",
                    targets.len(),
                    sources.len(),
                    ports.len()
                ),
                "name at least one of each: --target, --source, --ports",
            ));
        }
        let is_ipv6 = targets[0].is_ipv6();
        if targets.iter().any(|t| t.is_ipv6() != is_ipv6)
            || sources.iter().any(|s| s.is_ipv6() != is_ipv6)
        {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                "IPv4 and IPv6 are mixed",
                "give sources and targets of one family",
            ));
        }
        let target_count = targets.len() as u64;
        let all = sources.len() as u64 * ports.len() as u64 * target_count;
        let tuple_count = all.min(tuple_count_max).min(TUPLE_COUNT_MAX);
        Ok(DialPlan {
            sources: sources.into(),
            ports: ports.into(),
            targets: Arc::new(RwLock::new(targets)),
            target_count,
            is_ipv6,
            tuple_count,
        })
    }

    /// Connections the plan allows at once.
    pub fn tuple_count(&self) -> u64 {
        self.tuple_count
    }

    /// Source addresses.
    pub fn source_count(&self) -> usize {
        self.sources.len()
    }

    /// Ports used of each source address.
    pub fn port_count(&self) -> u32 {
        self.ports.len() as u32
    }

    /// True if the targets are IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// The targets, to be changed while the plan is used.
    pub fn targets(&self) -> Targets {
        Targets {
            targets: Arc::downgrade(&self.targets),
            is_ipv6: self.is_ipv6,
        }
    }

    /// Source and target of tuple `number`.
    pub fn tuple(&self, number: u64) -> (SocketAddr, SocketAddr) {
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        let target = targets[(number % self.target_count) as usize];
        let number = number / self.target_count;
        let source_count = self.sources.len() as u64;
        let source = self.sources[(number % source_count) as usize];
        let port = self.ports[(number / source_count) as usize];
        (SocketAddr::new(source, port), target)
    }
}

/// One thread's share of a plan, and which tuples are in use.
#[derive(Debug)]
pub struct Tuples {
    plan: DialPlan,
    share: u64,
    share_count: u64,
    count: u64,
    cursor: u64,
    used_count: u64,
    used: Vec<u64>,
}

impl Tuples {
    /// The tuples of thread `share` of `share_count`.
    pub fn new(plan: &DialPlan, share: u64, share_count: u64) -> Self {
        let count = (plan.tuple_count() + share_count - 1 - share) / share_count;
        Tuples {
            plan: plan.clone(),
            share,
            share_count,
            count,
            cursor: 0,
            used_count: 0,
            used: vec![0; count.div_ceil(64) as usize],
        }
    }

    /// Tuples of this thread, used or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next free tuple: its number in this share, source and target.
    pub fn take(&mut self) -> Option<(u32, (SocketAddr, SocketAddr))> {
        if self.used_count == self.count {
            return None;
        }
        while self.used[(self.cursor / 64) as usize] >> (self.cursor % 64) & 1 == 1 {
            self.cursor = (self.cursor + 1) % self.count;
        }
        let own = self.cursor;
        self.cursor = (self.cursor + 1) % self.count;
        self.used[(own / 64) as usize] |= 1 << (own % 64);
        self.used_count += 1;
        Some((own as u32, self.addresses(own as u32)))
    }

    /// Source and target of a tuple now, by its number in this share.
    pub fn addresses(&self, own: u32) -> (SocketAddr, SocketAddr) {
        let number = u64::from(own) * self.share_count + self.share;
        self.plan.tuple(number)
    }

    /// Releases a tuple, by its number in this share.
    pub fn release(&mut self, own: u32) {
        let bit = 1 << (own % 64);
        let word = &mut self.used[own as usize / 64];
        assert!(*word & bit != 0, "a tuple is released once");
        *word &= !bit;
        self.used_count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::ops::RangeInclusive;

    fn plan(
        sources: &[&str],
        ports: RangeInclusive<u16>,
        targets: &[&str],
    ) -> Result<DialPlan, SetupError> {
        let sources = sources.iter().map(|s| s.parse().unwrap()).collect();
        DialPlan::new(
            sources,
            ports,
            targets.iter().map(|t| t.parse().unwrap()).collect(),
            u64::MAX,
        )
    }

    #[test]
    fn every_tuple_once_and_never_a_target_port() {
        let plan = plan(
            &["127.0.0.1", "127.0.0.2"],
            1000..=1009,
            &["127.0.0.1:1003", "127.0.0.9:1003"],
        )
        .unwrap();
        assert_eq!(plan.tuple_count(), 2 * 9 * 2);
        let all: HashSet<_> = (0..plan.tuple_count()).map(|n| plan.tuple(n)).collect();
        assert_eq!(all.len(), 36);
        assert!(
            all.iter()
                .all(|(source, _)| (1000..=1009).contains(&source.port()) && source.port() != 1003)
        );
    }

    #[test]
    fn all_64511_ports_of_one_address() {
        let plan = plan(&["127.0.0.1"], 1024..=65535, &["127.0.0.1:7070"]).unwrap();
        assert_eq!(plan.tuple_count(), 64_511);
        assert_eq!(plan.tuple(64_510).0.port(), 65_535);
    }

    #[test]
    fn shares_are_disjoint_and_complete() {
        let plan = plan(&["127.0.0.1"], 2000..=2100, &["127.0.0.1:80"]).unwrap();
        let mut seen = HashSet::new();
        for share in 0..3 {
            let mut tuples = Tuples::new(&plan, share, 3);
            while let Some((_, addresses)) = tuples.take() {
                assert!(seen.insert(addresses));
            }
        }
        assert_eq!(seen.len(), 101);
    }

    #[test]
    fn released_tuple_is_reused_last() {
        let plan = plan(&["127.0.0.1"], 2000..=2002, &["127.0.0.1:80"]).unwrap();
        let mut tuples = Tuples::new(&plan, 0, 1);
        let first = tuples.take().unwrap().0;
        tuples.release(first);
        assert_eq!([1, 2, 0], [(); 3].map(|()| tuples.take().unwrap().0));
        assert_eq!(tuples.take(), None);
    }

    #[test]
    fn families_do_not_mix() {
        assert!(plan(&["127.0.0.1"], 1..=2, &["[::1]:80"]).is_err());
        assert!(plan(&[], 1..=2, &["127.0.0.1:80"]).is_err());
    }

    #[test]
    fn targets_move_within_their_family_while_the_plan_lives() {
        let plan = plan(
            &["127.0.0.1"],
            2000..=2001,
            &["127.0.0.1:80", "127.0.0.2:80"],
        )
        .unwrap();
        let targets = plan.targets();
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|t| t.parse().unwrap()).collect()
        };
        assert!(targets.set(&addresses(&["[::1]:80", "127.0.0.3:80"])));
        assert_eq!(
            [0, 1].map(|n| plan.tuple(n).1.to_string()),
            ["127.0.0.3:80"; 2]
        );
        assert!(targets.set(&addresses(&["[::1]:80"])), "kept: none fits");
        assert_eq!(plan.tuple(0).1.to_string(), "127.0.0.3:80");
        drop(plan);
        assert!(!targets.set(&addresses(&["127.0.0.4:80"])));
    }
}
