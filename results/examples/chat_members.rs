//! The members of a chat, for `holdfast-bench chat`: joins many, has one of them send, and checks that every message comes to every member
//! once.
//!
//! `chat_members ADDRESS:PORT MEMBERS MESSAGES`. SIGUSR1 begins a batch of messages, each of which is sent when all members have the
//! one before, after a pause in which the server falls asleep. SIGTERM ends. Standard output has a [`MembersReport`] for each change of
//! state.
//! Invariants: a member keeps 4 bytes: how many it has received. Since one message is under way at a time, they say which bytes must come
//! next; any other byte is counted as invalid. One thread, so that each arrival is seen when it is received.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use holdfast_engine::{
    CloseReason, Config, Conn, ConnId, Context, DialPlan, Engine, Handler, Shutdown, allowed_cores,
};
use holdfast_results::chat::members::{MEMBERS_SCHEMA, MembersReport};
use holdfast_sysctl::preflight;
use holdfast_telemetry::wire::Latency;
use tokio::signal::unix::{SignalKind, signal};

/// Length of a message, its line feed included.
const LENGTH: usize = 32;
const PAUSE_US: u64 = 50_000;
/// Ports of one source address that are counted on.
const PORTS_EACH: u64 = 60_000;
/// From one look at the members to the next.
const LOOK: Duration = Duration::from_millis(20);

fn message(number: u64) -> [u8; LENGTH] {
    let text = format!("{number:031}\n");
    text.as_bytes().try_into().expect("its length")
}

/// Starts a batch.
struct Begin;

struct Members {
    to_join: u64,
    count: u64,
    batch: u64,
    sender: Option<ConnId>,
    /// Messages of this batch that are still to be sent.
    left: u64,
    next_at_us: u64,
    current: [u8; LENGTH],
    sent_at: Instant,
    /// Members that have the current message.
    reached: u64,
    counts: MembersReport,
    delivery_us: Histogram<u64>,
    last_us: Histogram<u64>,
}

impl Members {
    fn new(count: u64, batch: u64) -> Self {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3).expect("sound bounds");
        Members {
            to_join: count,
            count,
            batch,
            sender: None,
            left: 0,
            next_at_us: 0,
            current: message(0),
            sent_at: Instant::now(),
            reached: count,
            counts: MembersReport::default(),
            delivery_us: histogram(),
            last_us: histogram(),
        }
    }

    fn arrived(&mut self, now_us: u64) {
        let time = self.sent_at.elapsed().as_micros() as u64;
        self.delivery_us.saturating_record(time);
        self.counts.delivered += 1;
        self.reached += 1;
        if self.reached == self.count {
            self.last_us.saturating_record(time);
            self.counts.batches += u64::from(self.left == 0);
            self.next_at_us = now_us + PAUSE_US;
        }
    }
}

impl Handler for Members {
    /// Bytes received.
    type State = u32;
    type Report = MembersReport;
    type Command = Begin;

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        self.counts.opened += 1;
        self.sender.get_or_insert(conn.id());
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        for byte in bytes {
            let place = *conn.state as usize;
            let is_current = (place / LENGTH) as u64 + 1 == self.counts.messages;
            if !is_current || self.current[place % LENGTH] != *byte {
                self.counts.invalid += 1;
                continue;
            }
            *conn.state += 1;
            if (place + 1).is_multiple_of(LENGTH) {
                self.arrived(conn.now_us());
            }
        }
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, u32>) {}

    fn on_close(&mut self, cx: &mut Context<'_, u32>, _: ConnId, _: &u32, _: CloseReason) {
        self.counts.ended += u64::from(!cx.is_stopping());
    }

    fn on_command(&mut self, _: &mut Context<'_, u32>, _: Begin) {
        self.left = self.batch;
        self.delivery_us.reset();
        self.last_us.reset();
    }

    fn on_turn(&mut self, cx: &mut Context<'_, u32>) -> Option<u64> {
        let dials = self.to_join.min(cx.dial_room() as u64);
        (0..dials).for_each(|_| cx.dial_planned(0));
        self.to_join -= dials;
        if self.to_join > 0 && !cx.is_stopping() {
            return Some(cx.now_us());
        }
        if self.left == 0 || self.reached < self.count {
            return None;
        }
        if cx.now_us() < self.next_at_us {
            return Some(self.next_at_us);
        }
        self.current = message(self.counts.messages);
        self.reached = 0;
        self.left -= 1;
        self.counts.messages += 1;
        self.sent_at = Instant::now();
        let sender = self.sender.expect("somebody joined");
        cx.send(sender, self.current.to_vec())
            .expect("there is room");
        None
    }

    fn report(&mut self, report: &mut MembersReport) {
        *report = MembersReport {
            delivery_us: latency(&self.delivery_us),
            last_us: latency(&self.last_us),
            ..self.counts.clone()
        };
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    Latency {
        count: histogram.len(),
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
    }
}

fn plan(target: SocketAddr, members: u64) -> Result<DialPlan, Box<dyn Error>> {
    let sources = (0..=members / PORTS_EACH).map(|n| {
        let n = n as u8;
        IpAddr::V4(Ipv4Addr::new(127, 2, 0, n + 1))
    });
    let plan = DialPlan::new(sources.collect(), 1_024..=65_535, vec![target], u64::MAX)?;
    Ok(plan)
}

fn report(engine: &Engine<MembersReport, Begin>, is_final: bool) -> MembersReport {
    let mut sum = MembersReport::default();
    for thread in engine.reports() {
        sum = thread.handler.clone();
        sum.failed = thread.stats.failed.iter().sum();
    }
    MembersReport {
        schema: MEMBERS_SCHEMA.into(),
        is_final,
        ..sum
    }
}

async fn watch(engine: &Engine<MembersReport, Begin>) -> Result<(), Box<dyn Error>> {
    let mut begin = signal(SignalKind::user_defined1())?;
    let mut end = signal(SignalKind::terminate())?;
    let mut told = None;
    loop {
        tokio::select! {
            _ = begin.recv() => engine.handle().send(0, Begin).map_err(|_| "the members have ended")?,
            _ = end.recv() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = report(engine, false);
        let state = (now.opened + now.failed, now.ended, now.batches, now.invalid);
        if told != Some(state) {
            println!("{}", serde_json::to_string(&now)?);
            told = Some(state);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [target, members, batch] = &words[..] else {
        return Err("usage: chat_members ADDRESS:PORT MEMBERS MESSAGES".into());
    };
    let (members, batch) = (members.parse()?, batch.parse()?);
    preflight::raise_nofile()?;
    let config = Config::builder()
        .capacity(members)
        .cores(allowed_cores())
        .build()?;
    let plan = plan(target.parse()?, members)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let engine = Engine::start(config, Vec::new(), Some(plan), |_| {
        Members::new(members, batch)
    })?;
    runtime.block_on(watch(&engine))?;
    println!("{}", serde_json::to_string(&report(&engine, true))?);
    engine.stop(Shutdown::Immediate);
    Ok(engine.join()?)
}
