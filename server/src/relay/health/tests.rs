//! Checks against sockets on loopback that accept, refuse, answer, stall and come back.

use std::cell::Cell;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::relay::backends::{Pick, Picker};
use crate::relay::config::{BackendConfig, CheckConfig, PoolConfig, RelayConfig, SendProxy};

/// Runs a test on a runtime like the control plane's.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tasks = tokio::task::LocalSet::new();
    let test = async { timeout(Duration::from_secs(30), test).await };
    tasks.block_on(&runtime, test).expect("ends in 30 s");
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn check(kind: CheckKind) -> CheckConfig {
    CheckConfig {
        kind,
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(200),
        ..CheckConfig::default()
    }
}

/// A pool of backends called 0, 1 and so on.
fn pool(check: CheckConfig, addresses: &[SocketAddr]) -> PoolConfig {
    let backend = |(number, address): (usize, &SocketAddr)| -> BackendConfig {
        format!("{address},name={number}").parse().unwrap()
    };
    PoolConfig {
        backend: addresses.iter().enumerate().map(backend).collect(),
        check,
        ..PoolConfig::default()
    }
}

fn topology(pool: PoolConfig, old: Option<&Topology>) -> Arc<Topology> {
    let config = RelayConfig {
        pool: [("p".to_owned(), pool)].into(),
        ..RelayConfig::default()
    };
    let topology = match old {
        None => Topology::new(&config),
        Some(old) => old.next(&config),
    };
    let topology = topology.unwrap();
    topology.install();
    Arc::new(topology)
}

fn backend<'a>(topology: &'a Topology, name: &str) -> &'a Arc<Backend> {
    &topology.pool("p").unwrap().member(name).unwrap().backend
}

/// Checks once.
async fn probed(config: &PoolConfig) -> Result<String, String> {
    let backend = &config.backend[0];
    let probe = Probe::new(config.check.kind, config, backend);
    probe.run(backend.address.literal().unwrap()).await
}

/// Answers every connection with `answer` once it has sent `length` bytes, which are returned through
/// the channel.
fn answer(
    listener: TcpListener,
    length: usize,
    answer: &'static [u8],
) -> tokio::sync::mpsc::UnboundedReceiver<Vec<u8>> {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = vec![0; length];
            if stream.read_exact(&mut asked).await.is_ok() {
                let _ = tell.send(asked);
                let _ = stream.write_all(answer).await;
                // What is left is read until the checker ends.
                let _ = stream.read(&mut [0; 1_024]).await;
            }
        }
    });
    told
}

#[test]
fn connect_check_passes_if_accepted_and_fails_if_refused() {
    run(async {
        let (listener, address) = listen().await;
        let config = pool(check(CheckKind::Tcp), &[address]);
        let passed = probed(&config).await.unwrap();
        assert!(passed.starts_with("connected in "), "{passed}");
        drop(listener);
        let failed = probed(&config).await.unwrap_err();
        assert!(failed.contains("Connection refused"), "{failed}");
    });
}

#[test]
fn answer_must_begin_as_expected() {
    run(async {
        for (answered, passes) in [
            (&b"+PONG\r\n"[..], true),
            (b"+PONG", true),
            (b"-LOADING\r\n", false),
            (b"+PO", false),
        ] {
            let (listener, address) = listen().await;
            let mut asked = answer(listener, 6, answered);
            let mut config = pool(check(CheckKind::Tcp), &[address]);
            config.check.send = r"PING\r\n".to_owned();
            config.check.expect = "+PONG".to_owned();
            let outcome = probed(&config).await;
            assert_eq!(outcome.is_ok(), passes, "{outcome:?}");
            assert_eq!(asked.recv().await.unwrap(), b"PING\r\n");
        }
    });
}

#[test]
fn http_check_passes_below_status_400_only() {
    run(async {
        for (answered, expected) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], Ok("status 200")),
            (b"HTTP/1.0 302 Found\r\n", Ok("status 302")),
            (b"HTTP/1.1 404 Not Found\r\n", Err("status 404")),
            (b"HTTP/1.1 503 Unavailable\r\n", Err("status 503")),
            (b"SSH-2.0-x\r\n", Err("something other than HTTP/1")),
            (b"HTTP/1.1 2x0 OK\r\n", Err("something other than HTTP/1")),
        ] {
            let (listener, address) = listen().await;
            let mut asked = answer(listener, 30, answered);
            let mut config = pool(check(CheckKind::Http), &[address]);
            config.check.path = "/health".to_owned();
            config.check.host = "x.test".to_owned();
            let outcome = probed(&config).await;
            match (&outcome, expected) {
                (Ok(text), Ok(part)) | (Err(text), Err(part)) => assert!(text.contains(part)),
                _ => panic!("{outcome:?}"),
            }
            let asked = asked.recv().await.unwrap();
            assert!(asked.starts_with(b"GET /health HTTP/1.1\r\nHost: "));
        }
    });
}

