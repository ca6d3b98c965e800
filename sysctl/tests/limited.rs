//! Preflight checks with other privileges and limits than the test process has: each test runs this
//! program again under a shell that sets them.

use std::process::Command;

use holdfast_sysctl::Machine;
use holdfast_sysctl::preflight::{
    check_locked_memory, check_port, raise_nofile, rings_in_locked_memory,
};
use nix::sys::resource::{Resource, getrlimit};

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
        .args([test, "--exact", "--include-ignored", "--nocapture"])
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
#[ignore = "needs namespaces: make test"]
fn privileged_port_without_the_capability() {
    if !inside() {
        // A namespace of its own has the default first unprivileged port, 1024; the root of it
        // loses the capability. The capability is dropped from the bounding set, so that also uid 0
        // starts without it.
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
        "port 80 is privileged and this process has no CAP_NET_BIND_SERVICE; next: choose a port \
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

#[test]
fn too_few_descriptors_are_an_error() {
    if !inside() {
        for limit in [16, 24, 63] {
            let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
            again("too_few_descriptors_are_an_error", &script);
        }
        return;
    }
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(
        raise_nofile().unwrap_err().to_string(),
        format!(
            "the descriptor limit is {limit}, at least 64 are needed; \
             next: ulimit -n 20000 (as root, or in /etc/security/limits.conf), then start again"
        )
    );
}

#[test]
fn locked_memory_of_an_unprivileged_user_is_limited() {
    if !inside() {
        let drop_privileges = match nix::unistd::geteuid().is_root() {
            true => "setpriv --bounding-set=-all --inh-caps=-all",
            false => "",
        };
        let script = format!("ulimit -l 200; exec {drop_privileges} \"$0\" \"$@\"");
        return again("locked_memory_of_an_unprivileged_user_is_limited", &script);
    }
    let machine = Machine::read().unwrap();
    assert_eq!(machine.locked_memory_bytes, Some(200 << 10));
    // 200 - 28 = 172 KiB: three rings of 56.
    assert_eq!(rings_in_locked_memory(&machine, 1), Some(3));
    check_locked_memory(&machine, 1, 3).unwrap();
    let error = check_locked_memory(&machine, 1, 4).unwrap_err().to_string();
    assert!(
        error.contains("locked memory (RLIMIT_MEMLOCK)") && error.contains("ulimit -l 252"),
        "{error}"
    );
}
