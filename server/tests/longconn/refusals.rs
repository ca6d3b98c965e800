//! What a server says when it cannot start: one line with cause and next command, exit code 2.

use std::net::TcpListener;
use std::process::Command;

use holdfast_telemetry::wire::ServerReport;

use crate::common::{
    Folder, LONGCONN_ARGS, Running, Server, program, refusal, said_in_a_new_network,
};

#[test]
fn a_port_in_use_names_who_has_it() {
    let first = Server::start(&[]);
    let outcome = refusal("holdfast-server", &["--listen", &first.address.to_string()]);
    // The kernel keeps the first 15 bytes of a name.
    outcome.assert_refused(&[
        &first.address.port().to_string(),
        "holdfast-server",
        &format!("pid {}", first.running.pid()),
        "next:",
    ]);
}

#[test]
fn port_of_another_process_is_not_shared() {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let outcome = refusal("holdfast-server", &["--listen", &address]);
    outcome.assert_refused(&[&format!("pid {}", std::process::id()), "--listen"]);
}

#[test]
fn a_privileged_port_is_refused_to_a_plain_user() {
    // The user must be able to reach the program, whatever folder it was built in.
    let folder = Folder::new("privileged");
    let copy = folder.file("holdfast-server");
    std::fs::copy(program("holdfast-server"), &copy).unwrap();
    let mut command = if nix::unistd::geteuid().is_root() {
        // A network of its own has the kernel's default of net.ipv4.ip_unprivileged_port_start,
        // whatever this one has.
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            &copy,
        ]);
        command
    } else {
        Command::new(&copy)
    };
    command.args(LONGCONN_ARGS).args(["--listen", "0.0.0.0:80"]);
    let outcome = Running::<ServerReport>::start(command).outcome();
    outcome.assert_refused(&["80", "next:"]);
}

#[test]
fn bad_values_are_refused_with_code_2() {
    let too_long = "m".repeat(16_385);
    for (flag, value) in [
        ("--connections", "0"),
        ("--connections", "many"),
        ("--connections", "1000000001"),
        ("--interval", "5x"),
        ("--interval", "1ms"),
        ("--interval", "2d"),
        ("--message", ""),
        ("--message", &too_long),
        ("--idle-timeout", "0s"),
        ("--listen", "127.0.0.1:x"),
        ("--listen", "unix:/run/holdfast"),
        ("--listen", "127.0.0.1:70000"),
        ("--listen", "no-such-host.invalid:0"),
        ("--listen", "192.0.2.1:0"),
        ("--threads", "0"),
        ("--batch-delay", "-1"),
        ("--progress", "loud"),
        ("--json", "/nowhere/at/all.json"),
        ("--no-such-flag", "1"),
    ] {
        let outcome = refusal("holdfast-server", &[flag, value]);
        assert_eq!(
            outcome.code(),
            Some(2),
            "{flag} {value:.20}: {}",
            outcome.errors
        );
        let first = outcome.errors.lines().next().unwrap_or_default().to_owned();
        assert!(
            first.starts_with("error: ") && first.len() > 20,
            "{flag} {value:.20}: {first}"
        );
        assert!(outcome.reports.is_empty(), "{flag} {value:.20}");
    }
}

#[test]
fn more_than_memory_holds_is_refused_with_what_fits() {
    let outcome = refusal("holdfast-server", &["--connections", "1000000000"]);
    outcome.assert_refused(&["next:", "1,000,000,000"]);
}

/// somaxconn is 4096 in a new namespace: too little for so many, and no reason not to start.
#[test]
#[ignore = "needs namespaces: make test"]
fn too_small_kernel_settings_are_reported_with_the_command() {
    let said = said_in_a_new_network(
        "holdfast-server",
        &[
            "longconn",
            "--listen",
            "127.0.0.1:7070",
            "--connections",
            "20000",
        ],
    );
    let line = said
        .lines()
        .find(|line| line.contains("holdfast-tune"))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(line.starts_with("net.core.somaxconn "), "{line}");
    assert!(
        line.contains("too low for 20,000 connections; next: ")
            && line.ends_with("holdfast-tune check --role server --connections 20000"),
        "{line}"
    );
    // So few want nothing.
    let said = said_in_a_new_network(
        "holdfast-server",
        &[
            "longconn",
            "--listen",
            "127.0.0.1:7070",
            "--connections",
            "100",
        ],
    );
    assert!(
        said.contains("holding up to 100") && !said.contains("holdfast-tune"),
        "{said}"
    );
}
