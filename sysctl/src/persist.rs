//! Settings that survive a reboot: files for `sysctl`, for logins and for systemd, and their
//! removal.
//!
//! Invariants: only files that begin with our mark are replaced or removed. Each file is complete
//! or absent.
//! Must not depend on: how values are read, compared or written.

use std::fs;
use std::io;
use std::path::Path;

use holdfast_engine::{SetupError, SetupErrorKind};
use serde::Serialize;

use crate::plan::{Plan, Verdict};
use crate::setting::Kind;
use crate::state;

const MARK: &str = "# Written by holdfast-tune; removed by: holdfast-tune restore --persist";

/// Read by systemd-sysctl and `sysctl --system` at boot.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/90-holdfast.conf";
/// Read by pam_limits at each login.
pub const LIMITS_FILE: &str = "/etc/security/limits.d/90-holdfast.conf";
/// Read by systemd for every service it starts.
pub const SYSTEMD_FILE: &str = "/etc/systemd/system.conf.d/90-holdfast.conf";

/// What happened to one file.
#[derive(Debug, Clone, Serialize)]
pub struct Written {
    /// The file.
    pub file: String,
    /// Its text; `None` if it is removed, or did not exist.
    pub text: Option<String>,
    /// Why it could not be written or removed.
    pub error: Option<String>,
    /// True if something changed, or would with `--dry-run`.
    pub is_changed: bool,
}

/// The files of a plan: path and text.
pub fn files(plan: &Plan) -> Vec<(&'static str, String)> {
    let what = format!(
        "{MARK}\n# For {} connections, role {}.\n",
        plan.asked.connections,
        plan.asked.role.name()
    );
    let mut sysctl = what.clone();
    for row in plan.rows.iter().filter(|row| row.kind == Kind::Sysctl) {
        // A sufficient value is kept as it is, whatever another file says; keys that this kernel
        // lacks are left out.
        let value = match row.verdict {
            Verdict::Ok => row.now.as_ref(),
            _ => row.write.as_ref(),
        };
        if let Some(value) = value {
            // The dash: a key that is missing at boot because its module is loaded later is not an
            // error.
            sysctl.push_str(&format!("-{} = {value}\n", row.key));
        }
    }
    let mut files = vec![(SYSCTL_FILE, sysctl)];
    let nofile = plan
        .rows
        .iter()
        .find(|row| row.kind == Kind::Limit && row.key == "nofile");
    if let Some(row) = nofile {
        let now: u64 = row
            .now
            .as_ref()
            .and_then(|now| now.parse().ok())
            .unwrap_or(0);
        let hard = row.wanted.parse::<u64>().unwrap_or(0).max(now);
        // The soft limit stays at 1024, since select() fails above it; our programs raise it to the
        // hard limit themselves.
        files.push((
            LIMITS_FILE,
            format!("{what}* hard nofile {hard}\nroot hard nofile {hard}\n"),
        ));
        files.push((
            SYSTEMD_FILE,
            format!("{what}[Manager]\nDefaultLimitNOFILE=1024:{hard}\n"),
        ));
    }
    files
}

/// Writes the files of a plan.
pub fn write(plan: &Plan, is_dry: bool) -> Vec<Written> {
    files(plan)
        .into_iter()
        .map(|(file, text)| {
            let error = if is_dry {
                ours(file).err()
            } else {
                put(file, &text).err()
            };
            Written {
                file: file.to_owned(),
                is_changed: error.is_none(),
                text: Some(text),
                error: error.map(|e| e.to_string()),
            }
        })
        .collect()
}

/// Removes the files that [`write()`] wrote.
pub fn remove(is_dry: bool) -> Vec<Written> {
    [SYSCTL_FILE, LIMITS_FILE, SYSTEMD_FILE]
        .into_iter()
        .map(|file| {
            let removed = match ours(file) {
                Ok(true) if is_dry => Ok(true),
                Ok(true) => fs::remove_file(file)
                    .map(|()| true)
                    .map_err(|error| io_error(file, "cannot be removed", error)),
                other => other,
            };
            Written {
                file: file.to_owned(),
                text: None,
                is_changed: matches!(removed, Ok(true)),
                error: removed.err().map(|e| e.to_string()),
            }
        })
        .collect()
}

fn io_error(file: &str, what: &str, error: io::Error) -> SetupError {
    SetupError::from_io(
        format_args!("{file} {what}"),
        error,
        "run the same command as root: sudo holdfast-tune ...",
    )
}

/// Whether the file exists and is ours.
///
/// # Errors
/// When it is somebody else's, or cannot be read.
fn ours(file: &str) -> Result<bool, SetupError> {
    match fs::read_to_string(file) {
        Ok(text) if text.starts_with(MARK) => Ok(true),
        Ok(_) => Err(SetupError::new(
            SetupErrorKind::InUse,
            format!("{file} was not written by holdfast-tune: its first line is not our mark"),
            format!("mv {file} {file}.other (if it is not needed), then run this again"),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(file, "cannot be read", error)),
    }
}

fn put(file: &str, text: &str) -> Result<(), SetupError> {
    ours(file)?;
    let failed = |error: io::Error| io_error(file, "cannot be written", error);
    let folder = Path::new(file).parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(failed)?;
    state::replace(Path::new(file), text, 0o644).map_err(failed)
}
