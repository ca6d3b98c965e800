//! Runs `holdfast-tune` in namespaces of its own, and reads what the tests compare.
//!
//! Invariants: every child is bounded by `timeout`; a tool that is missing fails the test that
//! needs it, by name.
//! Must not depend on: what any test expects.

use std::any::type_name;
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::geteuid;
use serde_json::Value;
use tempfile::TempDir;

pub const TUNE: &str = env!("CARGO_BIN_EXE_holdfast-tune");

/// Set for a test that runs again inside the namespaces made for it.
const INSIDE: &str = "HOLDFAST_TEST_INSIDE";

/// What the namespaces look like. `mount` keeps flags it is told only, and a user namespace may not
/// drop any: all are named.
const PREPARE: &str = r#"
for part in /proc/sys/*; do
    test "${part##*/}" = net && continue
    mount --rbind "$part" "$part"
    mount -o remount,bind,ro,nosuid,nodev,noexec "$part"
done
mount -t tmpfs tmpfs /etc
mount -t tmpfs tmpfs /run
exec "$0" "$@"
"#;

/// Runs `body` in a network and mount namespace of its own, by running the test that calls this
/// again in there. To be called with a closure: its type tells the test's name.
pub fn within<F: FnOnce()>(body: F) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    let name = type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, test) = name.split_once("::").unwrap();
    let user: &[&str] = if geteuid().is_root() {
        &[]
    } else {
        &["--user", "--map-root-user"]
    };
    let output = bounded("unshare")
        .args(user)
        .args(["--net", "--mount", "sh", "-euc", PREPARE])
        .arg(env::current_exe().unwrap())
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = Said::of(output);
    assert!(
        said.code == 0 && said.out.contains("1 passed"),
        "in namespaces of its own: {said:#?}"
    );
}

/// A command that ends by itself or is ended.
pub fn bounded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "90"]).arg(program);
    command
}

/// Exit code and output of a command.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Of a command that ended by itself: 124 is `timeout`'s, 125 to 127 mean that there was
    /// nothing to run.
    fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        assert!(!(124..=127).contains(&said.code), "did not run: {said:#?}");
        said
    }

    /// What `--json` printed.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The one line of a set-up error: nothing else is on stderr, and the exit code is 2.
    pub fn error(&self) -> &str {
        assert_eq!(self.err.lines().count(), 1, "{self:#?}");
        assert_eq!(self.code, 2, "{self:#?}");
        let line = self.err.trim_end();
        line.strip_prefix("error: ")
            .unwrap_or_else(|| panic!("{self:#?}"))
    }

    /// The table's line about `key`, its columns apart. Two spaces or more are between them.
    pub fn row(&self, key: &str) -> Vec<&str> {
        let mut lines = self.out.lines();
        let line = lines.find(|line| line.split_whitespace().next() == Some(key));
        let line = line.unwrap_or_else(|| panic!("no row of {key}: {self:#?}"));
        let columns = line.split("  ").map(str::trim);
        columns.filter(|column| !column.is_empty()).collect()
    }
}

pub fn run(command: &mut Command) -> Said {
    Said::of(command.output().unwrap())
}

/// Runs `holdfast-tune` with words and files.
pub fn tune(args: &[&dyn AsRef<OsStr>]) -> Said {
    run(bounded(TUNE).args(args))
}

/// A folder that anybody may read and write, so that what is not in it was not put there for want
/// of rights.
pub fn folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o777))
        .tempdir()
        .unwrap();
    // The permissions asked for are less what the umask takes.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

/// The program where also a stranger can run it.
pub fn program_for_anybody(folder: &Path) -> PathBuf {
    let copy = folder.join("holdfast-tune");
    fs::copy(TUNE, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// A file in a folder.
pub fn file(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A profile of the user's own, written, and where the state goes.
pub fn profile_and_state(folder: &TempDir, text: impl AsRef<[u8]>) -> (PathBuf, PathBuf) {
    (
        file(folder, "mine.conf", text),
        folder.path().join("state.json"),
    )
}

/// Names of what is in a folder, but locks: they stay, empty.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".lock")).collect();
    names.sort();
    names
}

/// A value as the kernel has it. One read with room for all of it: many keys give nothing to a
/// second one.
pub fn raw(path: &Path) -> Result<String, String> {
    let mut bytes = vec![0; 1 << 18];
    let mut open = fs::File::open(path).map_err(|error| error.to_string())?;
    let count = open.read(&mut bytes).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

/// The present value of a key, one space between its elements.
pub fn now(key: &str) -> String {
    let text = raw(&path(key)).unwrap_or_else(|error| panic!("{key}: {error}"));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sets a key as an administrator would.
pub fn set(key: &str, value: &str) {
    let mut open = fs::OpenOptions::new()
        .write(true)
        .open(path(key))
        .unwrap_or_else(|error| panic!("{key}: {error}"));
    open.write_all(value.as_bytes()).unwrap();
}

/// Everything below `/proc/sys/net`: file and value, or why it cannot be read.
pub fn snapshot() -> BTreeMap<PathBuf, Result<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::from("/proc/sys/net")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let value = raw(&path);
                found.insert(path, value);
            }
        }
    }
    assert!(found.len() > 200, "only {} keys below net", found.len());
    found
}

/// Fails with the keys that differ, not with all of them.
pub fn assert_as_before(before: &BTreeMap<PathBuf, Result<String, String>>) {
    let after = snapshot();
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differing: Vec<String> = keys
        .into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| {
            format!(
                "{}: {:?} -> {:?}",
                key.display(),
                before.get(key),
                after.get(key)
            )
        })
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
}
