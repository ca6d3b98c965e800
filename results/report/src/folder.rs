//! The folder of a run: `RUNS/<UTC stamp>-<name>/`, and `RUNS/latest` pointing at the newest.
//!
//! Purpose: making it before anything starts, writing whole files into it, finding where runs
//! belong.
//! Invariants: a file is there whole or not at all (written beside and renamed); so is the link. A
//! folder whose run never started is removed again.
//! Must not depend on: what the files say.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use holdfast_engine::{SetupError, SetupErrorKind};

/// A folder made for one run.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes `runs/<stamp>-<name>` (with a number behind it if that exists) and proves that files
    /// can be written.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn create(runs: &Path, started: SystemTime, name: &str) -> Result<Self, SetupError> {
        let refuse = |what: &Path, e: io::Error| {
            SetupError::new(
                SetupErrorKind::Io,
                format!("results folder {} cannot be written: {e}", what.display()),
                "choose another with --results-dir DIR, or change its owner",
            )
        };
        fs::create_dir_all(runs).map_err(|e| refuse(runs, e))?;
        let runs = runs.canonicalize().map_err(|e| refuse(runs, e))?;
        let wanted = format!("{}-{name}", stamp(started));
        for number in 1..100 {
            let path = runs.join(if number == 1 {
                wanted.clone()
            } else {
                format!("{wanted}-{number}")
            });
            match fs::create_dir(&path) {
                Ok(()) => {
                    let folder = Self { path };
                    let probe = folder.path.join(".probe");
                    if let Err(e) = fs::write(&probe, b"ok").and_then(|()| fs::remove_file(&probe))
                    {
                        let refusal = refuse(&folder.path, e);
                        folder.discard();
                        return Err(refusal);
                    }
                    return Ok(folder);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(refuse(&path, e)),
            }
        }
        Err(refuse(
            &runs.join(wanted),
            io::ErrorKind::AlreadyExists.into(),
        ))
    }

    /// The folder of a run that is there already.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Where it is; absolute if this run made it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file of a run's folder for reading. Anything but a file is refused, since opening a
    /// pipe could wait for ever.
    ///
    /// # Errors
    /// When it cannot be opened, or is not a file.
    pub fn open_file(folder: &Path, name: &str) -> io::Result<fs::File> {
        let path = folder.join(name);
        match fs::metadata(&path)?.is_file() {
            true => fs::File::open(path),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file")),
        }
    }

    /// Writes `value` as indented JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let beside = self.path.join(format!(".{name}.part"));
        let written = fs::write(&beside, text);
        let renamed = written.and_then(|()| fs::rename(&beside, self.path.join(name)));
        renamed.inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })
    }

    /// Points `latest` beside this folder at it.
    ///
    /// # Errors
    /// When the link cannot be made, for one because something else than a link has that name.
    pub fn point_latest(&self) -> io::Result<()> {
        let (Some(runs), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let beside = runs.join(format!(".latest.{}", std::process::id()));
        let _ = fs::remove_file(&beside);
        symlink(name, &beside)?;
        fs::rename(&beside, runs.join("latest")).inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })
    }

    /// Removes the folder of a run that never started.
    pub fn discard(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// `20251122T144600Z`.
fn stamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time)
        .to_string()
        .replace(['-', ':'], "")
}

/// `2025-11-22T14:46:00Z`.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let whole = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(whole))
        .to_string()
}

/// The name of a run of `what`, and the label behind it.
#[must_use]
pub fn labelled(what: &str, label: Option<&str>) -> String {
    label.map_or_else(|| what.into(), |label| format!("{what}-{label}"))
}

/// Where the run's folder goes.
#[must_use]
pub fn runs_or_default(runs: Option<&Path>) -> PathBuf {
    runs.map(Path::to_path_buf).unwrap_or_else(|| {
        workspace().map_or_else(
            || PathBuf::from("results/runs"),
            |dir| dir.join("results/runs"),
        )
    })
}

/// The folder of a run that somebody names: a folder, or the name of one among the runs, `latest`
/// too.
///
/// # Errors
/// When there is no such folder.
pub fn find(run: &str, runs: Option<&Path>) -> Result<PathBuf, SetupError> {
    let runs = runs_or_default(runs);
    let found = [PathBuf::from(run), runs.join(run)]
        .into_iter()
        .find(|path| path.is_dir());
    found.ok_or_else(|| {
        SetupError::new(
            SetupErrorKind::NotFound,
            format!(
                "there is no run {run:?}, neither here nor in {}",
                runs.display()
            ),
            format!("ls {}", runs.display()),
        )
    })
}

/// Refuses a `--name` that cannot end a folder's name.
///
/// # Errors
/// When it cannot.
pub fn check_label(label: Option<&str>) -> Result<(), SetupError> {
    let is_word = |label: &str| {
        !label.is_empty()
            && label.len() <= 64
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match label {
        Some(label) if !is_word(label) => Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            format!("{label:?} cannot end a folder's name"),
            "use up to 64 letters, digits, - _ and . with --name",
        )),
        _ => Ok(()),
    }
}

/// The workspace this process was started in, or the one its program was built in.
#[must_use]
pub fn workspace() -> Option<PathBuf> {
    let is_workspace = |dir: &&Path| {
        dir.join("results").is_dir()
            && fs::read_to_string(dir.join("Cargo.toml"))
                .is_ok_and(|text| text.contains("[workspace]"))
    };
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    starts
        .iter()
        .flatten()
        .find_map(|start| start.ancestors().find(is_workspace).map(Path::to_path_buf))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("holdfast-folder-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn runs_in_the_same_second_get_different_folders() {
        let runs = scratch("two");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let first = RunFolder::create(&runs, time, "longconn").expect("first");
        assert!(first.path().ends_with("20010909T014640Z-longconn"));
        let second = RunFolder::create(&runs, time, "longconn").expect("second");
        assert_ne!(first.path(), second.path());
        for folder in [&first, &second] {
            folder.write_json("run.json", &42).expect("writes");
            folder.point_latest().expect("links");
            let latest = fs::read_link(runs.join("latest")).expect("a link");
            assert_eq!(Some(latest.as_os_str()), folder.path().file_name());
        }
        second.discard();
        assert!(!second.path().exists());
        let _ = fs::remove_dir_all(&runs);
    }

    #[test]
    fn existing_file_is_refused_in_one_line() {
        let runs = scratch("file");
        fs::write(&runs, "not a folder").expect("writes");
        let refusal = RunFolder::create(&runs, SystemTime::UNIX_EPOCH, "x")
            .expect_err("refused")
            .to_string();
        assert!(
            refusal.starts_with("results folder") && refusal.contains("; next: "),
            "{refusal}"
        );
        let _ = fs::remove_file(&runs);
    }
}
