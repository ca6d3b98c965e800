//! An unprivileged user may read everything, changes nothing, and gets one line that says why.

use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;

use super::common::*;

/// A command of a user without rights. Of a plain user all are.
fn plain(program: &Path) -> Command {
    if !geteuid().is_root() {
        return bounded(program);
    }
    let mut command = bounded("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--no-new-privs",
        ])
        .arg(program);
    command
}

/// As root in a namespace of its own. A plain user's would make it root in there, and there is
/// nothing it could change outside.
fn as_plain_user<F: FnOnce()>(body: F) {
    if geteuid().is_root() {
        within(body);
    } else {
        body();
    }
}

#[test]
fn nothing_is_changed() {
    as_plain_user(|| {
        let folder = folder();
        let program = program_for_anybody(folder.path());
        let text = format!(
            "net.core.somaxconn = {}\n",
            now("net.core.somaxconn").parse::<u64>().unwrap() + 1
        );
        let profile = file(&folder, "mine.conf", text);
        let state = folder.path().join("state.json");
        let before = snapshot();
        let said = run(plain(&program)
            .args(["apply", "--profile"])
            .arg(&profile)
            .arg("--state")
            .arg(&state));
        assert!(said.error().contains("only root may"), "{said:#?}");
        assert!(
            said.error().contains("nothing was changed; next: sudo "),
            "{said:#?}"
        );
        assert_as_before(&before);
        assert_eq!(names(folder.path()), ["holdfast-tune", "mine.conf"]);
        assert!(!folder.path().join("state.lock").exists());
    });
}

#[test]
fn everybody_may_read() {
    as_plain_user(|| {
        let folder = folder();
        let program = program_for_anybody(folder.path());
        let text = "#: shortfall stops\nnet.core.somaxconn = 1234567\n";
        let profile = file(&folder, "mine.conf", text);
        let check = run(plain(&program)
            .args(["check", "-r", "host", "--profile"])
            .arg(&profile));
        // It would stop the plan, and root could change it: not locked.
        assert_eq!(
            (check.code, check.row("net.core.somaxconn")[3]),
            (1, "STOPS"),
            "{check:#?}"
        );
        let plan = run(plain(&program)
            .args(["plan", "-r", "host", "--profile"])
            .arg(&profile));
        assert_eq!((plan.code, plan.err.as_str()), (0, ""), "{plan:#?}");
        let dry = run(plain(&program)
            .args(["apply", "--dry-run", "-r", "host", "--profile"])
            .arg(&profile));
        assert_eq!(
            dry.row("net.core.somaxconn")[2..4],
            ["1234567", "STOPS"],
            "{dry:#?}"
        );
        assert_eq!(run(plain(&program).args(["plan", "--max"])).code, 0);
        assert_eq!(run(plain(&program).arg("explain")).code, 0);
        assert_eq!(
            run(plain(&program).arg("machine")).json()["machine"]["sys_admin"],
            false
        );
    });
}

#[test]
fn roots_state_is_protected() {
    as_plain_user(|| {
        if !geteuid().is_root() {
            // Nobody here could have saved anything: there is nothing to put back, which a plain
            // user is told as well.
            let said =
                run(plain(Path::new(TUNE)).args(["restore", "--state", "/nonexistent/state.json"]));
            assert_eq!(said.code, 0, "{said:#?}");
            return;
        }
        let folder = folder();
        let program = program_for_anybody(folder.path());
        let profile = file(&folder, "mine.conf", "net.core.somaxconn = 5000\n");
        assert_eq!(tune(&[&"apply", &"--profile", &profile]).code, 0);
        let said = run(plain(&program).arg("restore"));
        assert!(said.error().contains("sudo"), "{said:#?}");
        assert_eq!(now("net.core.somaxconn"), "5000");
        assert_eq!(tune(&[&"restore"]).code, 0);
        assert_eq!(now("net.core.somaxconn"), "4096");
    });
}
