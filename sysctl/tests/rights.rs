//! Preflight under other rights and limits than the tests have: each test runs this program again under a shell that
//! sets them.

use std::process::Command;

use holdfast_sysctl::preflight::{check_port, raise_nofile};

/// Set for a test that runs again inside a prepared process.
const INSIDE: &str = "HOLDFAST_TEST_INSIDE";

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs `test` of this program again, `$0` in a shell `script` being the command to run.
fn again(test: &str, script: &str) {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-euc", script])
        .arg(program)
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{script}: {said}"
    );
}

#[test]
fn privileged_port_without_the_capability() {
    if !inside() {
        // A namespace of its own has the default first unprivileged port, 1024; the root of it loses the capability.
        // The capability is dropped from the bounding set, so that also uid 0 starts without it.
        let user = if nix::unistd::geteuid().is_root() {
            ""
        } else {
            "--map-root-user"
        };
        let script = format!(
            "exec unshare {user} --net setpriv --bounding-set=-net_bind_service \
             --inh-caps=-net_bind_service \"$0\" \"$@\""
        );
        return again("privileged_port_without_the_capability", &script);
    }
    assert_eq!(
        check_port("0.0.0.0:80".parse().unwrap())
            .unwrap_err()
            .to_string(),
        "port 80 is privileged and this process has no CAP_NET_BIND_SERVICE; next: take a port \
         above 1023, or (as root) setcap cap_net_bind_service=+ep PROGRAM, or sysctl -w \
         net.ipv4.ip_unprivileged_port_start=80"
    );
    check_port("0.0.0.0:1024".parse().unwrap()).unwrap();
}

#[test]
fn soft_descriptor_limit_is_raised_to_the_hard_one() {
    if !inside() {
        let script = "ulimit -Sn 128; ulimit -Hn 512; exec \"$0\" \"$@\"";
        return again("soft_descriptor_limit_is_raised_to_the_hard_one", script);
    }
    let raised = raise_nofile().unwrap();
    assert_eq!(
        raised.to_string(),
        "descriptor limit 128 raised to the hard limit 512"
    );
    // 128 would end this loop.
    let open: Vec<_> = (0..400)
        .map(|_| std::fs::File::open("/dev/null").unwrap())
        .collect();
    assert_eq!(open.len(), 400);
    assert_eq!(
        raise_nofile().unwrap().to_string(),
        "descriptor limit 512, soft and hard"
    );
}
