//! Server and client killed at full size, which a test at small size cannot show: `make
//! faults-million`.

use std::time::Instant;

use holdfast_telemetry::units::total;

use crate::stage::{Client, PORT, Server, Stage, count, kill, pause, same, saw, seconds, stop};
use holdfast_testbed::running::{Running, until_within};

pub const PROMISE: &str = "a million connections, the client is killed: every slot is free and as many are served again without a restart; the server is killed: each loss is counted, exit code 1, a server started meanwhile serves; ulimit -n 4096 holds 200,000";

/// How long all of them may take to open or to close.
const ALL_MAX: u64 = 600;

pub fn run(stage: &Stage) {
    let users = stage.args.users.unwrap_or(1_000_000);
    const RUN: &str = "--interval 60s --run-time 20m --users";
    let client = |users: u64| -> Client { stage.client(&format!("{RUN} {users}")) };
    let args = format!("--interval 60s --connections {users}");
    let mut server = stage.server(&args);
    let mut first = client(users);
    until_open(&server, users);
    kill(&mut first);
    let since = Instant::now();
    until_open(&server, 0);
    saw(format!(
        "client killed: {users} places free after {} s",
        since.elapsed().as_secs()
    ));
    let mut second = client(users);
    until_open(&server, users);
    saw(format!("{users} served again without a restart"));

    kill_without_waiting(&server);
    let since = Instant::now();
    // The next one starts while the killed one is still dying; its port may be taken for a moment.
    let mut next = started_beside(stage, &args);
    same(
        "exit code of the client",
        &[second.ended(seconds(ALL_MAX)).code(), Some(1)],
    );
    let lost = second.last();
    same(
        "each loss is in one class",
        &[total(&lost.ended), lost.opened, users],
    );
    saw(format!(
        "server killed: {} counted after {} s",
        lost.opened,
        since.elapsed().as_secs()
    ));
    server.ended(seconds(ALL_MAX));
    let some = users.min(10_000);
    let mut third = client(some);
    until_open(&next, some);
    saw(format!(
        "a server started beside the dying one serves {some}"
    ));
    stop(&mut third);
    stop(&mut next);

    let few = users.min(200_000);
    let limited = ["prlimit", "--nofile=4096:4096"];
    let args = format!("--interval 60s --connections {few}");
    let mut server = stage.server_behind(&limited, &args);
    let mut last = stage.client_behind(&limited, &format!("{RUN} {few}"));
    until_open(&server, few);
    let rings = server.last().shard_count;
    same("held under ulimit -n 4096", &[server.last().open_now, few]);
    let code = stop(&mut last);
    same("exit codes", &[code, stop(&mut server), Some(0)]);
    same("held to the end", &[count(&last.last().ended, "held"), few]);
    saw(format!("ulimit -n 4096: {few} over {rings} rings"));
}

fn until_open(server: &Server, wanted: u64) {
    let what = format!("{wanted} open");
    server.until_within(seconds(ALL_MAX), &what, |r| r.open_now == wanted);
}

fn kill_without_waiting(server: &Server) {
    server.signal(nix::sys::signal::Signal::SIGKILL);
}

/// A server that waits for the port of one that is ending.
fn started_beside(stage: &Stage, args: &str) -> Server {
    let line = format!("holdfast-server longconn --listen 0.0.0.0:{PORT} {args}");
    let command = || stage.program(stage.backend(), &[], &line);
    let mut server: Server = Running::start(command());
    until_within(seconds(120), "it listens, or says why not", || {
        if server.exit_status().is_some() {
            let errors = server.errors();
            assert!(errors.contains("next:"), "it says why not: {errors}");
            pause(1);
            server = Running::start(command());
        }
        !server.last().listen.is_empty()
    });
    server
}
