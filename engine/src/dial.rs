//! The addresses connections use: sources, ports, targets, and which of their combinations are in use.
//!
//! A *tuple* is one (source address, source port, target). The plan numbers all of them; each core thread owns those whose number
//! leaves its own remainder, so threads never share one. Numbers run through targets first, then addresses, then ports: neighbours
//! share a port, and one (address, port) serves all targets.
//! Plans may be joined to one with several *groups* of targets ([`DialPlan::joined`]): the handler then chooses the group of each
//! attempt. The numbers of a group follow those of the one before it.
//! Targets may move to other addresses while connections are made ([`Targets::set`]); numbers stay what they are.
//! Invariants: a tuple is in use at most once; a thread cycles through all of its tuples before it reuses one, so that a port rests as
//! long as possible (TIME_WAIT).
//! Must not depend on: slots, rings, pacing.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::config::TUPLE_COUNT_MAX;
use crate::error::{SetupError, SetupErrorKind};

/// Most groups of a plan: as many as a number of 16 bits names.
const GROUP_COUNT_MAX: usize = 1 << 16;

/// All combinations a client may use. Shared by its threads; a clone is the same plan.
#[derive(Debug, Clone)]
pub struct DialPlan {
    groups: Arc<[Group]>,
    tuple_count: u64,
}

/// Sources and targets of which every combination is possible.
#[derive(Debug, Clone)]
struct Group {
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
        let group = Group {
            sources: sources.into(),
            ports: ports.into(),
            targets: Arc::new(RwLock::new(targets)),
            target_count,
            is_ipv6,
            tuple_count,
        };
        Ok(DialPlan {
            groups: [group].into(),
            tuple_count,
        })
    }

    /// Several plans as one. Each becomes a group of targets, numbered in this order from 0, that
    /// [`Context::dial_planned_to`](crate::Context::dial_planned_to) chooses. Groups may differ in everything, also in IP version; what
    /// [`DialPlan::targets`] of a plan gave keeps its meaning.
    ///
    /// # Errors
    /// [`SetupErrorKind::InvalidInput`] without plans, with more than 65,536 groups, or with more than 2^31 combinations together.
    pub fn joined(plans: impl IntoIterator<Item = DialPlan>) -> Result<Self, SetupError> {
        let plans: Vec<DialPlan> = plans.into_iter().collect();
        let groups: Vec<Group> = plans.iter().flat_map(|p| p.groups.to_vec()).collect();
        let tuple_count = groups.iter().map(|group| group.tuple_count).sum();
        if !(1..=GROUP_COUNT_MAX).contains(&groups.len()) || tuple_count > TUPLE_COUNT_MAX {
            return Err(SetupError::new(
                SetupErrorKind::InvalidInput,
                format!(
                    "{} groups of targets with {tuple_count} combinations of addresses are too few or too many",
                    groups.len()
                ),
                "give 1 to 65536 groups with at most 2147483648 combinations: fewer --target, --source or --ports",
            ));
        }
        Ok(DialPlan {
            groups: groups.into(),
            tuple_count,
        })
    }

    /// The only group, or the first one.
    fn first(&self) -> &Group {
        &self.groups[0]
    }

    /// Groups of targets: 1, or as many as were [joined](DialPlan::joined).
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Connections the plan allows at once, over all groups.
    pub fn tuple_count(&self) -> u64 {
        self.tuple_count
    }

    /// Source addresses of the first group.
    pub fn source_count(&self) -> usize {
        self.first().sources.len()
    }

    /// Ports used of each source address of the first group.
    pub fn port_count(&self) -> u32 {
        self.first().ports.len() as u32
    }

    /// True if the targets of the first group are IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.first().is_ipv6
    }

    /// The targets of the first group, to be changed while the plan is used.
    pub fn targets(&self) -> Targets {
        Targets {
            targets: Arc::downgrade(&self.first().targets),
            is_ipv6: self.is_ipv6(),
        }
    }

    /// Source and target of tuple `number`: those of the first group first.
    pub fn tuple(&self, number: u64) -> (SocketAddr, SocketAddr) {
        let mut number = number;
        for group in &self.groups[..self.groups.len() - 1] {
            if number < group.tuple_count {
                return group.tuple(number);
            }
            number -= group.tuple_count;
        }
        self.groups[self.groups.len() - 1].tuple(number)
    }
}

