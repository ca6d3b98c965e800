//! A saved state that is not what it should be: nothing is changed from it, and it is said what to do.

use std::fs;
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
fn beside_the_user() {
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
fn what_cannot_be_put_back_is_kept() {
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
