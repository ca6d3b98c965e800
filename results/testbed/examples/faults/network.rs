//! Faults of the network: the link goes down, packets are lost, connections are reset, handshakes
//! are never completed.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use holdfast_telemetry::units::total;
use holdfast_testbed::running::until_within;
use socket2::{Domain, Protocol, Socket, Type};

use crate::stage::{
    PORT, Stage, assert_accounts, assert_none_failed, assert_requests, count, drain, open, pause,
    same, saw, seconds, shown, stop,
};

pub const LINK: &str = "50,000 connections, the link is down for 8 s: none is lost, every message sent arrives, late ones are reported";

pub fn link(stage: &Stage) {
    const USERS: u64 = 50_000;
    let args = "--connections 50000 --interval 2s";
    let mut server = stage.server(args);
    let mut client = stage.client("--users 50000 --interval 2s");
    open(&client, USERS);
    open(&server, USERS);
    pause(4);
    let rss = server.rss_bytes();
    stage.run(stage.clients(), "ip link set eth0 down");
    pause(2);
    let silent = client.last().messages_received;
    pause(6);
    let received = client.last().messages_received;
    same("received while the link is down", &[silent, received]);
    stage.run(stage.clients(), "ip link set eth0 up");
    let since = Instant::now();
    // Caught up: as many arrive in a second as are due, and nothing that was sent is missing.
    until_within(seconds(90), "all that was sent has arrived", || {
        let (sent, received) = (server.last().messages_sent, client.last().messages_received);
        sent.abs_diff(received) <= USERS / 2 && received > silent + 3 * USERS
    });
    let caught_up = since.elapsed().as_secs();
    let resent = stage.counter(stage.backend(), "RetransSegs");
    assert!(resent > 0, "segments were sent again");
    stage.assert_open(client.last().open_now, server.last().open_now, USERS);
    let grown = server.rss_bytes().saturating_sub(rss);
    assert!(grown <= 16 << 20, "the server grew by {grown} bytes");
    let code = stop(&mut client);
    drain(&mut server);
    let (ours, theirs) = (client.last(), server.last());
    assert_accounts(&ours, &theirs);
    same(
        "messages sent, received",
        &[theirs.messages_sent, ours.messages_received],
    );
    let kept = count(&ours.ended, "held") + count(&ours.ended, "missed_message");
    same("none lost", &[kept, USERS]);
    let missed = ours.messages_missed;
    assert!(
        code == Some(1) && missed > 0,
        "late messages are reported: {code:?}"
    );
    stage.assert_quiet();
    saw(format!(
        "8 s down, caught up {caught_up} s after; none of {USERS} lost, {} of {} messages, {missed} came when the next was due, \
         {resent} segments sent again",
        ours.messages_received, theirs.messages_sent
    ));
}

pub const LINK_LONG: &str = "the link is down until the kernels give up on 10,000 connections: both ends count each, and all come back when it is up";

pub fn link_long(stage: &Stage) {
    const USERS: u64 = 10_000;
    for host in [stage.backend(), stage.clients()] {
        stage.set(host, "net.ipv4.tcp_retries2", "3");
    }
    let mut server = stage.server("--connections 10000 --interval 1s");
    let args =
        "--users 10000 --interval 1s --send up --send-interval 1s --reconnect --connect-timeout 3s";
    let mut client = stage.client(args);
    open(&client, USERS);
    open(&server, USERS);
    stage.run(stage.clients(), "ip link set eth0 down");
    let since = Instant::now();
    open(&client, 0);
    let lost = open(&server, 0).closed.clone();
    let given_up = since.elapsed().as_secs();
    same(
        "the server has each lost one in a class",
        &[total(&lost), USERS],
    );
    stage.run(stage.clients(), "ip link set eth0 up");
    let since = Instant::now();
    open(&client, USERS);
    open(&server, USERS);
    let back = since.elapsed().as_secs();
    stage.assert_open(client.last().open_now, server.last().open_now, USERS);
    stop(&mut client);
    drain(&mut server);
    let (ours, theirs) = (client.last(), server.last());
    assert_accounts(&ours, &theirs);
    assert!(
        theirs.accepted >= 2 * USERS && theirs.refused_full == 0,
        "places were free again"
    );
    stage.assert_quiet();
    saw(format!(
        "all given up on after {given_up} s, all back {back} s after the link was up; server: {}; client: {}; attempts meanwhile: {}",
        shown(&lost),
        shown(&ours.ended),
        shown(&ours.failed)
    ));
}

pub const LOSS: &str = "5% of packets are lost both ways under 10,000 connections and HTTP: all open, nothing is lost or wrong";

