//! Soak: 200,000 steady long connections with heartbeats, HTTP beside them, and 1,000 connections a
//! second that come and go: `make soak`.
//!
//! Half of the coming and going is HTTP (one connection for each request), half long connections
//! (each held 10 s), so that slots of both servers are used again all the time. Every 2 s the
//! resident memory of each process and the slabs of sockets go to a CSV file. It passes if no
//! connection was lost, all accounts agree, and memory is flat: from 100 s on (sockets rest in
//! TIME_WAIT for 60 s), the least-squares slope of means over 10 s (one round of coming and going)
//! and twice its standard error together stay below the bound.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use holdfast_telemetry::units::total;
use holdfast_testbed::running::Running;

use crate::stage::{
    Client, HttpClient, Stage, assert_none_failed, assert_requests, count, drain, open, same, saw,
    seconds, stop,
};

pub const PROMISE: &str = "200,000 connections stay while 1,000 a second come and go: none is lost or late by an interval, all accounts agree, memory is flat";

/// Growth an hour that counts as none, bytes. 3.6 million connections come and go in it: 8 MiB are
/// 2 bytes of each.
const RSS_BOUND: f64 = (8 << 20) as f64;
/// 18 bytes of each; less than a hundredth of what the steady ones take.
const SLAB_BOUND: f64 = (64 << 20) as f64;
/// Slabs of sockets. Not all slabs: dentries and page caches belong to whoever is on this machine.
const SLABS: [&str; 10] = [
    "TCP",
    "tw_sock_TCP",
    "request_sock_TCP",
    "tcp_bind_bucket",
    "tcp_bind2_bucket",
    "sock_inode_cache",
    "filp",
    "io_kiocb",
    "skbuff_head_cache",
    "skbuff_small_head",
];
const SETTLE_SECONDS: f64 = 100.0;
const SAMPLE: Duration = Duration::from_secs(2);
/// Samples of one round of coming and going.
const ROUND: usize = 5;

/// Long connections that come and go, 500 a second: clients in turn, each opens 5,000 over 10 s and
/// ends them.
struct Churn<'a> {
    stage: &'a Stage<'a>,
    running: Vec<Client>,
    turn: usize,
    due: Instant,
    opened: u64,
    lost: u64,
}

impl Churn<'_> {
    fn step(&mut self, is_last: bool) {
        for mut client in std::mem::take(&mut self.running) {
            if !is_last && client.exit_status().is_none() {
                self.running.push(client);
                continue;
            }
            let code = client.ended(seconds(60)).code();
            let last = client.last();
            same("exit code of a client that came and went", &[code, Some(0)]);
            self.opened += last.opened;
            self.lost += last.opened - count(&last.ended, "held") + total(&last.failed);
        }
        if !is_last && Instant::now() >= self.due {
            self.due = (self.due + seconds(10)).max(Instant::now());
            // Eight addresses in turn, so that ports rest.
            let source = self.stage.source(8 + self.turn % 8);
            self.turn += 1;
            let args = format!(
                "--users 5000 --spawn-rate 500 --interval 20s --run-time 20s --threads 1 --source {source}"
            );
            self.running.push(self.stage.client(&args));
        }
    }
}

