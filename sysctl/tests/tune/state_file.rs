//! State files that are damaged, of another boot or namespace, in use, or of another user: nothing
//! is changed from them, and the error names what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::common::*;

/// A state as `apply` leaves it, of one key that is 4096 before and 5000 after.
fn state(folder: &Path) -> (std::path::PathBuf, Value) {
    let (profile, state) = (folder.join("mine.conf"), folder.join("state.json"));
    fs::write(&profile, "net.core.somaxconn = 5000\n").unwrap();
    let said = tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
    assert_eq!(said.code, 0, "{said:#?}");
    let saved = serde_json::from_str(&fs::read_to_string(&state).unwrap()).unwrap();
    (state, saved)
}

#[test]
#[ignore = "needs namespaces: make test"]
fn damaged() {
    within(|| {
        let folder = folder();
        let (state, good) = state(folder.path());
        let victim = file(&folder, "victim", "mine\n");
        let changed = |pointer: &str, value: Value| {
            let mut document = good.clone();
            *document.pointer_mut(pointer).unwrap() = value;
            document.to_string().into_bytes()
        };
        let text = good.to_string();
        let key = |key: &str, before: &str| {
            changed(
                "/settings",
                json!([{"key": key, "before": before, "set": "5000"}]),
            )
        };
        let outside = victim.to_str().unwrap().replace('.', "/");
        let damaged: Vec<(&str, Vec<u8>)> = vec![
            ("empty", Vec::new()),
            ("garbage", b"\x00\xff\x13garbage".to_vec()),
            ("a list", b"[]".to_vec()),
            ("truncated", text.as_bytes()[..text.len() - 20].to_vec()),
            (
                "without settings",
                text.replace("\"settings\"", "\"others\"").into_bytes(),
            ),
            (
                "schema",
                changed("/schema", json!("holdfast-tune-state/99")),
            ),
            (
                "number for text",
                changed("/settings/0/before", json!(4096)),
            ),
            ("up and out", key("../../etc/x", "4096")),
            ("up and out, to be emptied", key("../../etc/x", "")),
            // Dots become slashes: an absolute path.
            ("absolute", key(&outside.replace('/', "."), "4096")),
            (
                "absolute, to be emptied",
                key(&outside.replace('/', "."), ""),
            ),
            ("not a name", key("net.core.somax conn", "4096")),
            (
                "two lines",
                key("net.core.somaxconn", "4096\nnet.core.x = 1"),
            ),
            ("no key", key("", "")),
            ("huge", vec![b' '; 3 << 20]),
        ];
        let before = snapshot();
        let profile = file(&folder, "other.conf", "net.core.somaxconn = 6000\n");
        for (what, bytes) in &damaged {
            fs::write(&state, bytes).unwrap();
            for said in [
                tune(&[&"restore", &"--state", &state]),
                tune(&[&"restore", &"--dry-run", &"--state", &state]),
                tune(&[&"apply", &"--profile", &profile, &"--state", &state]),
            ] {
                let error = said.error();
                assert!(error.contains(state.to_str().unwrap()), "{what}: {said:#?}");
                assert!(error.contains("; next: mv "), "{what}: {said:#?}");
            }
            assert_as_before(&before);
            assert_eq!(fs::read(&victim).unwrap(), b"mine\n", "{what}");
            // It stays for whoever wants to look at it.
            assert_eq!(&fs::read(&state).unwrap(), bytes, "{what}");
        }
        // The same file whole again does.
        fs::write(&state, &text).unwrap();
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_eq!(now("net.core.somaxconn"), "4096");
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn of_another_boot() {
    within(|| {
        let folder = folder();
        let (state, mut saved) = state(folder.path());
        saved["boot_id"] = json!("01234567-89ab-cdef-0123-456789abcdef");
        // Namespaces begin anew as well: the number says nothing.
        saved["network_namespace"] = json!(1);
        fs::write(&state, saved.to_string()).unwrap();
        let before = snapshot();

        let dry = tune(&[&"restore", &"--dry-run", &"--state", &state]);
        assert_eq!(dry.code, 0, "{dry:#?}");
        assert!(
            dry.out.contains("another boot") && state.exists(),
            "{}",
            dry.out
        );
        let said = tune(&[&"restore", &"--state", &state]);
        assert_eq!(said.code, 0, "{said:#?}");
        assert!(said.out.contains("another boot"), "{}", said.out);
        assert_as_before(&before);
        assert!(!state.exists());

        // An apply takes what is there now as what was there before.
        fs::write(&state, saved.to_string()).unwrap();
        let profile = file(&folder, "other.conf", "net.core.somaxconn = 6000\n");
        let applied = tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
        assert_eq!(applied.code, 0);
        assert!(applied.out.contains("another boot"), "{}", applied.out);
        assert_eq!(now("net.core.somaxconn"), "6000");
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn of_another_namespace() {
    within(|| {
        let folder = folder();
        let (state, mut saved) = state(folder.path());
        saved["network_namespace"] = json!(1);
        fs::write(&state, saved.to_string()).unwrap();
        let before = snapshot();
        let profile = file(&folder, "other.conf", "net.core.somaxconn = 6000\n");
        for said in [
            tune(&[&"restore", &"--state", &state]),
            tune(&[&"apply", &"--profile", &profile, &"--state", &state]),
        ] {
            assert!(
                said.error().contains("another network namespace"),
                "{said:#?}"
            );
            assert_as_before(&before);
        }
        assert!(state.exists());
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn in_use_by_another() {
    within(|| {
        let folder = folder();
        let (state, _) = state(folder.path());
        let before = snapshot();
        let profile = file(&folder, "other.conf", "net.core.somaxconn = 6000\n");
        let lock = fs::File::open(folder.path().join("state.lock")).unwrap();
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
        for said in [
            tune(&[&"restore", &"--state", &state]),
            tune(&[&"apply", &"--profile", &profile, &"--state", &state]),
        ] {
            assert!(
                said.error().contains("in use by another holdfast-tune"),
                "{said:#?}"
            );
            assert_as_before(&before);
        }
        // Looking is free.
        assert_eq!(tune(&[&"check", &"--profile", &profile]).code, 0);
        drop(lock);
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_eq!(now("net.core.somaxconn"), "4096");
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn relative_paths() {
    within(|| {
        let folder = folder();
        let profile = file(&folder, "mine.conf", "net.core.somaxconn = 5000\n");
        // A name without a folder is in the folder one is in; a folder that is not there is made.
        for state in ["mine.json", "new/folder/mine.json"] {
            let run_here = |args: &[&str]| run(bounded(TUNE).args(args).current_dir(folder.path()));
            let applied = run_here(&[
                "apply",
                "--profile",
                profile.to_str().unwrap(),
                "--state",
                state,
            ]);
            assert_eq!(applied.code, 0, "{applied:#?}");
            // What it says to type next puts it back.
            assert!(
                applied
                    .out
                    .contains(&format!("holdfast-tune restore --state {state}\n")),
                "{}",
                applied.out
            );
            assert!(folder.path().join(state).exists());
            assert_eq!(now("net.core.somaxconn"), "5000");
            assert_eq!(run_here(&["restore", "--state", state]).code, 0);
            assert_eq!(now("net.core.somaxconn"), "4096");
        }
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn values_that_cannot_be_restored_are_kept() {
    within(|| {
        use nix::mount::{MsFlags, mount, umount};
        let folder = folder();
        let text =
            "net.core.somaxconn = 5000\nnet.ipv4.tcp_retries2 = 9\nnet.ipv4.tcp_fin_timeout = 30\n";
        let (profile, state) = profile_and_state(&folder, text);
        let before = snapshot();
        assert_eq!(
            tune(&[&"apply", &"--profile", &profile, &"--state", &state]).code,
            0
        );
        // One of three keys becomes read-only.
        let key = Path::new("/proc/sys/net/ipv4/tcp_retries2");
        let none: Option<&str> = None;
        mount(Some(key), key, none, MsFlags::MS_BIND, none).unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, key, none, flags, none).unwrap();
        let said = tune(&[&"restore", &"--state", &state]);
        assert_eq!(said.code, 1, "{said:#?}");
        assert!(
            said.row("net.ipv4.tcp_retries2")[3].starts_with("FAILED: "),
            "{}",
            said.out
        );
        assert_eq!(now("net.core.somaxconn"), "4096");
        assert_eq!(now("net.ipv4.tcp_fin_timeout"), "60");
        let left: Value = serde_json::from_str(&fs::read_to_string(&state).unwrap()).unwrap();
        assert_eq!(
            left["settings"],
            json!([{"key": "net.ipv4.tcp_retries2", "before": "15", "set": "9"}])
        );
        // Once it can be written again, the rest is put back too.
        umount(key).unwrap();
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_as_before(&before);
        assert!(!state.exists());
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn of_another_user() {
    within(|| {
        let folder = folder();
        let (state, saved) = state(folder.path());
        let profile = file(&folder, "other.conf", "net.core.somaxconn = 6000\n");
        let before = snapshot();
        let refused = |expected: &str| {
            for said in [
                tune(&[&"restore", &"--state", &state]),
                tune(&[&"restore", &"--dry-run", &"--state", &state]),
                tune(&[&"apply", &"--profile", &profile, &"--state", &state]),
            ] {
                let error = said.error();
                assert!(
                    error.contains(expected) && error.contains("; next: "),
                    "{said:#?}"
                );
                assert_as_before(&before);
            }
        };
        // Others may write it.
        fs::set_permissions(&state, fs::Permissions::from_mode(0o666)).unwrap();
        refused("other users may write it");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o600)).unwrap();
        // A link, be it to a file of our own; a FIFO, which must not be waited for.
        let elsewhere = folder.path().join("elsewhere.json");
        fs::rename(&state, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &state).unwrap();
        refused("symbolic link");
        fs::remove_file(&state).unwrap();
        nix::unistd::mkfifo(&state, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused("not a regular file");
        fs::remove_file(&state).unwrap();
        // A lock that is a link: nothing is created through it.
        fs::write(&state, saved.to_string()).unwrap();
        let lock = folder.path().join("state.lock");
        let target = folder.path().join("created");
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&target, &lock).unwrap();
        refused("symbolic link");
        assert!(!target.exists());
        fs::remove_file(&lock).unwrap();
        // Owned by another user; a user namespace maps only one.
        if nix::unistd::chown(&state, Some(65534.into()), None).is_ok() {
            refused("belongs to user 65534");
            nix::unistd::chown(&state, Some(0.into()), None).unwrap();
        }
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_eq!(now("net.core.somaxconn"), "4096");
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn with_keys_and_values_it_may_not_have() {
    within(|| {
        let folder = folder();
        let (state, saved) = state(folder.path());
        let before = snapshot();
        let with = |key: &str, value: &str| {
            let mut document = saved.clone();
            document["settings"] = json!([
                {"key": "net.ipv4.tcp_retries2", "before": "9", "set": "15"},
                {"key": key, "before": value, "set": "x"},
            ]);
            fs::write(&state, document.to_string()).unwrap();
        };
        for (key, value, expected) in [
            // Keys that make the kernel run programs, or that no profile has.
            (
                "kernel.core_pattern",
                "|/tmp/x %P",
                "in no built-in profile",
            ),
            ("kernel.modprobe", "/tmp/x", "in no built-in profile"),
            ("vm.swappiness", "10", "in no built-in profile"),
            // Values of another kind.
            ("net.core.somaxconn", "many", "no value of it"),
            ("net.core.somaxconn", "1 2", "no value of it"),
            ("net.ipv4.tcp_rmem", "4096", "no value of it"),
            ("net.ipv4.ip_local_reserved_ports", "ssh", "no value of it"),
            (
                "net.ipv4.tcp_congestion_control",
                "/bin/sh",
                "no value of it",
            ),
        ] {
            with(key, value);
            for args in [&["restore"][..], &["restore", "--dry-run"]] {
                let said = run(bounded(TUNE).args(args).arg("--state").arg(&state));
                assert!(said.error().contains(expected), "{key} {value}: {said:#?}");
                assert_as_before(&before);
            }
        }
        // A profile that has the key makes it known; here it cannot be written.
        let profile = file(&folder, "vm.conf", "vm.swappiness = 20\n");
        with("vm.swappiness", "10");
        let said = tune(&[&"restore", &"--state", &state, &"--profile", &profile]);
        assert_eq!(said.code, 1, "{said:#?}");
        assert_eq!(now("net.ipv4.tcp_retries2"), "9");
        assert!(
            said.row("vm.swappiness")[3].starts_with("FAILED: "),
            "{said:#?}"
        );
    });
}
