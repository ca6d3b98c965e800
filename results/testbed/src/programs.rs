//! Where programs are: ours beside this one, those of others on the search path.
//!
//! Invariants: a path that is returned was there and could be run a moment ago. Nothing is started.
//! Must not depend on: what a program is for.

use std::path::{Path, PathBuf};

use holdfast_engine::{SetupError, SetupErrorKind};

/// The folder of our programs: `bin_dir`, or where this one is.
#[must_use]
pub fn bin_dir_or_own(bin_dir: Option<&Path>) -> PathBuf {
    bin_dir.map(Path::to_path_buf).unwrap_or_else(|| {
        std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_path_buf))
            .unwrap_or_default()
    })
}

/// Whether `path` can be executed by somebody.
#[must_use]
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// One of our programs, absolute.
///
/// # Errors
/// When it is missing or cannot be run.
pub fn program(bin_dir: Option<&Path>, name: &str) -> Result<PathBuf, SetupError> {
    let path = bin_dir_or_own(bin_dir).join(name);
    if !is_program(&path) {
        return Err(SetupError::new(
            SetupErrorKind::NotFound,
            format!("{} is missing or cannot be run", path.display()),
            "cargo build --release, or name its folder with --bin-dir DIR",
        ));
    }
    path.canonicalize().map_err(|e| {
        SetupError::new(
            SetupErrorKind::Io,
            format!("{}: {e}", path.display()),
            "cargo build --release",
        )
    })
}

/// A program of the system: on the search path, or where Debian puts what only root uses and a
/// plain user's path lacks.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| is_program(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_named() {
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find("holdfast-no-such-program"), None);
        let refusal = program(Some(Path::new("/nowhere")), "holdfast-server").expect_err("missing");
        assert!(
            refusal
                .to_string()
                .contains("/nowhere/holdfast-server is missing")
        );
    }
}