/// haproxy/haproxy#511, pires/go-proxyproto#12: a backend that wants a PROXY header gets one from checks
/// too, and one that names no client.
#[test]
fn checks_begin_with_proxy_local_where_the_pool_sends_proxy() {
    run(async {
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        let cases = [
            (SendProxy::V1, true, &b"PROXY UNKNOWN\r\n"[..]),
            (SendProxy::V2, true, v2),
            (SendProxy::V2, false, b""),
        ];
        for (send_proxy, by_checks, header) in cases {
            for (kind, body) in [
                (CheckKind::Tcp, "HELLO"),
                (CheckKind::Http, "GET / HTTP/1.1"),
            ] {
                let (listener, address) = listen().await;
                let mut asked = answer(listener, header.len() + body.len(), b"HTTP/1.1 200 OK");
                let mut config = pool(check(kind), &[address]);
                config.send_proxy = send_proxy;
                config.check.send_proxy = by_checks;
                config.check.send = "HELLO".to_owned();
                config.check.expect = "HTTP".to_owned();
                probed(&config).await.unwrap();
                let asked = asked.recv().await.unwrap();
                assert_eq!(asked, [header, body.as_bytes()].concat());
            }
        }
    });
}

/// inverse-inc/packetfence#5184: a frozen process still accepts, and a connect check passes.
#[test]
fn backend_that_accepts_and_never_answers_fails_only_checks_that_want_an_answer() {
    run(async {
        // Nobody accepts: the kernel does.
        let (_listener, address) = listen().await;
        let mut config = pool(check(CheckKind::Tcp), &[address]);
        probed(&config).await.unwrap();
        config.check.expect = "220".to_owned();
        let failed = probed(&config).await.unwrap_err();
        assert!(failed.contains("timeout after 200ms while waiting for an answer"));
        config.check.kind = CheckKind::Http;
        let failed = probed(&config).await.unwrap_err();
        assert!(failed.contains("while waiting for an answer"), "{failed}");
    });
}

#[test]
fn backend_that_ends_or_resets_before_it_answers_fails() {
    run(async {
        let (listener, address) = listen().await;
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        let failed = probed(&pool(check(CheckKind::Http), &[address])).await;
        let failed = failed.unwrap_err();
        assert!(
            failed.contains("of answer") || failed.contains("reset"),
            "{failed}"
        );
    });
}

#[test]
fn another_port_can_be_checked() {
    run(async {
        let (listener, address) = listen().await;
        let (other, checked) = listen().await;
        drop(listener);
        let mut config = pool(check(CheckKind::Tcp), &[address]);
        config.check.port = checked.port();
        probed(&config).await.unwrap();
        drop(other);
        probed(&config).await.unwrap_err();
    });
}

/// What a watcher told, and the watcher.
struct Watched {
    watcher: Watcher,
    changes: Rc<RefCell<Vec<Change>>>,
}

fn watch(topology: &Arc<Topology>) -> Watched {
    let changes: Rc<RefCell<Vec<Change>>> = Rc::default();
    let told = Rc::clone(&changes);
    let watcher = Watcher::start(Arc::clone(topology), move |change| {
        told.borrow_mut().push(change);
    });
    Watched { watcher, changes }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = timeout(Duration::from_secs(10), waits).await;
    assert!(waited.is_ok(), "{what}");
}

