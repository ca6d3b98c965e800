//! Names of servers: they are looked up again during a run, and proxies are not used.

use std::fs;
use std::io::Write;
use std::process::Command;

use holdfast_telemetry::wire::HttpClientReport;

use crate::assert_balanced;
use crate::common::{Running, count, own_address, program};
use crate::server::{HELLO, HttpServer};

/// The client in a mount namespace where `hosts` is `/etc/hosts`.
fn with_hosts(hosts: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#)
        .args(["sh", hosts])
        .arg(program("holdfast-client"))
        .args(["http", "--progress", "json", "--die-with-parent"])
        .args(args);
    command
}

#[test]
#[ignore = "needs unshare: make test"]
fn name_that_moves_during_the_run_is_followed() {
    let (old, new) = (own_address(), own_address());
    let answer = |_: &crate::server::Asked<'_>, stream: &mut std::net::TcpStream| {
        stream.write_all(HELLO).is_ok()
    };
    let before = HttpServer::on((old, 0).into(), answer);
    let port = before.address().port();
    let after = HttpServer::on((new, port).into(), answer);
    let file = std::env::temp_dir().join(format!("holdfast-hosts-{}", std::process::id()));
    fs::write(&file, format!("{old} moving.test\n")).unwrap();
    let url = format!("http://moving.test:{port}/");
    let args = [
        "--target",
        &url,
        "--users",
        "2",
        "--no-keepalive",
        "--wait",
        "50ms",
    ];
    let users: Running<HttpClientReport> =
        Running::start(with_hosts(&file.display().to_string(), &args));
    users.until("asked at the old address", |r| {
        count(&r.outcomes, "ok") >= 2
    });
    assert_eq!((before.asked() > 0, after.asked()), (true, 0));
    fs::write(&file, format!("{new} moving.test\n")).unwrap();
    users.until("asked at the new address", |_| after.asked() > 2);
    // A name that is gone keeps its last address.
    fs::write(&file, "").unwrap();
    let gone = users.until("a report", |_| true).at_us;
    users.until("5 s later", |r| r.at_us > gone + 5_000_000);
    let outcome = users.stop();
    assert_balanced(&outcome);
    let last = outcome.last();
    assert_eq!(
        (outcome.code(), count(&last.outcomes, "ok")),
        (Some(0), last.requests - count(&last.outcomes, "stopped")),
        "{last:?}"
    );
    fs::remove_file(file).unwrap();
}

#[test]
fn proxy_of_the_environment_is_said_to_be_ignored() {
    let server = HttpServer::saying(HELLO);
    let url = format!("http://{}/", server.address());
    for (name, is_said) in [
        ("http_proxy", true),
        ("ALL_PROXY", true),
        ("https_proxy", false),
    ] {
        let mut client = Command::new(program("holdfast-client"));
        client.args(["http", "--target", &url, "--requests", "2"]);
        for other in ["http_proxy", "all_proxy", "ALL_PROXY"] {
            client.env_remove(other);
        }
        client.env(name, "http://127.0.0.1:1/");
        let output = client.output().expect("the client runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let remark = format!("{name} is set and ignored");
        assert_eq!(
            errors.matches(&remark).count(),
            usize::from(is_said),
            "{errors}"
        );
    }
}