pub fn loss(stage: &Stage) {
    const USERS: u64 = 10_000;
    let mut server = stage.server("--connections 10000 --interval 1s");
    let mut web = stage.http_server("");
    // A classic BPF filter asks the kernel for a random number, so that no netem is needed:
    // ld rand; jge limit -> keep; ret TC_ACT_SHOT; ret TC_ACT_OK
    let limit = u64::from(u32::MAX) * 5 / 100;
    let filter = format!(
        "4,32 0 0 {},53 1 0 {limit},6 0 0 2,6 0 0 0",
        0xFFFF_F038_u32
    );
    let hosts = [stage.backend(), stage.clients()];
    for host in hosts {
        stage.run(host, "tc qdisc add dev eth0 clsact");
        let mut words = "tc filter add dev eth0 ingress bpf da bytecode"
            .split(' ')
            .collect::<Vec<_>>();
        words.push(&filter);
        assert!(
            stage.on(host, &words).status().is_ok_and(|s| s.success()),
            "a filter"
        );
    }
    let args = "--users 10000 --spawn-rate 2000 --interval 1s --connect-timeout 60s";
    let mut client = stage.client(args);
    let mut asking = stage.http_client("--users 500 --wait 100ms --connect-timeout 60s");
    open(&client, USERS);
    pause(10);
    stop(&mut asking);
    let dropped: u64 = hosts
        .map(|host| {
            let text = stage.run(host, "tc -s qdisc show dev eth0 clsact");
            stage.run(host, "tc qdisc del dev eth0 clsact");
            let after = text.split("dropped ").nth(1).expect("a count of drops");
            let digits = after.split(|c: char| !c.is_ascii_digit()).next();
            digits
                .and_then(|n| n.parse::<u64>().ok())
                .expect("a number")
        })
        .iter()
        .sum();
    // A handshake whose last segment was lost is open for the client first, until the server has
    // asked again.
    open(&server, USERS);
    same("client, server", &[client.last().open_now, USERS]);
    // What still waits to be sent again comes within the longest pause that so few losses make.
    pause(8);
    let code = stop(&mut client);
    drain(&mut server);
    drain(&mut web);
    let (ours, theirs, asked) = (client.last(), server.last(), asking.last());
    assert_accounts(&ours, &theirs);
    assert!(dropped > 1_000, "packets were dropped: {dropped}");
    same("none fails", &[total(&ours.failed), 0]);
    same(
        "messages sent, received",
        &[theirs.messages_sent, ours.messages_received],
    );
    assert_none_failed(&asked);
    assert_requests(&asked);
    let ok = count(&asked.outcomes, "ok");
    let under_way = count(&web.last().responses, "200").checked_sub(ok);
    assert!(
        under_way.is_some_and(|n| n <= 500),
        "answers without a request: {under_way:?}"
    );
    stage.assert_quiet();
    saw(format!(
        "{dropped} packets dropped; {} messages, {} late by an interval, exit code {code:?}; {ok} requests ok",
        ours.messages_received, ours.messages_missed
    ));
}

pub const RESETS: &str = "20,000 forged resets hit nobody; about 5,000 true ones are counted once by each end, and those users come back";

pub fn resets(stage: &Stage) {
    const USERS: u64 = 10_000;
    let mut server = stage.server("--connections 10000 --interval 1s");
    let source = stage.source(0);
    let args =
        format!("--users 10000 --interval 1s --reconnect --ports 20000-34999 --source {source}");
    let mut client = stage.client(&args);
    open(&client, USERS);
    open(&server, USERS);
    let segments = || stage.counter(stage.backend(), "InSegs");
    let before = segments();
    let own = stage.clients().addresses[0];
    forge(stage, RST, 20_000, |number| {
        (own, 20_000 + (number % 10_000) as u16)
    });
    pause(2);
    let arrived = segments() - before;
    let bad = stage.counter(stage.backend(), "InCsumErrors");
    assert!(
        arrived >= 20_000 && bad == 0,
        "forged ones arrived whole: {arrived}, bad {bad}"
    );
    let hit = total(&server.last().closed) + total(&client.last().ended);
    same("none falls to a forged reset", &[hit, 0]);
    let kill = format!("ss -K -t state established sport = :{PORT} and dport lt :25000");
    stage.run(stage.backend(), &kill);
    client.until("all are back", |r| {
        r.open_now == USERS && total(&r.ended) > 0
    });
    open(&server, USERS);
    stage.assert_open(client.last().open_now, server.last().open_now, USERS);
    let hit = count(&server.last().closed, "reset");
    same(
        "resets at server, client",
        &[hit, count(&client.last().ended, "reset")],
    );
    assert!(
        (4_000..=5_000).contains(&hit),
        "as many as had such a port: {hit}"
    );
    stop(&mut client);
    drain(&mut server);
    let (ours, theirs) = (client.last(), server.last());
    assert_accounts(&ours, &theirs);
    same(
        "opened, accepted, users + those that came back",
        &[ours.opened, theirs.accepted, USERS + hit],
    );
    stage.assert_quiet();
    saw(format!(
        "{arrived} segments while 20,000 were forged, none hit; {hit} true ones counted at both ends, all back"
    ));
}

