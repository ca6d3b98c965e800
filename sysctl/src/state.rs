//! The values of settings before this program changed them: a file that survives a crash, one per
//! network namespace.
//!
//! Invariants: the file is complete or absent (written beside, synced, renamed); it names the boot
//! it belongs to, because settings start afresh with each; the value before the *first* change is
//! kept, however many follow. A `State` holds its lock. As root writes what the file says, it and
//! its lock must be regular files of root (or of the user who runs this), writable by nobody else;
//! no symbolic link is followed.
//! Must not depend on: profiles, plans.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_engine::{SetupError, SetupErrorKind};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::cli::shell_word;
use crate::setting::sysctl_key;

const SCHEMA: &str = "holdfast-tune-state/1";
/// Cleared at reboot, as the settings are.
const FOLDER: &str = "/run/holdfast";
const FILE_BYTES_MAX: u64 = 1 << 20;

const RUN_AS_ROOT: &str = "run the same command as root: sudo holdfast-tune ...";

/// One setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The setting.
    pub key: String,
    /// Its value before the first change.
    pub before: String,
    /// The value written last.
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
    /// The changed settings, in the order of their changes.
    pub settings: Vec<Saved>,
    /// The file is of another boot: its values do not apply to this one.
    pub is_of_another_boot: bool,
    _lock: Flock<File>,
}

/// The file unless `--state` names another.
pub fn default_file(network_namespace: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("tune-{network_namespace}.json"))
}

fn invalid(file: &Path, what: &str, next: impl Into<String>) -> SetupError {
    SetupError::new(
        SetupErrorKind::InvalidInput,
        format!("the saved state {} {what}", file.display()),
        next,
    )
}

fn io_error(file: &Path, what: &str, error: io::Error, next: impl Into<String>) -> SetupError {
    SetupError::from_io(
        format_args!("the saved state {} {what}", file.display()),
        error,
        next,
    )
}

impl State {
    /// Locks and reads the state; a missing file is an empty state.
    ///
    /// # Errors
    /// When it cannot be read or locked, is damaged, belongs to another network namespace, or when
    /// somebody else owns or may write the file or its lock.
    pub fn open(file: &Path, network_namespace: u64) -> Result<Self, SetupError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder_of(file))
            .map_err(|error| io_error(file, "has no folder", error, RUN_AS_ROOT))?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock_file = file.with_extension("lock");
        let lock = open_own(&lock_file, &mut options).map_err(|error| {
            let what = format!("cannot be locked by {}", lock_file.display());
            io_error(file, &what, error, next_step_of_refusal(&lock_file))
        })?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| {
            invalid(
                file,
                "is in use by another holdfast-tune",
                "wait until it ends, then run this again",
            )
            .with_kind(SetupErrorKind::InUse)
        })?;
        let mut state = State {
            file: file.to_owned(),
            network_namespace,
            boot_id: boot_id()?,
            settings: Vec::new(),
            is_of_another_boot: false,
            _lock: lock,
        };
        let mut text = String::new();
        match open_own(file, OpenOptions::new().read(true)) {
            Ok(open) => {
                open.take(FILE_BYTES_MAX)
                    .read_to_string(&mut text)
                    .map_err(|error| io_error(file, "cannot be read", error, set_aside(file)))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(state),
            Err(error) => {
                return Err(io_error(
                    file,
                    "cannot be read",
                    error,
                    next_step_of_refusal(file),
                ));
            }
        }
        let document: Document = serde_json::from_str(&text)
            .map_err(|error| invalid(file, &format!("is damaged: {error}"), set_aside(file)))?;
        if document.schema != SCHEMA {
            let what = format!("is of another version: {}", document.schema.escape_debug());
            return Err(invalid(file, &what, set_aside(file)));
        }
        // Nothing outside /proc/sys is ever written from a file.
        for saved in &document.settings {
            let is_key = sysctl_key(&saved.key).as_ref() == Some(&saved.key);
            if !is_key || saved.before.contains(char::is_control) {
                let what = format!("is damaged: '{}' is no setting", saved.key.escape_debug());
                return Err(invalid(file, &what, set_aside(file)));
            }
        }
        if document.boot_id != state.boot_id {
            state.is_of_another_boot = true;
        } else if document.network_namespace != network_namespace {
            return Err(invalid(
                file,
                &format!(
                    "is of another network namespace, {}",
                    document.network_namespace
                ),
                "run holdfast-tune in the namespace where it was applied (ip netns exec NAME ...)",
            ));
        }
        state.settings = document.settings;
        Ok(state)
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Drops values of another boot.
    pub fn reset(&mut self) {
        self.settings.clear();
        self.is_of_another_boot = false;
    }

    /// Records that `key`, now `before`, will be `set`. The value before the first change stays.
    pub fn record(&mut self, key: &str, before: &str, set: &str) {
        match self.settings.iter_mut().find(|saved| saved.key == key) {
            Some(saved) => saved.set = set.to_owned(),
            None => self.settings.push(Saved {
                key: key.to_owned(),
                before: before.to_owned(),
                set: set.to_owned(),
            }),
        }
    }

    /// Writes the file; removes it when no setting is left in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), SetupError> {
        let failed = |error: io::Error| {
            io_error(
                &self.file,
                "cannot be written",
                error,
                "make room, or name another file with --state FILE",
            )
        };
        if self.settings.is_empty() {
            return match fs::remove_file(&self.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
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

/// Opens a file that must be this user's or root's own and writable by nobody else. Follows no
/// symbolic link and does not wait for the other end of a FIFO.
fn open_own(file: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let open = options.custom_flags(flags.bits()).open(file)?;
    let metadata = open.metadata()?;
    let not_own = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !metadata.is_file() {
        return not_own("not a regular file".into());
    }
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        return not_own(format!("it belongs to user {}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return not_own("other users may write it".into());
    }
    Ok(open)
}

/// What to do about a file that [`open_own`] did not open.
fn next_step_of_refusal(file: &Path) -> String {
    let metadata = file.symlink_metadata();
    match (metadata, geteuid().is_root()) {
        (Ok(metadata), _) if metadata.is_symlink() => format!(
            "ls -l {0} (it is a symbolic link: who made it?), then rm {0}",
            shell_word(file)
        ),
        (Ok(_), true) => format!(
            "ls -l {0} (whose is it?), then mv {0} {0}.untrusted",
            shell_word(file)
        ),
        (Err(_), true) => "name another file with --state FILE".to_owned(),
        (_, false) => RUN_AS_ROOT.to_owned(),
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

/// The folder of a file; of a bare file name, the current one.
fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

fn set_aside(file: &Path) -> String {
    format!(
        "mv {0} {0}.damaged; the settings stay as they are (holdfast-tune check shows them; a reboot restores the defaults)",
        shell_word(file)
    )
}

fn boot_id() -> Result<String, SetupError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).map_err(|error| {
        SetupError::from_io(
            format_args!("{path} cannot be read"),
            error,
            "mount -t proc proc /proc",
        )
    })?;
    Ok(id.trim().to_owned())
}