impl Group {
    /// Source and target of tuple `number` of the group.
    fn tuple(&self, number: u64) -> (SocketAddr, SocketAddr) {
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
    groups: Vec<GroupTuples>,
    count: u64,
}

/// One thread's share of a group.
#[derive(Debug)]
struct GroupTuples {
    group: Group,
    /// The number of its first tuple in the thread's share of the plan.
    first: u32,
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
        let mut count = 0;
        let groups = plan.groups.iter().map(|group| {
            let first = count as u32;
            let group = GroupTuples::new(group, first, share, share_count);
            count += group.count;
            group
        });
        Tuples {
            groups: groups.collect(),
            count,
        }
    }

    /// Tuples of this thread, used or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next free tuple of a group: its number in this share, source and target.
    ///
    /// # Panics
    /// When the plan has no such group.
    pub fn take(&mut self, group: u16) -> Option<(u32, (SocketAddr, SocketAddr))> {
        let group = &mut self.groups[usize::from(group)];
        let own = group.take()?;
        Some((group.first + own, group.addresses(own)))
    }

    /// The group of a tuple, by its number in this share.
    pub fn group(&self, own: u32) -> u16 {
        // Groups without a tuple begin where the next one does.
        (self.groups.partition_point(|group| group.first <= own) - 1) as u16
    }

    /// Source and target of a tuple now, by its number in this share.
    pub fn addresses(&self, own: u32) -> (SocketAddr, SocketAddr) {
        let group = &self.groups[usize::from(self.group(own))];
        group.addresses(own - group.first)
    }

    /// Releases a tuple, by its number in this share.
    pub fn release(&mut self, own: u32) {
        let group = usize::from(self.group(own));
        let group = &mut self.groups[group];
        group.release(own - group.first);
    }
}

impl GroupTuples {
    fn new(group: &Group, first: u32, share: u64, share_count: u64) -> Self {
        let count = (group.tuple_count + share_count - 1 - share) / share_count;
        GroupTuples {
            group: group.clone(),
            first,
            share,
            share_count,
            count,
            cursor: 0,
            used_count: 0,
            used: vec![0; count.div_ceil(64) as usize],
        }
    }

    fn take(&mut self) -> Option<u32> {
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
        Some(own as u32)
    }

    fn addresses(&self, own: u32) -> (SocketAddr, SocketAddr) {
        let number = u64::from(own) * self.share_count + self.share;
        self.group.tuple(number)
    }

    fn release(&mut self, own: u32) {
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
            while let Some((_, addresses)) = tuples.take(0) {
                assert!(seen.insert(addresses));
            }
        }
        assert_eq!(seen.len(), 101);
    }

    #[test]
    fn released_tuple_is_reused_last() {
        let plan = plan(&["127.0.0.1"], 2000..=2002, &["127.0.0.1:80"]).unwrap();
        let mut tuples = Tuples::new(&plan, 0, 1);
        let first = tuples.take(0).unwrap().0;
        tuples.release(first);
        assert_eq!([1, 2, 0], [(); 3].map(|()| tuples.take(0).unwrap().0));
        assert_eq!(tuples.take(0), None);
    }

    #[test]
    fn groups_share_no_tuple_and_each_has_its_own_targets() {
        // One of two threads has no tuple of the second group.
        let plans = [
            plan(&["127.0.0.1"], 2000..=2004, &["127.0.0.1:80"]),
            plan(&["::1"], 2000..=2000, &["[::1]:80"]),
            plan(
                &["127.0.0.1"],
                2000..=2002,
                &["127.0.0.1:81", "127.0.0.2:81"],
            ),
        ]
        .map(Result::unwrap);
        let moved = plans[2].targets();
        let plan = DialPlan::joined(plans).unwrap();
        assert_eq!((plan.group_count(), plan.tuple_count()), (3, 5 + 1 + 6));
        let all: HashSet<_> = (0..12).map(|number| plan.tuple(number)).collect();
        assert_eq!(all.len(), 12);
        let mut seen = HashSet::new();
        for share in 0..2 {
            let mut tuples = Tuples::new(&plan, share, 2);
            for (group, port) in [(2_u16, 81), (0, 80), (1, 80)] {
                while let Some((own, addresses)) = tuples.take(group) {
                    assert_eq!((tuples.group(own), addresses.1.port()), (group, port));
                    assert_eq!(tuples.addresses(own), addresses);
                    assert!(seen.insert(addresses));
                }
            }
            for own in 0..tuples.count() as u32 {
                tuples.release(own);
            }
        }
        assert_eq!(seen, all);
        assert!(moved.set(&["127.0.0.3:81".parse().unwrap()]));
        assert_eq!(plan.tuple(11).1.to_string(), "127.0.0.3:81");
        assert_eq!(plan.tuple(0).1.to_string(), "127.0.0.1:80");
        assert!(DialPlan::joined([]).is_err());
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