pub const HALF_OPEN: &str = "300,000 SYNs from forged sources: 5,000 users get in meanwhile, none fails, no handshake takes a place";

pub fn half_open(stage: &Stage) {
    const USERS: u64 = 5_000;
    let (backend, main) = (stage.backend(), stage.clients().addresses[0]);
    stage.run(backend, &format!("ip route add 10.98.0.0/16 via {main}"));
    stage.set(backend, "net.ipv4.tcp_synack_retries", "1");
    stage.set(backend, "net.core.somaxconn", "4096");
    let mut server = stage.server("--connections 5000 --interval 1s");
    let flood = |seed: u64| {
        let mut random = seed;
        forge(stage, SYN, 150_000, move |number| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let [_, _, high, low] = (number as u32).to_be_bytes();
            (
                Ipv4Addr::new(10, 98, high, low),
                1_024 + ((random >> 40) % 60_000) as u16,
            )
        })
    };
    let (mut client, is_during) = std::thread::scope(|scope| {
        let floods = [1, 2].map(|seed| scope.spawn(move || flood(seed)));
        pause(1);
        let args = "--users 5000 --spawn-rate 1000 --interval 1s";
        let client = stage.client(args);
        open(&client, USERS);
        open(&server, USERS);
        let is_during = floods.iter().any(|flood| !flood.is_finished());
        (client, is_during)
    });
    assert!(is_during, "users get in while it goes on");
    let cookies = stage.counter(backend, "SyncookiesSent");
    assert!(cookies > 0, "the flood overran the queue of handshakes");
    pause(3);
    stage.assert_open(client.last().open_now, server.last().open_now, USERS);
    until_within(seconds(60), "no handshake waits any more", || {
        stage
            .run(backend, "ss -Htn state syn-recv")
            .trim()
            .is_empty()
    });
    let code = stop(&mut client);
    drain(&mut server);
    let (ours, theirs) = (client.last(), server.last());
    assert_accounts(&ours, &theirs);
    same("accepted only who exists", &[theirs.accepted, USERS]);
    same(
        "refused, failed",
        &[theirs.refused_full, total(&ours.failed), 0],
    );
    same(
        "messages sent, received",
        &[theirs.messages_sent, ours.messages_received],
    );
    stage.assert_quiet();
    saw(format!(
        "{cookies} cookies sent; users in within {:.0} ms at most, exit code {code:?}",
        ours.connect_us.max as f64 / 1e3
    ));
}

const SYN: u8 = 2;
const RST: u8 = 4;

/// Sends `count` forged TCP segments from the client host to the server, 15,000 a second, so that
/// it lasts.
fn forge(
    stage: &Stage,
    flags: u8,
    count: u64,
    mut from: impl FnMut(u64) -> (Ipv4Addr, u16) + Send,
) {
    let target = stage.backend().addresses[0];
    let send = || {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("root");
        let to = std::net::SocketAddr::from((target, 0)).into();
        let since = Instant::now();
        for number in 0..count {
            if number % 150 == 0 {
                let due = Duration::from_micros(number * 1_000_000 / 15_000);
                std::thread::sleep(due.saturating_sub(since.elapsed()));
            }
            let (source, port) = from(number);
            raw.send_to(&segment(source, port, target, number as u32, flags), &to)
                .expect("sent");
        }
    };
    stage.clients().inside(send).expect("the host is there");
}

/// An IPv4 packet with a TCP segment without data.
fn segment(source: Ipv4Addr, port: u16, target: Ipv4Addr, number: u32, flags: u8) -> Vec<u8> {
    let sequence = number.wrapping_mul(2_654_435_761);
    let ends = [source.octets(), target.octets()].concat();
    let mut tcp = [
        &port.to_be_bytes()[..],
        &PORT.to_be_bytes(),
        &sequence.to_be_bytes(),
    ]
    .concat();
    tcp.extend([0, 0, 0, 0, 0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    let pseudo = [&ends[..], &[0, 6, 0, 20], &tcp].concat();
    let mut sum: u32 = pseudo
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    tcp[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    // Version and length, 40 bytes, no fragments, 64 hops, TCP; the kernel fills in the checksum.
    [&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0][..], &ends, &tcp].concat()
}
