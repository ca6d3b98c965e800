//! Runs from the command line: what the master writes is what the server counted.

use holdfast_telemetry::wire::HttpServerReport;

use crate::common::{Folder, Server, ServerOf, count, own_address};
use crate::master::{LOCUSTFILE, Master};
use crate::{http, longconn, worker};

fn headless(name: &str, host: &str, args: &[&str]) -> Master {
    let common = [
        "--headless",
        "--expect-workers",
        "1",
        "--host",
        host,
        "--csv",
        "figures",
        "--html",
        "report.html",
    ];
    Master::start(name, &[&common, args].concat())
}

#[test]
#[ignore = "needs Locust: make test"]
fn long_connections_are_in_the_tables_to_the_last_message() {
    let server = Server::start(&["--connections", "1000", "--every", "500ms"]);
    let mut master = headless(
        "tables",
        &server.address.to_string(),
        &[
            "-u",
            "600",
            "-r",
            "300",
            "-t",
            "7s",
            "--longconn-every",
            "30s",
            "LongConn",
        ],
    );
    let histograms = master.folder.file("histograms.hlog");
    let worker = worker(
        &master.address(),
        &["--histogram-log", &histograms, "--workers", "3"],
    );
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let outcome = worker.outcome();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    let served = server.running.stop().last();
    let own = longconn(&outcome, 0);
    master.assert_unhurt();
    assert_eq!(
        (served.accepted, own.opened, count(&own.ended, "held")),
        (600, 600, 600),
        "{own:?}"
    );
    assert_eq!(master.figure("connect", "Request Count"), 600);
    assert_eq!(master.figure("connect", "Failure Count"), 0);
    // The last of them came in the half second the master still listens.
    assert_eq!(own.messages_received, served.messages_sent);
    assert_eq!(master.figure("recv", "Request Count"), served.messages_sent);
    assert_eq!(master.figure("recv", "Failure Count"), 0);
    let html = std::fs::read_to_string(master.folder.file("report.html")).expect("a report");
    assert!(html.contains("recv") && html.contains("connect"));
    let log = std::fs::read_to_string(&histograms).expect("a log");
    let times = crate::hlog::histograms(&log);
    let times = ["connect", "lateness"].map(|tag| times[tag].len());
    assert_eq!(
        times,
        [600, own.lateness_us.count],
        "each time is in one interval"
    );
}

#[test]
#[ignore = "needs Locust: make test"]
fn http_requests_are_in_the_tables() {
    let server = ServerOf::<HttpServerReport>::start(&[]);
    let mut master = headless(
        "http",
        &format!("http://{}", server.address),
        &[
            "-u",
            "200",
            "-r",
            "200",
            "-t",
            "6s",
            "--http-wait",
            "100ms..300ms",
            "--http-path",
            "/a?b=c",
            "Http",
        ],
    );
    let worker = worker(&master.address(), &[]);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let outcome = worker.outcome();
    let own = http(&outcome, 0);
    let served = server.running.stop().last();
    master.assert_unhurt();
    let (ok, answered) = (count(&own.outcomes, "ok"), count(&served.responses, "200"));
    assert_eq!(
        (own.opened, own.outcomes.len() <= 2),
        (200, true),
        "{own:?}"
    );
    // Those asked and not answered when the master quit are nobody's requests.
    assert!(
        (ok..=ok + count(&own.outcomes, "stopped")).contains(&answered),
        "{own:?} {answered}"
    );
    assert_eq!(master.figure("/a?b=c", "Request Count"), ok);
    assert_eq!(master.figure("/a?b=c", "Failure Count"), 0);
    assert_eq!(master.row("figures_stats.csv", "/a?b=c")[0].1, "GET");
}

#[test]
#[ignore = "needs Locust: make test"]
fn failures_are_in_the_tables_and_in_the_exit_code() {
    let nobody = std::net::SocketAddr::from((own_address(), 9));
    let mut master = headless(
        "failures",
        &nobody.to_string(),
        &["-u", "20", "-r", "20", "-t", "5s", "LongConn"],
    );
    let worker = worker(&master.address(), &["--source", &own_address().to_string()]);
    assert_eq!(master.end().code(), Some(1), "{}", master.log());
    let outcome = worker.outcome();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    let own = longconn(&outcome, 0);
    let refused = count(&own.failed, "refused");
    assert!(refused >= 20 && own.opened == 0, "{own:?}");
    assert_eq!(master.figure("connect", "Request Count"), refused);
    assert_eq!(master.figure("connect", "Failure Count"), refused);
    let failure = master.row("figures_failures.csv", "connect");
    assert_eq!(
        (&*failure[2].1, &*failure[3].1),
        ("refused", &*refused.to_string())
    );
}

/// A shape that goes up in steps, down, and ends.
const SHAPE: &str = "
from locust import LoadTestShape

class Steps(LoadTestShape):
    def tick(self):
        steps = [(3, 100, 100), (6, 250, 150), (9, 40, 210)]
        left = [(users, rate) for until, users, rate in steps if self.get_run_time() < until]
        return left[0] if left else None
";

#[test]
#[ignore = "needs Locust: make test"]
fn load_shape_goes_up_and_down_without_restarting_users() {
    let server = Server::start(&["--every", "1s"]);
    let folder = Folder::new("shape");
    let file = folder.file("locustfile.py");
    let own_file = std::fs::read_to_string(LOCUSTFILE).expect("the locustfile");
    std::fs::write(&file, own_file + SHAPE).expect("a file");
    let host = server.address.to_string();
    let args = [
        "--headless",
        "--expect-workers",
        "1",
        "--host",
        &host,
        "--longconn-every",
        "30s",
        "--csv",
        "figures",
        "LongConn",
    ];
    let mut master = Master::on(own_address(), &file, folder, &args);
    let worker = worker(&master.address(), &[]);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let own = longconn(&worker.outcome(), 0);
    let served = server.running.stop().last();
    master.assert_unhurt();
    assert_eq!(
        (served.accepted, served.open_max, own.opened),
        (250, 250, 250),
        "nobody came twice"
    );
    assert_eq!(
        (count(&own.ended, "stopped"), count(&own.ended, "held")),
        (210, 40),
        "{own:?}"
    );
    assert_eq!(own.messages_received, served.messages_sent);
    assert_eq!(master.figure("recv", "Failure Count"), 0);
}
