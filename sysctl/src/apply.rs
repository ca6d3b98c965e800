//! Writing the settings of a plan, and putting back what was there.
//!
//! Invariants: before the first key is written, what all keys were is saved and synced, so that a crash at any point can be undone;
//! one key that fails does not keep the others from being written or put back, and is reported; what failed and did not change is not
//! remembered as ours. A user who may change nothing changes nothing.
//! Must not know: how anything is shown.

use serde::Serialize;

use crate::plan::{Plan, Row};
use crate::setting::Kind;
use crate::state::State;
use crate::values::{Now, read, write};
use crate::{Shortfall, grouped};

/// What became of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The setting.
    pub key: String,
    /// Its value before this run.
    pub before: String,
    /// What was to be written.
    pub wanted: String,
    /// Its value after; `None` if it is gone.
    pub after: Option<String>,
    /// Why it could not be written.
    pub error: Option<String>,
    /// Worth knowing: somebody else had changed it meanwhile.
    pub note: Option<String>,
}

/// What became of all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// In the order they were written.
    pub changes: Vec<Change>,
    /// Worth knowing.
    pub note: Option<String>,
}

impl Outcome {
    /// How many keys could not be written.
    pub fn failed_count(&self) -> usize {
        self.changes.iter().filter(|c| c.error.is_some()).count()
    }
}

/// The rows of a plan that `apply` writes.
pub fn to_write(plan: &Plan) -> impl Iterator<Item = (&Row, &str)> {
    plan.rows
        .iter()
        .filter(|row| row.kind == Kind::Sysctl)
        .filter_map(|row| Some((row, row.write.as_deref()?)))
}

/// Writes what a plan wants written.
///
/// # Errors
/// When nothing was written: only root may, or the state cannot be kept.
pub fn apply(
    plan: &Plan,
    state: impl FnOnce() -> Result<State, Shortfall>,
) -> Result<Outcome, Shortfall> {
    let rows: Vec<(&Row, &str)> = to_write(plan).collect();
    if rows.is_empty() {
        return Ok(Outcome::default());
    }
    if rows.iter().all(|(row, _)| row.needs_root) {
        return Err(Shortfall::new(
            format!(
                "only root may change the {} setting{} that should be changed; nothing was changed",
                grouped(rows.len() as u64),
                if rows.len() == 1 { "" } else { "s" }
            ),
            format!("sudo {}", crate::plan::command("apply", &plan.asked)),
        ));
    }
    let mut state = state()?;
    let mut outcome = Outcome::default();
    if state.is_of_another_boot {
        state.begin_anew();
        outcome.note = Some("the saved state was of another boot: replaced".into());
    }
    let known: Vec<String> = state.settings.iter().map(|s| s.key.clone()).collect();
    for (row, wanted) in &rows {
        state.note(&row.key, row.now.as_deref().unwrap_or_default(), wanted);
    }
    state.save()?;
    for (row, wanted) in rows {
        let before = row.now.clone().unwrap_or_default();
        let error = write(&row.key, wanted).err();
        let after = read(&row.key).value().map(str::to_owned);
        // What the kernel made of it is ours as well, not somebody else's.
        state.note(&row.key, &before, after.as_deref().unwrap_or(wanted));
        if error.is_some() && after.as_ref() == Some(&before) && !known.contains(&row.key) {
            state.settings.retain(|saved| saved.key != row.key);
        }
        outcome.changes.push(Change {
            key: row.key.clone(),
            before,
            wanted: wanted.to_owned(),
            after,
            error,
            note: None,
        });
    }
    state.save()?;
    Ok(outcome)
}

/// Puts back what was there, last change first. With `is_dry` only says what would be.
///
/// # Errors
/// When the state cannot be kept up.
pub fn restore(mut state: State, is_dry: bool) -> Result<Outcome, Shortfall> {
    let mut outcome = Outcome::default();
    if state.is_of_another_boot {
        outcome.note = Some(
            "the saved state was of another boot: the kernel has begun anew since, so nothing is put back".into(),
        );
        if !is_dry {
            state.begin_anew();
            state.save()?;
        }
        return Ok(outcome);
    }
    let mut left = Vec::new();
    for saved in state.settings.iter().rev() {
        let now = read(&saved.key);
        let before = now.value().unwrap_or_default().to_owned();
        let note = (now
            .value()
            .is_some_and(|now| now != saved.set && now != saved.before))
        .then(|| {
            format!(
                "somebody else had set it since: {before}, not {}",
                saved.set
            )
        });
        let error = match &now {
            Now::Absent => Some("no longer there".to_owned()),
            Now::Is(now) if *now == saved.before => None,
            _ if is_dry => None,
            _ => write(&saved.key, &saved.before).err(),
        };
        if error.is_some() && now != Now::Absent {
            left.push(saved.clone());
        }
        outcome.changes.push(Change {
            key: saved.key.clone(),
            before,
            wanted: saved.before.clone(),
            after: read(&saved.key).value().map(str::to_owned),
            error,
            note,
        });
    }
    if !is_dry {
        left.reverse();
        state.settings = left;
        state.save()?;
    }
    Ok(outcome)
}