/// haproxy/haproxy#1234: a server that came back was never marked up again.
#[test]
fn backend_goes_down_and_comes_up_again_every_time() {
    run(async {
        let (listener, address) = listen().await;
        let topology = topology(pool(check(CheckKind::Tcp), &[address]), None);
        let watched = watch(&topology);
        let mut picker = Picker::new(Arc::clone(topology.pool("p").unwrap()), 0);
        let client: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let mut listener = Some(listener);
        for round in 0..4 {
            listener.take();
            let is_none = |pick: Pick<'_>| match pick {
                Pick::Backend(backend, _) => {
                    backend.release();
                    false
                }
                _ => true,
            };
            until("goes down", || is_none(picker.pick(client))).await;
            assert_eq!(backend(&topology, "0").health(), Health::Down);
            let again = TcpListener::bind(address).await;
            listener = Some(again.expect("its port is free"));
            until("comes up", || !is_none(picker.pick(client))).await;
            assert_eq!(watched.changes.borrow().len(), 2 * round + 2);
        }
        let changes = watched.changes.borrow();
        assert!(changes[0].reason.contains("refused"), "{:?}", changes[0]);
        assert!(changes[1].reason.contains("connected"), "{:?}", changes[1]);
    });
}

#[test]
fn only_the_failing_backend_goes_down() {
    run(async {
        let (first, one) = listen().await;
        let (second, two) = listen().await;
        let topology = topology(pool(check(CheckKind::Tcp), &[one, two]), None);
        let _watched = watch(&topology);
        drop(first);
        let down = || backend(&topology, "0").health() == Health::Down;
        until("goes down", down).await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(backend(&topology, "1").health(), Health::Up);
        drop(second);
    });
}

#[test]
fn failures_of_clients_take_a_backend_down_and_checks_bring_it_back() {
    run(async {
        let (listener, address) = listen().await;
        let topology = topology(pool(check(CheckKind::None), &[address]), None);
        let watched = watch(&topology);
        sleep(Duration::from_millis(100)).await;
        let a = backend(&topology, "0");
        let status = || topology.pool("p").unwrap().status(Instant::now())[0].clone();
        assert_eq!(
            status().checks_passed,
            0,
            "nothing is checked while it is up"
        );
        drop(listener);
        a.connect_failed();
        a.connect_failed();
        sleep(Duration::from_millis(50)).await;
        assert_eq!(a.health(), Health::Up);
        a.connect_failed();
        until("goes down", || a.health() == Health::Down).await;
        let reason = watched.changes.borrow()[0].reason.clone();
        assert_eq!(reason, "3 connections of clients in a row failed");
        until("is checked", || status().checks_failed > 3).await;
        assert_eq!(a.health(), Health::Down);
        let _listener = TcpListener::bind(address).await.unwrap();
        until("comes up", || a.health() == Health::Up).await;
        assert_eq!(status().checks_passed, 2, "rise");
    });
}

#[test]
fn pool_that_is_not_passive_ignores_failures_of_clients() {
    run(async {
        let (_listener, address) = listen().await;
        let mut check = check(CheckKind::None);
        check.passive = false;
        let topology = topology(pool(check, &[address]), None);
        let _watched = watch(&topology);
        for _ in 0..100 {
            backend(&topology, "0").connect_failed();
            backend(&topology, "0").reset_early();
        }
        sleep(Duration::from_millis(50)).await;
        assert_eq!(backend(&topology, "0").health(), Health::Up);
    });
}

/// haproxy/haproxy#1946: with everything down, a flood of failing connections costs the control plane
/// one look at a time.
#[test]
fn flood_of_failures_wakes_the_control_plane_at_most_once_for_each_publish() {
    run(async {
        let addresses: Vec<SocketAddr> = (1..=50)
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect();
        let mut config = check(CheckKind::None);
        config.interval = Duration::from_secs(3_600);
        let topology = topology(pool(config, &addresses), None);
        let watched = watch(&topology);
        let backends: Vec<_> = topology.members().map(|m| Arc::clone(&m.backend)).collect();
        let flood = std::thread::spawn(move || {
            for _ in 0..10_000 {
                for backend in &backends {
                    backend.connect_failed();
                }
            }
        });
        until("the flood ends", || flood.is_finished()).await;
        let down = || {
            topology
                .members()
                .all(|m| m.backend.health() == Health::Down)
        };
        until("all are down", down).await;
        assert_eq!(watched.changes.borrow().len(), 50, "each once");
    });
}

