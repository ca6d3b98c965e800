//! What settings were before this program changed them: a file that outlives a crash, one for each network namespace.
//!
//! Invariants: the file is whole or not there (written beside, synced, renamed); it names the boot it belongs to, because settings begin anew
//! with each; the value before the *first* change is kept, however many follow. Who holds a `State` holds its lock.
//! Must not know: profiles, plans.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::Shortfall;
use crate::setting::sysctl_key;

const SCHEMA: &str = "holdfast-tune-state/1";
/// Gone at reboot, as the settings are.
const FOLDER: &str = "/run/holdfast";
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The setting.
    pub key: String,
    /// Its value before the first change.
    pub before: String,
    /// What was written last.
    pub set: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: String,
    boot_id: String,
    network_namespace: u64,
    settings: Vec<Saved>,
}

/// The saved values, locked against other runs of this program.
#[derive(Debug)]
pub struct State {
    file: PathBuf,
    network_namespace: u64,
    boot_id: String,
    /// What was changed, in the order it was.
    pub settings: Vec<Saved>,
    /// The file is of another boot: its values say nothing about this one.
    pub is_of_another_boot: bool,
    _lock: Flock<File>,
}

/// The file where nothing else is said.
pub fn default_file(network_namespace: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("tune-{network_namespace}.json"))
}

fn trouble(file: &Path, what: &str, error: impl std::fmt::Display, next: &str) -> Shortfall {
    Shortfall::new(
        format!("the saved state {} {what}: {error}", file.display()),
        next,
    )
}

impl State {
    /// Locks and reads the state; one that is not there is empty.
    ///
    /// # Errors
    /// When it cannot be read or locked, is of another namespace, or is not a state.
    pub fn open(file: &Path, network_namespace: u64) -> Result<Self, Shortfall> {
        let folder = folder_of(file);
        let root = "run it as root: sudo holdfast-tune ...";
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(|error| trouble(file, "has no folder", error, root))?;
        let lock_file = file.with_extension("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_file)
            .map_err(|error| trouble(file, "cannot be locked", error, root))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            trouble(
                file,
                "is in use by another holdfast-tune",
                errno.desc(),
                "wait for it to end",
            )
        })?;
        let boot_id = boot_id()?;
        let mut state = State {
            file: file.to_owned(),
            network_namespace,
            boot_id,
            settings: Vec::new(),
            is_of_another_boot: false,
            _lock: lock,
        };
        let mut text = String::new();
        match File::open(file) {
            Ok(open) => {
                open.take(FILE_BYTES_MAX)
                    .read_to_string(&mut text)
                    .map_err(|error| trouble(file, "cannot be read", error, &set_aside(file)))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(state),
            Err(error) => return Err(trouble(file, "cannot be read", error, root)),
        }
        let document: Document = serde_json::from_str(&text)
            .map_err(|error| trouble(file, "is damaged", error, &set_aside(file)))?;
        if document.schema != SCHEMA {
            return Err(trouble(
                file,
                "is of another version",
                document.schema,
                &set_aside(file),
            ));
        }
        // A file can say anything: nothing outside /proc/sys is ever written from it.
        for saved in &document.settings {
            let is_key = sysctl_key(&saved.key).as_ref() == Some(&saved.key);
            if !is_key || saved.before.contains(char::is_control) {
                return Err(trouble(
                    file,
                    "is damaged",
                    format!("'{}' is no setting", saved.key.escape_debug()),
                    &set_aside(file),
                ));
            }
        }
        if document.boot_id != state.boot_id {
            state.is_of_another_boot = true;
        } else if document.network_namespace != network_namespace {
            return Err(trouble(
                file,
                "is of another network namespace",
                document.network_namespace,
                "run holdfast-tune in the namespace it was applied in (ip netns exec NAME ...)",
            ));
        }
        state.settings = document.settings;
        Ok(state)
    }

    /// Forgets values of another boot.
    pub fn begin_anew(&mut self) {
        self.settings.clear();
        self.is_of_another_boot = false;
    }

    /// Notes that `key`, which is `before`, will be `set`. What was there before the first change stays.
    pub fn note(&mut self, key: &str, before: &str, set: &str) {
        match self.settings.iter_mut().find(|saved| saved.key == key) {
            Some(saved) => saved.set = set.to_owned(),
            None => self.settings.push(Saved {
                key: key.to_owned(),
                before: before.to_owned(),
                set: set.to_owned(),
            }),
        }
    }

    /// Writes the file; removes it when nothing is left in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), Shortfall> {
        let failed = |error: std::io::Error| {
            trouble(
                &self.file,
                "cannot be written",
                error,
                "make room, or name another file with --state FILE",
            )
        };
        if self.settings.is_empty() {
            return match fs::remove_file(&self.file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let document = Document {
            schema: SCHEMA.to_owned(),
            boot_id: self.boot_id.clone(),
            network_namespace: self.network_namespace,
            settings: self.settings.clone(),
        };
        let text = serde_json::to_string_pretty(&document).unwrap_or_default() + "\n";
        replace(&self.file, &text, 0o600).map_err(failed)
    }
}

/// Replaces a file as a whole: written beside, synced, renamed.
pub(crate) fn replace(file: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let folder = folder_of(file);
    let mut beside = tempfile::Builder::new()
        .prefix(".holdfast-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
        .tempfile_in(folder)?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().sync_all()?;
    beside.persist(file).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// The folder of a file, also of one that is named without.
fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

fn set_aside(file: &Path) -> String {
    format!(
        "mv {0} {0}.damaged; settings stay as they are now (holdfast-tune check shows them; a reboot brings the defaults back)",
        file.display()
    )
}

fn boot_id() -> Result<String, Shortfall> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .map_err(|error| {
            Shortfall::new(
                format!("{path} cannot be read: {error}"),
                "mount -t proc proc /proc",
            )
        })
}
