//! The programs of an HTTP run, and how the kernel ends them with the bench.
//!
//! Must not depend on: what they are started for.

use std::path::{Path, PathBuf};

use holdfast_testbed::child::words;

/// Where each program is; `None`: not here.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Programs {
    pub server: Option<PathBuf>,
    pub client: Option<PathBuf>,
    pub baseline: Option<PathBuf>,
    pub nginx: Option<PathBuf>,
    pub haproxy: Option<PathBuf>,
    /// The Go tool, which builds the Go competitor.
    pub go: Option<PathBuf>,
    pub wrk: Option<PathBuf>,
    pub setpriv: Option<PathBuf>,
    pub unshare: Option<PathBuf>,
}

/// Whether a program starts others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// It does not.
    Alone,
    /// It may.
    Of,
}

/// Has the kernel end a program when the bench ends, even when the bench is killed. One that starts
/// others gets a process namespace too: its first process takes all of them with it, and nothing it
/// started can escape.
#[must_use]
pub fn kill_with_parent(
    programs: &Programs,
    family: Family,
    program: &Path,
    args: Vec<String>,
) -> (PathBuf, Vec<String>) {
    let Some(setpriv) = &programs.setpriv else {
        return (program.to_path_buf(), args);
    };
    let mut wrapped = words(&["--pdeathsig", "KILL"]);
    if family == Family::Of
        && let Some(unshare) = &programs.unshare
    {
        wrapped.push(unshare.display().to_string());
        wrapped.extend(words(&["--pid", "--fork", "--kill-child=KILL"]));
    }
    wrapped.push(program.display().to_string());
    wrapped.extend(args);
    (setpriv.clone(), wrapped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_testbed::child::shell_line;

    #[test]
    fn programs_are_wrapped_so_that_they_end_with_the_bench() {
        let programs = Programs {
            setpriv: Some("/usr/bin/setpriv".into()),
            unshare: Some("/usr/bin/unshare".into()),
            ..Programs::default()
        };
        let on = |family| {
            let (program, args) =
                kill_with_parent(&programs, family, Path::new("/x"), words(&["-a"]));
            shell_line(&program, &args)
        };
        assert_eq!(on(Family::Alone), "/usr/bin/setpriv --pdeathsig KILL /x -a");
        assert_eq!(
            on(Family::Of),
            "/usr/bin/setpriv --pdeathsig KILL /usr/bin/unshare --pid --fork --kill-child=KILL /x -a"
        );
        let (program, args) = kill_with_parent(
            &Programs::default(),
            Family::Of,
            Path::new("/x"),
            words(&["-a"]),
        );
        assert_eq!(shell_line(&program, &args), "/x -a");
    }
}