#[test]
fn cut_is_ordered_for_the_connections_there_are_spread_over_its_period() {
    run(async {
        for (on_down, cut_per_second) in [
            (OnDown::Keep, None),
            (OnDown::Drain, None),
            (OnDown::Cut, Some(50)),
        ] {
            let (listener, address) = listen().await;
            let mut config = pool(check(CheckKind::Tcp), &[address]);
            config.on_down = on_down;
            config.cut_over = Duration::from_secs(2);
            let topology = topology(config, None);
            let pool = Arc::clone(topology.pool("p").unwrap());
            let mut picker = Picker::new(pool, 0);
            for _ in 0..100 {
                picker.pick(address);
            }
            let watched = watch(&topology);
            drop(listener);
            until("goes down", || !watched.changes.borrow().is_empty()).await;
            let change = watched.changes.borrow()[0].clone();
            assert_eq!(change.cut_per_second, cut_per_second);
        }
    });
}

#[test]
fn disabled_backend_is_not_checked_and_a_draining_one_is() {
    run(async {
        let (listener, address) = listen().await;
        let topology = topology(pool(check(CheckKind::Tcp), &[address]), None);
        let a = backend(&topology, "0");
        a.set_admin_state(AdminState::Disabled);
        let _watched = watch(&topology);
        let checks = || {
            let status = topology.pool("p").unwrap().status(Instant::now());
            status[0].checks_passed + status[0].checks_failed
        };
        sleep(Duration::from_millis(100)).await;
        assert_eq!(checks(), 0);
        a.set_admin_state(AdminState::Drain);
        until("is checked", || checks() > 0).await;
        drop(listener);
    });
}

#[test]
fn reload_keeps_running_checks_and_ends_those_of_removed_backends() {
    run(async {
        let (listener, address) = listen().await;
        let (other, second) = listen().await;
        let mut config = check(CheckKind::Tcp);
        config.interval = Duration::from_millis(50);
        let first = topology(pool(config.clone(), &[address, second]), None);
        let watched = watch(&first);
        let accepted = Rc::new(Cell::new(0));
        let count = Rc::clone(&accepted);
        spawn_local(async move {
            while other.accept().await.is_ok() {
                count.set(count.get() + 1);
            }
        });
        until("is checked", || accepted.get() > 0).await;
        let mut last = Arc::clone(&first);
        for _ in 0..100 {
            last = topology(pool(config.clone(), &[address]), Some(&last));
            watched.watcher.adopt(Arc::clone(&last));
        }
        sleep(Duration::from_millis(10)).await;
        let before = accepted.get();
        sleep(Duration::from_millis(200)).await;
        assert_eq!(accepted.get(), before, "a removed backend is not checked");
        // A check that was restarted by each reload would never come about with an interval longer
        // than the time between reloads.
        let passed = || last.pool("p").unwrap().status(Instant::now())[0].checks_passed;
        let before = passed();
        let reload = async {
            loop {
                sleep(Duration::from_millis(5)).await;
                let next = topology(pool(config.clone(), &[address]), Some(&last));
                watched.watcher.adopt(next);
            }
        };
        let _ = timeout(Duration::from_millis(500), reload).await;
        assert!(passed() >= before + 5, "{before} to {}", passed());
        drop(listener);
    });
}

#[test]
fn undecided_backend_is_checked_at_the_fast_interval() {
    run(async {
        let (listener, address) = listen().await;
        let mut config = check(CheckKind::Tcp);
        config.interval = Duration::from_millis(400);
        config.fast_interval = Duration::from_millis(10);
        config.fall = 10;
        let topology = topology(pool(config, &[address]), None);
        let _watched = watch(&topology);
        let status = || topology.pool("p").unwrap().status(Instant::now())[0].clone();
        until("passes", || status().checks_passed > 0).await;
        drop(listener);
        let begin = Instant::now();
        until("goes down", || status().downs > 0).await;
        // Ten checks at 400 ms would be 4 s.
        assert!(begin.elapsed() < Duration::from_millis(2_500));
    });
}

#[test]
fn checks_of_many_backends_are_spread_over_the_interval() {
    run(async {
        let (listener, address) = listen().await;
        let mut config = check(CheckKind::Tcp);
        config.interval = Duration::from_secs(1);
        let topology = topology(pool(config, &[address; 40]), None);
        let _watched = watch(&topology);
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < 40 {
            listener.accept().await.unwrap();
            times.push(begin.elapsed().as_secs_f64());
        }
        // Uniform over a second: of 40, about 20 in either half.
        let early = times.iter().filter(|time| **time < 0.5).count();
        assert!((5..=35).contains(&early), "{times:?}");
    });
}
