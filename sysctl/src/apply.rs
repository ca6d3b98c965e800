//! Writing the settings of a plan, and restoring the previous values.
//!
//! Invariants: before the first key is written, the previous values of all keys are saved and
//! synced, so that a crash at any point can be undone; a key that fails does not keep the others
//! from being written or restored, and is reported; a key that failed and did not change is not
//! recorded as ours. Restoring writes only keys that a profile knows, or of `net.*`, and values of
//! their kind: a state file decides neither. A user without the right changes nothing.
//! Must not depend on: how anything is shown.

use holdfast_engine::{SetupError, SetupErrorKind};
use serde::Serialize;

use crate::cli::shell_word;
use crate::grouped;
use crate::plan::{Plan, Row};
use crate::profile::{Profile, Role, built_in};
use crate::setting::{Kind, is_plain};
use crate::state::{Saved, State};
use crate::values::{Now, read, write};

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The setting.
    pub key: String,
    /// Its value before this run.
    pub before: String,
    /// The value to write.
    pub wanted: String,
    /// Its value afterwards; `None` if the key is gone.
    pub after: Option<String>,
    /// Why it could not be written.
    pub error: Option<String>,
    /// A note, such as that another program changed it in between.
    pub note: Option<String>,
}

/// What happened to all keys.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// In the order they were written.
    pub changes: Vec<Change>,
    /// A note.
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

/// Writes the settings of a plan.
///
/// # Errors
/// When nothing was written: only root may, or the previous values cannot be saved.
pub fn apply(
    plan: &Plan,
    state: impl FnOnce() -> Result<State, SetupError>,
) -> Result<Outcome, SetupError> {
    let rows: Vec<(&Row, &str)> = to_write(plan).collect();
    if rows.is_empty() {
        return Ok(Outcome::default());
    }
    if rows.iter().all(|(row, _)| row.needs_root) {
        return Err(SetupError::new(
            SetupErrorKind::NotPermitted,
            format!(
                "only root may change the {} setting{}; nothing was changed",
                grouped(rows.len() as u64),
                if rows.len() == 1 { "" } else { "s" }
            ),
            format!("sudo {}", crate::plan::command("apply", &plan.asked)),
        ));
    }
    let mut state = state()?;
    let mut outcome = Outcome::default();
    if state.is_of_another_boot {
        state.reset();
        outcome.note = Some("the saved state was of another boot: replaced".into());
    }
    let known: Vec<String> = state.settings.iter().map(|s| s.key.clone()).collect();
    for (row, wanted) in &rows {
        state.record(&row.key, row.now.as_deref().unwrap_or_default(), wanted);
    }
    state.save()?;
    for (row, wanted) in rows {
        let before = row.now.clone().unwrap_or_default();
        let error = write(&row.key, wanted).err();
        let after = read(&row.key).value().map(str::to_owned);
        // A value that the kernel adjusted is ours as well, not another program's.
        state.record(&row.key, &before, after.as_deref().unwrap_or(wanted));
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

/// Restores the previous values, the last change first. With `is_dry` only reports what would be
/// done. Keys other than those of the built-in profiles and `net.*` must be in one of `profiles`.
///
/// # Errors
/// When the state has a key or a value that it may not have, or cannot be updated.
pub fn restore(
    mut state: State,
    profiles: &[Profile],
    is_dry: bool,
) -> Result<Outcome, SetupError> {
    let mut outcome = Outcome::default();
    if state.is_of_another_boot {
        outcome.note = Some(
            "the saved state was of another boot: settings have had their defaults since, so nothing is restored".into(),
        );
        if !is_dry {
            state.reset();
            state.save()?;
        }
        return Ok(outcome);
    }
    for saved in &state.settings {
        check_restorable(saved, profiles, &state)?;
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
                "another program changed it in between: {before}, not {}",
                saved.set
            )
        });
        let error = match &now {
            Now::Absent => Some("the key no longer exists".to_owned()),
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

/// Whether a saved value may be written: its key is one that a profile has, or of `net.*`, and its
/// value is of the same kind.
fn check_restorable(saved: &Saved, profiles: &[Profile], state: &State) -> Result<(), SetupError> {
    let invalid = |what: String, next: String| {
        let cause = format!("the saved state {} {what}", state.file().display());
        Err(SetupError::new(SetupErrorKind::InvalidInput, cause, next))
    };
    let (key, value) = (&saved.key, &saved.before);
    let known = built_in(Role::Both);
    let is_own = profiles.iter().any(|profile| profile.has_key(key));
    let built_in = known
        .iter()
        .flat_map(|profile| &profile.settings)
        .find(|setting| setting.kind == Kind::Sysctl && setting.key == *key);
    let is_plausible = match built_in {
        Some(setting) => setting.is_plausible(value),
        None if key.starts_with("net.") => is_plain(value),
        // Whoever names a profile with this key knows its values.
        None if is_own => true,
        None => {
            return invalid(
                format!("has {key}, which is in no built-in profile and not in net.*"),
                "name the profile that it was applied from: holdfast-tune restore --profile FILE"
                    .into(),
            );
        }
    };
    if is_plausible {
        return Ok(());
    }
    invalid(
        format!(
            "has '{}' for {key}, which is no value of it",
            value.escape_debug()
        ),
        format!(
            "mv {0} {0}.damaged; holdfast-tune check shows the present values",
            shell_word(state.file())
        ),
    )
}
