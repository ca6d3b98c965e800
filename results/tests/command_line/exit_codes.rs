//! Exit codes: 0 done, 1 fell short, 2 usage or set-up error.

use std::net::TcpListener;

use crate::{PROGRAMS, errors, help, program, run};

#[track_caller]
fn assert_code(wanted: i32, line: &str) {
    let words: Vec<_> = line.split(' ').collect();
    let output = run(&words);
    let said = errors(&output);
    assert_eq!(
        output.status.code(),
        Some(wanted),
        "holdfast-{line}: {said}"
    );
    // The code is one that the help explains.
    let text = help(&words[..1]);
    let (_, codes) = text
        .split_once("Exit codes:")
        .unwrap_or_else(|| panic!("holdfast-{} --help explains no exit codes", words[0]));
    let is_listed = codes
        .split(|c: char| !c.is_ascii_digit())
        .any(|word| word == wanted.to_string());
    assert!(is_listed, "{wanted} is not in:{codes}");
}

#[test]
fn usage_and_set_up_errors_are_2_in_every_program() {
    for name in PROGRAMS {
        assert!(program(name).is_file());
        assert_code(0, &format!("{name} --help"));
        assert_code(0, &format!("{name} --version"));
        assert_code(2, name);
        assert_code(2, &format!("{name} no-such-command"));
        assert_code(2, &format!("{name} --no-such-flag"));
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    for line in [
        &format!("server longconn --listen {address}"),
        "server http --body-file /no-such-folder/body",
        "server longconn --json /no-such-folder/report",
        "client longconn --target nonsense",
        "client http --target http://127.0.0.1:1/ --histogram-log /no-such-folder/log",
        "client worker --master nonsense",
        "bench longconn --users 0",
        "bench longconn --bin-dir /no-such-folder",
        "bench list --results-dir /no-such-folder",
        "bench show no-such-run",
        "bench compare no-such-run no-other-run",
        "tune check --profile /no-such-folder/profile",
        "tune plan --machine /no-such-folder/machine",
        "tune explain no.such.setting",
        "tune check --connections 0",
    ] {
        assert_code(2, line);
    }
}

#[test]
fn what_falls_short_is_1() {
    // Nobody listens on port 1 of this address.
    for line in [
        "client longconn --target 127.9.9.9:1 --users 1",
        "client http --target http://127.9.9.9:1/ --requests 1",
        "tune plan --connections 1000000000",
        "tune check --connections 1000000000",
    ] {
        assert_code(1, line);
    }
}

#[test]
fn what_is_done_is_0() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    // One user that is accepted, held for a second and closed.
    let held = std::thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().expect("a user");
        stream.read_to_end(&mut Vec::new())
    });
    let line = format!("client longconn --target {address} --users 1 --run-time 1s --interval 0s");
    assert_code(0, &line);
    let _ = held.join();
    assert_code(0, "tune plan --connections 1000");
    assert_code(0, "tune explain");
}
