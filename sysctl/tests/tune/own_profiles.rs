//! Profiles of the user's own: what sysctl.d(5) allows, and errors with file, line and what was
//! expected.

use std::fs;
use std::process::{Command, Stdio};

use super::common::*;

/// The error of each verb that takes a profile; it is the same for all of them.
fn refused(profile: &std::path::Path) -> String {
    let verbs = [
        vec!["check"],
        vec!["plan"],
        vec!["apply", "--yes"],
        vec!["apply", "--dry-run"],
    ];
    let mut errors = verbs.iter().map(|verb| {
        let said = run(bounded(TUNE).args(verb).arg("--profile").arg(profile));
        assert_eq!(said.out, "", "{verb:?} went on: {said:#?}");
        said.error().to_owned()
    });
    let first = errors.next().unwrap();
    assert!(errors.all(|error| error == first));
    first
}

#[test]
#[ignore = "needs namespaces: make test"]
fn syntax_errors() {
    within(|| {
        let folder = folder();
        let before = snapshot();
        for (text, expected) in [
            (
                "net.core.somaxconn = 1\n\n# Fine.\nnet.core.somaxconn\n",
                ":4: found 'net.core.somaxconn', expected key = value, -key, or a comment with #",
            ),
            (
                "net.core.somaxconn =\n",
                ":1: found nothing, expected a value after the =",
            ),
            (
                "net.ipv4.ip_local_port_range = 01024 65535\n",
                ":1: found '01024 65535', expected plain numbers: the kernel reads 010 as octal, and no +5",
            ),
            (
                "= 5\n",
                ":1: found nothing, expected a key such as net.core.somaxconn before the =",
            ),
            (
                "--net.core.somaxconn = 1\n",
                ":1: found '-net.core.somaxconn', expected a key such as net.core.somaxconn before the =",
            ),
            (
                "a = 1\n",
                ":1: found 'a', expected a key such as net.core.somaxconn before the =",
            ),
            (
                "../../etc/passwd = 1\n",
                ":1: found '../../etc/passwd', expected a key such as net.core.somaxconn before the =",
            ),
            (
                "#: rule at-last\nnet.core.somaxconn = 1\n",
                ":1: found 'rule at-last', expected rule at-least, at-most, exactly, covers or contains",
            ),
            (
                "#: per-connection one\nnet.core.somaxconn = 1\n",
                ":1: found 'per-connection one', expected per-connection SHARE [plus N] [power-of-two] [max N], terms separated by commas",
            ),
            (
                "#: why x\n\nnet.core.somaxconn = 1\n",
                ":2: found nothing, expected key = value after the directives above it",
            ),
            (
                "\n\n#: shortfall now and then\nnet.core.somaxconn = 1\n",
                ":3: found 'shortfall now and then', expected shortfall stops, slows or none",
            ),
        ] {
            let profile = file(&folder, "mine.conf", text);
            let error = refused(&profile);
            let expected = format!("{}{expected}; next: ", profile.display());
            assert!(error.starts_with(&expected), "{text:?}: {error}");
        }
        // Whatever is in it, a terminal stays as it is.
        let error = refused(&file(&folder, "mine.conf", "\x1b[31mred\n"));
        assert!(!error.contains('\x1b'), "{error:?}");
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn sysctl_d_syntax() {
    within(|| {
        let folder = folder();
        // As systemd's own file has it: a glob, a key of its own, an exclusion; and a repeated key,
        // of which the last counts.
        let text = "net.ipv4.conf.*.rp_filter = 2\nnet.ipv4.conf.default.rp_filter = 1\n-net.ipv4.conf.all.rp_filter\n\
                    net.core.somaxconn = 5000\r\nnet.core.somaxconn = 6000\r\n-net.ipv4.missing = 1\n";
        let (profile, state) = profile_and_state(&folder, text);
        let before = snapshot();
        let check = tune(&[&"check", &"--profile", &profile]);
        assert_eq!((check.code, check.err.as_str()), (0, ""), "{check:#?}");
        assert_eq!(check.row("net.core.somaxconn")[2], "6000");
        assert_eq!(check.row("net.ipv4.conf.lo.rp_filter")[2], "2");
        assert_eq!(check.row("net.ipv4.conf.default.rp_filter")[2], "1");
        assert_eq!(check.row("net.ipv4.missing")[3], "absent");
        assert!(!check.out.contains("conf.all.rp_filter"), "{}", check.out);

        let applied = tune(&[&"apply", &"--profile", &profile, &"--state", &state]);
        assert_eq!(applied.code, 0, "{applied:#?}");
        assert_eq!(now("net.core.somaxconn"), "6000");
        assert_eq!(now("net.ipv4.conf.lo.rp_filter"), "2");
        assert_eq!(now("net.ipv4.conf.default.rp_filter"), "1");
        assert_eq!(now("net.ipv4.conf.all.rp_filter"), "0");
        assert_eq!(tune(&[&"restore", &"--state", &state]).code, 0);
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn missing_or_unreadable_profiles() {
    within(|| {
        let folder = folder();
        let before = snapshot();
        let missing = folder.path().join("missing.conf");
        assert!(refused(&missing).contains(&format!(
            "{} cannot be read (No such file",
            missing.display()
        )));
        assert!(refused(folder.path()).contains("Is a directory"));
        assert!(refused(&file(&folder, "binary", b"\xff\xfe\x00\x01\x80")).contains("UTF-8"));
        let noughts = refused(&file(&folder, "noughts", vec![0; 4096]));
        assert!(
            noughts.contains("noughts:1: found nothing, expected key = value"),
            "{noughts}"
        );
        let large = file(
            &folder,
            "large",
            "# 2 MiB of prose.\n".repeat((2 << 20) / 18),
        );
        assert!(refused(&large).contains("larger than 1 MiB"));
        // A file without an end is read to its bound only.
        assert!(refused("/dev/zero".as_ref()).contains("larger than 1 MiB"));
        assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn profile_from_a_pipe() {
    within(|| {
        // As the shell's <(command) gives it.
        let folder = folder();
        let profile = folder.path().join("pipe");
        nix::unistd::mkfifo(&profile, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writing = |script: &str| {
            let mut writer = bounded("sh");
            writer
                .args(["-c", script])
                .arg(&profile)
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut writer = writing("echo net.core.somaxconn = 5000 > \"$0\"");
        let said = tune(&[&"check", &"--profile", &profile]);
        writer.wait().unwrap();
        assert_eq!(said.row("net.core.somaxconn")[2], "5000");
        // One that never ends is read to the bound, and the writer ends as the reader is gone.
        let mut writer = writing("exec yes '# and so on' > \"$0\"");
        let said = tune(&[&"check", &"--profile", &profile]);
        assert!(said.error().contains("larger than 1 MiB"), "{said:#?}");
        writer.wait().unwrap();
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn several_profiles() {
    within(|| {
        let folder = folder();
        let one = file(
            &folder,
            "one.conf",
            "net.core.somaxconn = 5000\nnet.ipv4.tcp_retries2 = 9\n",
        );
        let two = file(
            &folder,
            "two.conf",
            "net.ipv4.tcp_fin_timeout = 30\nnet.core.somaxconn = 6000\n",
        );
        let said = tune(&[&"check", &"--profile", &one, &"--profile", &two]);
        assert_eq!(said.row("net.ipv4.tcp_retries2")[2], "9");
        assert_eq!(said.row("net.ipv4.tcp_fin_timeout")[2], "30");
        // As with sysctl, the last one counts.
        assert_eq!(said.row("net.core.somaxconn")[2], "6000");
        // A mistake in the second is one in the second.
        fs::write(&two, "nonsense\n").unwrap();
        let said = tune(&[&"check", &"--profile", &one, &"--profile", &two]);
        assert!(
            said.error().starts_with(&format!("{}:1: ", two.display())),
            "{said:#?}"
        );
    });
}

#[test]
#[ignore = "needs namespaces: make test"]
fn files_of_a_distribution() {
    within(|| {
        // What people have already, and what sysctl takes: no spaces, dashes, slashes, comments of
        // both kinds.
        let folder = folder();
        let text = "; old style\n#net.ipv4.ip_forward=1\nnet/core/somaxconn=5000\n  -net.ipv4.tcp_retries2   =  9  \nnet.ipv4.tcp_wmem=4096\t16384   4194304\n";
        let profile = file(&folder, "99-mine.conf", text);
        let said = tune(&[&"check", &"--profile", &profile]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:#?}");
        assert_eq!(
            said.row("net.core.somaxconn")[1..4],
            ["4096", "5000", "change"]
        );
        assert_eq!(said.row("net.ipv4.tcp_retries2")[2], "9");
        assert_eq!(said.row("net.ipv4.tcp_wmem")[2], "4096 16384 4194304");
        // Every such file on this machine can be read.
        for folder in ["/usr/lib/sysctl.d", "/lib/sysctl.d", "/run/sysctl.d"] {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                let mut check = Command::new("timeout");
                let said = run(check.args(["60", TUNE, "check", "--profile"]).arg(&path));
                assert!(said.code == 0, "{said:#?}");
            }
        }
    });
}
