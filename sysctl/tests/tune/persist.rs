//! Settings that outlive a reboot: three files, which other programs can read, and which are taken
//! away again.

use std::fs;
use std::path::Path;

use super::common::*;

const SYSCTL: &str = "/etc/sysctl.d/90-holdfast.conf";
const LIMITS: &str = "/etc/security/limits.d/90-holdfast.conf";
const SYSTEMD: &str = "/etc/systemd/system.conf.d/90-holdfast.conf";
const FILES: [&str; 3] = [SYSCTL, LIMITS, SYSTEMD];

const PROFILE: &str = "\
#: rule at-least\nnet.core.somaxconn = 5000
net.ipv4.tcp_fin_timeout = 60
#: rule covers\nnet.ipv4.ip_local_port_range = 1024 65535
net.ipv4.tcp_keepalive_probes = 70000
#: scope initial\nnet.core.rmem_max = 123456
-net.ipv4.tcp_tw_recycle = 0
#: rule at-least\n#: limit nofile = 8000000
";

/// The settings in a file, without comments.
fn lines(file: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(
        text.starts_with("# ") && text.contains("holdfast-tune restore --persist"),
        "{text}"
    );
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
#[ignore = "needs namespaces: make test"]
fn written_and_removed() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, PROFILE);
        let before = snapshot();
        let said = tune(&[
            &"apply",
            &"--persist",
            &"--profile",
            &profile,
            &"--state",
            &state,
        ]);
        // One value is refused.
        assert_eq!(said.code, 1, "{said:#?}");
        for file in FILES {
            assert!(
                said.out.contains(&format!("{file}: written")),
                "{}",
                said.out
            );
        }
        // Not what was refused, locked or absent: an error at every boot.
        assert_eq!(
            lines(SYSCTL),
            [
                "-net.core.somaxconn = 5000",
                "-net.ipv4.tcp_fin_timeout = 60",
                "-net.ipv4.ip_local_port_range = 1024 65535"
            ]
        );
        assert_eq!(
            lines(LIMITS),
            ["* hard nofile 8000000", "root hard nofile 8000000"]
        );
        assert_eq!(
            lines(SYSTEMD),
            ["[Manager]", "DefaultLimitNOFILE=1024:8000000"]
        );

        // Written again, with other values: replaced, as it is ours.
        let more = file(&folder, "more.conf", PROFILE.replace("5000", "6000"));
        tune(&[
            &"apply",
            &"--persist",
            &"--profile",
            &more,
            &"--state",
            &state,
        ]);
        assert_eq!(lines(SYSCTL)[0], "-net.core.somaxconn = 6000");

        let restored = tune(&[&"restore", &"--persist", &"--state", &state]);
        assert_eq!(restored.code, 0, "{restored:#?}");
        for file in FILES {
            assert!(
                restored.out.contains(&format!("{file}: removed")),
                "{}",
                restored.out
            );
            assert!(!Path::new(file).exists());
            assert!(
                names(Path::new(file).parent().unwrap()).is_empty(),
                "{file}"
            );
        }
        assert_as_before(&before);
        let again = tune(&[&"restore", &"--persist", &"--state", &state]);
        assert_eq!(again.code, 0);
        assert!(
            again.out.contains(&format!("{SYSCTL}: does not exist")),
            "{}",
            again.out
        );
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn sysctl_reads_what_was_written() {
    within(|| {
        let folder = folder();
        let profile = file(
            &folder,
            "mine.conf",
            PROFILE.replace("net.ipv4.tcp_keepalive_probes = 70000\n", ""),
        );
        let state = folder.path().join("state.json");
        assert_eq!(
            tune(&[
                &"apply",
                &"--persist",
                &"--profile",
                &profile,
                &"--state",
                &state
            ])
            .code,
            0
        );
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_eq!(now("net.core.somaxconn"), "4096");
        // As at the next boot.
        let said = run(bounded("sysctl").args(["-p", SYSCTL]));
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:#?}");
        assert_eq!(now("net.core.somaxconn"), "5000");
        assert_eq!(now("net.ipv4.ip_local_port_range"), "1024 65535");
        // It is a profile too, and what it says is there.
        let check = tune(&[&"check", &"--profile", &SYSCTL]);
        assert_eq!(check.row("net.core.somaxconn")[3], "ok");
        assert!(check.out.contains("nothing to change"), "{}", check.out);
        // Settings already as wanted are still written down for the next boot.
        fs::remove_file(SYSCTL).unwrap();
        assert_eq!(
            tune(&[
                &"apply",
                &"--persist",
                &"--profile",
                &profile,
                &"--state",
                &state
            ])
            .code,
            0
        );
        assert_eq!(lines(SYSCTL)[0], "-net.core.somaxconn = 5000");
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn files_of_others() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, PROFILE);
        fs::create_dir_all("/etc/sysctl.d").unwrap();
        fs::create_dir_all(SYSTEMD).unwrap();
        let foreign = "# Mine.\nnet.core.somaxconn = 1\n";
        fs::write(SYSCTL, foreign).unwrap();
        for dry in [&["--dry-run"][..], &[]] {
            let said = run(bounded(TUNE)
                .args(["apply", "--persist", "--profile"])
                .arg(&profile)
                .arg("--state")
                .arg(&state)
                .args(dry));
            assert_eq!(said.code, 1, "{said:#?}");
            assert!(
                said.out.contains(&format!(
                    "{SYSCTL}: FAILED: {SYSCTL} was not written by holdfast-tune"
                )),
                "{}",
                said.out
            );
            assert!(
                said.out.contains(&format!("{SYSTEMD}: FAILED: ")),
                "{}",
                said.out
            );
        }
        // The settings themselves were made, and the file that could be written was.
        assert_eq!(now("net.core.somaxconn"), "5000");
        assert_eq!(lines(LIMITS).len(), 2);

        let restored = tune(&[&"restore", &"--persist", &"--state", &state]);
        assert_eq!(restored.code, 1, "{restored:#?}");
        assert!(
            restored.out.contains(&format!(
                "{SYSCTL}: FAILED: {SYSCTL} was not written by holdfast-tune"
            )),
            "{}",
            restored.out
        );
        assert!(!Path::new(LIMITS).exists());
        assert_eq!(fs::read_to_string(SYSCTL).unwrap(), foreign);
        assert_eq!(now("net.core.somaxconn"), "4096");
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn nothing_without_being_asked() {
    within(|| {
        let folder = folder();
        let (profile, state) = profile_and_state(&folder, PROFILE);
        tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
        assert!(names("/etc".as_ref()).is_empty());
        // What was persisted stays when only the present settings are put back.
        tune(&[
            &"apply",
            &"--persist",
            &"--profile",
            &profile,
            &"--state",
            &state,
        ]);
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert!(FILES.iter().all(|file| Path::new(file).exists()));
    });
}
