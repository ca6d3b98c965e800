//! `holdfast-server http` against `holdfast-client http`, with scripted peers among both: requests
//! and responses cut anywhere, broken anywhere, never read, never finished.

use std::sync::{Arc, OnceLock};

use holdfast_client::http::counters::Counters;
use holdfast_client::http::mix::Mix;
use holdfast_client::http::outcome::Outcome as Ended;
use holdfast_client::http::request::{Batch, Parts, render};
use holdfast_client::http::request_limit::RequestLimit;
use holdfast_client::http::response::{Expectations, parse_statuses};
use holdfast_client::http::schedule::Schedule;
use holdfast_client::http::url;
use holdfast_client::http::user::{Model, UserConfig, Users};
use holdfast_client::load::Load;
use holdfast_engine::Handler;
use holdfast_engine::sim::Random;
use holdfast_http1::Limits;
use holdfast_server::http::responder::{REFUSALS, Responder, ResponderReport, Timeouts};
use holdfast_server::http::response::{Responses, Template, WallClock};

use super::shifting;
use super::sides::{Sides, add_hostile, config, plan, world};
use crate::run::{Outcome, Run};

static BODIES: [&[u8]; 3] = [b"ok", &[b'b'; 3_000], &[b'B'; 20_000]];
const LIMITS: Limits = Limits {
    head_bytes_max: 1_024,
    target_bytes_max: 256,
    header_count_max: 16,
    body_bytes_max: 20_000,
};

/// What clients send: rendered once, since what is rendered is never given back.
fn batches() -> &'static [(Batch, bool, bool)] {
    static ALL: OnceLock<Vec<(Batch, bool, bool)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let url = url::parse("http://a/").expect("a URL");
        let one = |method: &str, count, body: Option<usize>, is_last| {
            let parts = Parts {
                method: method.to_owned(),
                body: body.map(|length| vec![b'p'; length]),
                is_last,
                count,
                ..Parts::default()
            };
            let batch = render(&url, &parts).expect("a batch");
            (batch, method == "HEAD", is_last)
        };
        vec![
            one("GET", 1, None, false),
            one("GET", 16, None, false),
            one("GET", 128, None, false),
            one("HEAD", 3, None, false),
            one("POST", 2, Some(3_000), false),
            one("POST", 1, Some(6_000), false),
            one("GET", 1, None, true),
            one("GET", 4, None, true),
        ]
    })
}

/// What scripted peers send to the server.
fn requests() -> Vec<Vec<u8>> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        text("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        text("GET / HTTP/1.1\r\nHost: a\r\n\r\n").repeat(50),
        text("GET / HTTP/1.0\r\n\r\n"),
        text("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        text("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"),
        text("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n01234"),
        text(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n01234",
        ),
        text(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        text("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
        text("GET / HTTP/1.1\r\nHost: a\r\nX: ")
            .into_iter()
            .chain([b'x'; 3_000])
            .collect(),
        text("\r\n\r\nnonsense\r\n\r\n"),
        text("GET /"),
    ]
}

/// What scripted servers answer.
fn responses() -> Vec<Vec<u8>> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").repeat(16),
        text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        text("HTTP/1.1 200 OK\r\n\r\nok"),
        text("HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        text("HTTP/1.1 100 Continue\r\n\r\n"),
        text("SSH-2.0-x\r\n\r\n"),
    ]
}

fn timeouts(random: &mut Random) -> Timeouts {
    let mut time_ms = || random.magnitude(5, 3_000) as u32;
    Timeouts {
        header_ms: time_ms(),
        read_ms: time_ms(),
        write_ms: time_ms(),
        idle_ms: time_ms(),
    }
}

fn user(random: &mut Random, users: u64, body: &'static [u8]) -> UserConfig {
    let (batch, was_head, is_reconnecting) =
        batches()[random.below(batches().len() as u64) as usize];
    let model = match random.below(4) {
        0 => Model::Open(Schedule {
            users,
            batch: u64::from(batch.count()),
            rate_milli: random.magnitude(10_000, 2_000_000),
        }),
        1 => Model::Closed(0, 0),
        _ => Model::Closed(1_000, random.magnitude(1_000, 300_000)),
    };
    UserConfig {
        model,
        mix: Mix::one(batch),
        expectations: Expectations {
            was_head,
            limits: Limits::default(),
            statuses: parse_statuses("200").expect("a status"),
            body: (!was_head).then_some(body),
        },
        is_reconnecting,
        is_connecting_timed: is_reconnecting,
        is_retrying: random.once_in(2),
        timeout_us: random.magnitude(5_000, 3_000_000),
        request_limit: Arc::new(RequestLimit::new(Some(random.magnitude(1, 400)))),
    }
}

pub(super) fn run(run: Run) -> Outcome {
    let world = world(run);
    let (server, client, plan, template, timeouts, user, load, has_hostile) = {
        let mut world = world.lock().expect("it is new");
        let has_hostile = world.random().once_in(3);
        let answers = responses();
        add_hostile(&mut world, &requests(), has_hostile.then_some(&answers));
        let random = world.random();
        // As the two programs set them.
        let server = config(random)
            .to_builder()
            .pending_bytes_max(LIMITS.head_bytes_max + 128 * 1_024)
            .build()
            .expect("sizes an engine can have");
        let client = config(random)
            .to_builder()
            .reads_while_blocked(true)
            .pending_bytes_max(16_384)
            .build()
            .expect("sizes an engine can have");
        let body = random.pick(&BODIES);
        let template = Template {
            status: 200,
            headers: "Content-Type: text/plain\r\n".to_owned(),
            body,
        };
        let users = random.magnitude(1, 40);
        let load = Load::new(users, random.pick(&[Load::MAX, 20_000, 500_000]));
        let load = (load, users);
        let timeouts = timeouts(random);
        let user = user(random, users, body);
        let plan = plan(random, has_hostile);
        (
            server,
            client,
            plan,
            template,
            timeouts,
            user,
            load,
            has_hostile,
        )
    };
    let (load, users) = load;
    let now_us = world.lock().expect("nobody panicked with it").now_us();
    let sides = Sides {
        world: &world,
        server: &server,
        client: &client,
        plan: &plan,
        canary: run.canary,
        seed: run.seed,
    };
    sides.run_commanded(
        || {
            let responses = Responses::new(template.clone(), WallClock::default());
            Responder::new(responses, LIMITS, timeouts)
        },
        Users::new(user, load, 0, 1, 0),
        |_| Vec::new(),
        shifting::changes(now_us, users, run.seed),
        |coverage, servers, client| {
            let mut tally = Counters::default();
            client.handler().report(&mut tally);
            let ended: u64 = tally.outcomes.iter().sum();
            assert_eq!(ended, tally.requests, "each request ended in one class");
            let outcome = |dials: Ended| tally.outcomes[dials as usize];
            if !has_hostile {
                assert_eq!(outcome(Ended::WrongBody), 0, "every body is the right one");
            }
            for (ended, name) in Ended::ALL {
                coverage.count(name, tally.outcomes[*ended as usize]);
            }
            for server in servers {
                let mut report = ResponderReport::default();
                server.handler().report(&mut report);
                coverage.count("answered", report.answered);
                coverage.count("timed_out_408_or_closed", report.timed_out.iter().sum());
                for (status, count) in REFUSALS.iter().zip(report.refused) {
                    let name = match status {
                        400 => "refused_400",
                        408 => "refused_408",
                        413 => "refused_413",
                        414 => "refused_414",
                        431 => "refused_431",
                        _ => "refused_other",
                    };
                    coverage.count(name, count);
                }
            }
        },
    )
}