pub fn run(stage: &Stage) {
    let users = stage.args.users.unwrap_or(200_000);
    let room = users + 30_000;
    for host in [stage.backend(), stage.clients()] {
        stage.set(host, "net.ipv4.tcp_max_tw_buckets", "1000000");
    }
    let mut server = stage.server(&format!("--connections {room} --interval 20s"));
    let mut web = stage.http_server("--connections 20000");
    let own: Vec<_> = (0..8).map(|number| stage.source(number)).collect();
    let (steady_from, coming_from) = (own[0..4].join(","), own[5..8].join(","));
    let args = format!("--users {users} --interval 20s --source {steady_from}");
    let mut steady = stage.client(&args);
    steady.until_within(seconds(180), "all open", |r| r.open_now == users);
    let ask = |args: &str| -> HttpClient { stage.http_client(&format!("{args} --threads 1")) };
    let mut asking = ask(&format!("--users 500 --rate 1000 --source {}", own[4]));
    let args = format!("--users 200 --rate 500 --no-keepalive --source {coming_from}");
    let mut coming = ask(&args);
    let mut churn = Churn {
        stage,
        running: Vec::new(),
        turn: 0,
        due: Instant::now(),
        opened: 0,
        lost: 0,
    };
    let names = [
        "server",
        "http_server",
        "client",
        "http_client",
        "churn_client",
        "slabs",
    ];
    let mut series: [Vec<(f64, f64)>; 6] = Default::default();
    let mut csv = File::create(&stage.args.csv).expect("a CSV file");
    let _ = writeln!(
        csv,
        "at_seconds,{}_rss_bytes,slab_bytes,open_now,churn_opened",
        names[..5].join("_rss_bytes,")
    );
    let since = Instant::now();
    let end = SETTLE_SECONDS + stage.args.minutes * 60.0;
    for step in 0.. {
        let at = since.elapsed().as_secs_f64();
        if at >= end {
            break;
        }
        churn.step(false);
        let row = [
            server.rss_bytes(),
            web.rss_bytes(),
            steady.rss_bytes(),
            asking.rss_bytes(),
            coming.rss_bytes(),
            slab_bytes(),
        ];
        let text = row.map(|value| value.to_string()).join(",");
        let _ = writeln!(
            csv,
            "{at:.1},{text},{},{}",
            server.last().open_now,
            churn.opened
        );
        if at >= SETTLE_SECONDS {
            for (points, value) in series.iter_mut().zip(row) {
                points.push((at, value as f64));
            }
        }
        let due = since + SAMPLE * (step + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    churn.step(true);
    let came = coming.last().opened;
    let codes = [stop(&mut coming), stop(&mut asking)];
    open(&web, 0);
    open(&server, users);
    stage.assert_open(steady.last().open_now, server.last().open_now, users);
    let code = steady.terminated(seconds(180));
    same(
        "exit codes",
        &[
            codes[0],
            codes[1],
            code,
            drain(&mut server),
            drain(&mut web),
            Some(0),
        ],
    );
    accounts(&steady, &server, &churn);
    for client in [&asking, &coming] {
        assert_none_failed(&client.last());
        assert_requests(&client.last());
    }
    stage.assert_quiet();
    let (ours, ok) = (steady.last(), count(&asking.last().outcomes, "ok"));
    saw(format!(
        "{} messages to {users} users, {} missed; {ok} requests on kept connections; came and went: {came} HTTP, {} long; CSV: {}",
        ours.messages_received,
        ours.messages_missed,
        churn.opened,
        stage.args.csv.display()
    ));
    let mut grown = Vec::new();
    for (name, points) in names.iter().zip(&series) {
        let bound = if *name == "slabs" {
            SLAB_BOUND
        } else {
            RSS_BOUND
        };
        let (slope, error) = slope_an_hour(points);
        let mib = f64::from(1 << 20);
        let first = points.first().map_or(0.0, |(_, value)| value / mib);
        println!(
            "      {name}: {first:.1} MiB, slope {:+.2} ± {:.2} MiB an hour, bound {:.0}, {} samples",
            slope / mib,
            2.0 * error / mib,
            bound / mib,
            points.len()
        );
        // A slope that is not a number has too few samples, and proves nothing.
        if (slope + 2.0 * error).partial_cmp(&bound) != Some(std::cmp::Ordering::Less) {
            grown.push(*name);
        }
    }
    assert!(grown.is_empty(), "memory is not flat: {grown:?}");
}

fn accounts(
    steady: &Client,
    server: &Running<holdfast_telemetry::wire::ServerReport>,
    churn: &Churn,
) {
    let (ours, theirs) = (steady.last(), server.last());
    assert!(
        ours.is_final && theirs.is_final,
        "both leave a final report"
    );
    let lost = ours.opened - count(&ours.ended, "held");
    let counts = [
        lost,
        total(&ours.failed),
        ours.messages_missed,
        ours.messages_wrong,
        churn.lost,
        0,
    ];
    same("lost, failed, missed, wrong", &counts);
    same(
        "opened, accepted, closed",
        &[
            ours.opened + churn.opened,
            theirs.accepted,
            total(&theirs.closed),
        ],
    );
    let unexpected = [&ours.anomalies, &theirs.anomalies].map(|counts| count(counts, "unexpected"));
    let skipped = count(&theirs.anomalies, "messages_skipped");
    same(
        "refused, skipped, unexpected",
        &[
            theirs.refused_full,
            skipped,
            unexpected[0],
            unexpected[1],
            0,
        ],
    );
}

/// Memory in slabs of sockets, bytes. slabinfo(5): name, three counts of objects, objects and pages
/// a slab, ..., slabs.
fn slab_bytes() -> u64 {
    let text = fs::read_to_string("/proc/slabinfo").expect("root");
    let sizes = text.lines().skip(2).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        SLABS
            .contains(fields.first()?)
            .then_some(number(14)? * number(5)? * 4_096)
    });
    sizes.sum()
}

/// Slope an hour and its standard error of a least-squares line through the means of whole rounds.
fn slope_an_hour(samples: &[(f64, f64)]) -> (f64, f64) {
    let mean = |values: &[(f64, f64)]| {
        let (x, y) = values
            .iter()
            .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (x / values.len() as f64, y / values.len() as f64)
    };
    let rounds: Vec<_> = samples.chunks_exact(ROUND).map(mean).collect();
    let (mean_x, mean_y) = mean(&rounds);
    let spread: f64 = rounds.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let together: f64 = rounds
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    let slope = together / spread;
    let rest = rounds
        .iter()
        .map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2));
    let freedom = rounds.len().saturating_sub(2).max(1) as f64;
    let error = (rest.sum::<f64>() / freedom / spread).sqrt();
    (slope * 3_600.0, error * 3_600.0)
}
