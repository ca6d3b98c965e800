//! What a handler asked for by ids of connections and attempts, compared with what came of it.
//!
//! Invariants checked here: what is sent on a connection by its id comes to that connection, in order and once, unless it is closing
//! or has closed; a cancelled attempt does not open.
//! Must not depend on: rings, what the bytes mean.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::broken::Canary;
use crate::attempt::DialId;
use crate::context::{Action, ThreadRecord};
use crate::id::ConnId;
use crate::slot::Phase;

/// A callback that is to come. `None`: the connection is to close.
type Expected = Option<Vec<u8>>;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Addressed {
    open: BTreeMap<ConnId, VecDeque<Expected>>,
    /// By shard and slot: the latest connection.
    latest: HashMap<(u16, u32), ConnId>,
    cancelled: HashSet<DialId>,
    count: u64,
}

impl Addressed {
    pub fn opened(&mut self, id: ConnId, dial: Option<DialId>) {
        assert!(
            dial.is_none_or(|dial| !self.cancelled.contains(&dial)),
            "a cancelled attempt opens"
        );
        assert!(!self.open.contains_key(&id), "an id is used again");
        self.open.insert(id, VecDeque::new());
        self.latest.insert((id.shard, id.slot), id);
    }

    pub fn closed(&mut self, id: ConnId) {
        assert!(self.open.remove(&id).is_some(), "an unknown id closes");
    }

    pub fn failed(&mut self, dial: DialId) {
        self.cancelled.remove(&dial);
    }

    /// A callback returned; `from` of the thread's actions are of earlier ones. A canary changes the actions.
    pub fn asked(&mut self, thread: &mut ThreadRecord, from: usize, canary: Option<Canary>) {
        let asked: Vec<Action> = thread.actions.drain(from..).collect();
        for mut action in asked {
            match &mut action {
                Action::Send(id, bytes) => {
                    if let Some(expected) = self.open.get_mut(id) {
                        expected.push_back(Some(bytes.to_vec()));
                    } else if canary == Some(Canary::StaleIdAccepted) {
                        *id = self
                            .latest
                            .get(&(id.shard, id.slot))
                            .copied()
                            .unwrap_or(*id);
                    }
                }
                Action::Close(id) => {
                    if let Some(expected) = self.open.get_mut(id) {
                        expected.push_back(None);
                    }
                }
                Action::CancelDial(dial) => {
                    self.cancelled.insert(*dial);
                    if canary == Some(Canary::DialCancelLost) {
                        let attempt = thread.attempts.get_mut(*dial);
                        attempt.expect("it is being cancelled").is_cancelled = false;
                        continue;
                    }
                }
                _ => {}
            }
            self.count += 1;
            let is_lost = canary == Some(Canary::ActionLost) && self.count.is_multiple_of(16);
            if !is_lost || matches!(action, Action::Dial(_)) {
                thread.actions.push_back(action);
            }
        }
    }

    /// A callback by id comes.
    pub fn came(&mut self, id: ConnId, what: Expected) {
        let expected = self.open.get_mut(&id).expect("it is open").pop_front();
        assert!(
            expected == Some(what),
            "a connection is sent what was for another"
        );
    }

    /// Nothing waits in the thread's queue: what was to come has come.
    pub fn check(&self, phase: impl Fn(ConnId) -> Option<Phase>) -> Result<(), String> {
        for (id, expected) in &self.open {
            if !expected.is_empty() && phase(*id) == Some(Phase::Open) {
                return Err(format!("{} actions for {id:?} are lost", expected.len()));
            }
        }
        Ok(())
    }
}
