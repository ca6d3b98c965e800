//! Messages on the wire: every type in both directions, and malformed ones.

use std::process::Command;
use std::time::Duration;

use holdfast_telemetry::wire::WorkerReport;
use serde_json::{Value, json};

use crate::common::{Folder, Running, Server, count, subcommand, until};
use crate::peer::Peer;
use crate::router::{Router, now, spawn};
use crate::{longconn, worker};

/// A time of a report, seconds.
fn time(data: &Value, key: &str) -> f64 {
    data[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no {key}: {data}"))
}

#[test]
#[ignore = "needs Locust: make test"]
fn every_message_in_both_directions() {
    let server = Server::start(&["--every", "200ms"]);
    let mut master = Router::start();
    let worker = worker(&master.address, &[]);
    let name = master.welcome();
    assert_eq!(
        master.heard,
        [json!({"from": name, "type": "client_ready", "data": -1})]
    );
    let beat = master.next("heartbeat");
    assert_eq!(beat["data"]["state"], "ready");
    let cpu = time(&beat["data"], "current_cpu_usage");
    assert!(
        (0.0..=100.0).contains(&cpu)
            && beat["data"]["current_memory_usage"].as_u64() > Some(1 << 20),
        "{beat}"
    );

    let idle = master.next("stats")["data"].clone();
    assert_eq!(
        (&idle["stats"], &idle["errors"], &idle["user_count"]),
        (&json!([]), &json!({}), &json!(0))
    );
    let total = &idle["stats_total"];
    assert_eq!(
        (
            &total["min_response_time"],
            &total["last_request_timestamp"]
        ),
        (&Value::Null, &Value::Null)
    );

    // The host of the class goes before that of the order.
    let set = json!({"user_class_name": "LongConn", "host": server.address.to_string(), "weight": 1, "fixed_count": 0, "tasks": ["hold"]});
    master.send(&name, "update_user_class", set);
    let order = spawn(
        now(),
        json!({"LongConn": 10, "Http": 0}),
        "127.0.0.1:9",
        json!({"longconn_every": "30s", "mode": [1]}),
    );
    master.send(&name, "spawn", order);
    assert_eq!(master.next("spawning")["data"], Value::Null);
    let counts = |users: u64| json!({"user_classes_count": {"LongConn": users, "Http": 0}, "user_count": users});
    for (users, why) in [(0, "none has started"), (10, "all have started")] {
        assert_eq!(
            master.next("spawning_complete")["data"],
            counts(users),
            "{why}"
        );
    }
    server.until_open(10);
    while master.next("heartbeat")["data"]["state"] != "running" {}
    master.send(&name, "spawning_complete", json!({"user_count": 10}));
    let stats = loop {
        let stats = master.next("stats")["data"].clone();
        if stats["stats"]
            .as_array()
            .is_some_and(|rows| rows.len() == 2)
        {
            break stats;
        }
    };
    assert_eq!(
        stats["user_classes_count"],
        json!({"LongConn": 10, "Http": 0})
    );
    let rows = stats["stats"].as_array().expect("rows");
    assert_eq!(
        (&rows[0]["name"], &rows[1]["name"], &rows[0]["method"]),
        (&json!("connect"), &json!("recv"), &json!("TCP"))
    );
    for key in ["num_requests", "num_failures", "total_content_length"] {
        let sum: u64 = rows
            .iter()
            .map(|row| row[key].as_u64().expect("a number"))
            .sum();
        assert_eq!(stats["stats_total"][key], sum, "{key}");
    }
    assert_eq!(rows[0]["num_requests"], 10);

    master.send(&name, "hello", json!({"n": 1}));
    let logs = loop {
        let logs = master.next("logs")["data"].clone();
        if logs.to_string().contains("hello") {
            break logs;
        }
    };
    assert_eq!(logs["worker_id"], *name);

    master.send(&name, "reconnect", Value::Null);
    while master.next("heartbeat")["from"] != *name {}
    assert_eq!(server.running.fresh().open_now, 10, "users do not notice");

    // Users that have not stopped yet are reported, too.
    let fewer = spawn(
        now(),
        json!({"LongConn": 4, "Http": 0}),
        "127.0.0.1:9",
        json!({}),
    );
    master.send(&name, "spawn", fewer);
    for (users, why) in [(10, "none has stopped"), (4, "six have stopped")] {
        assert_eq!(
            master.next("spawning_complete")["data"],
            counts(users),
            "{why}"
        );
    }
    server.until_open(4);

    master.send(&name, "stop", Value::Null);
    master.next("client_stopped");
    assert_eq!(master.welcome(), name);
    let last = master
        .heard
        .iter()
        .rposition(|m| m["type"] == "stats")
        .expect("the last figures");
    let stopped = master
        .heard
        .iter()
        .rposition(|m| m["type"] == "client_stopped");
    assert!(Some(last) < stopped, "the last figures come first");
    server.until_open(0);

    // Counts that were never ordered, and classes that nobody has, are said, and nothing more.
    let order = spawn(
        now(),
        json!({"LongConn": 1, "Other": 5}),
        "nowhere",
        json!({"longconn_host": "nowhere"}),
    );
    master.send(&name, "spawn", order);
    let said = [(); 2].map(|()| master.next("exception")["data"].clone());
    let said = format!("{} {}", said[0]["msg"], said[1]["msg"]);
    assert!(
        said.contains("Other") && said.contains("'nowhere'") && said.contains("next:"),
        "{said}"
    );

    master.send(&name, "quit", Value::Null);
    master.next("quit");
    let outcome = worker.outcome();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    let own = longconn(&outcome, 0);
    let ended = ["held", "stopped"].map(|class| count(&own.ended, class));
    assert_eq!((own.opened, ended), (10, [4, 6]));
    let received: u64 = master
        .heard
        .iter()
        .filter_map(|m| m["data"]["stats"].as_array())
        .flatten()
        .filter(|row| row["name"] == "recv")
        .map(|row| row["num_requests"].as_u64().expect("a number"))
        .sum();
    assert_eq!(
        received,
        server.running.stop().last().messages_sent,
        "each message was reported once"
    );
}

#[test]
#[ignore = "needs Locust: make test"]
fn users_start_evenly_over_a_second() {
    // A burst at the start of each second would show in every try; a test that gets no core for a
    // while in one of them.
    let worst: Vec<usize> = (0..4)
        .map_while(|attempt| {
            let peer = Peer::silent();
            let mut master = Router::start();
            let worker = worker(&master.address, &[]);
            let name = master.welcome();
            let host = peer.address.to_string();
            for step in 1..=3 {
                let order = spawn(now(), json!({"LongConn": step * 100}), &host, json!({}));
                master.send(&name, "spawn", order);
                // What a master waits between two orders.
                std::thread::sleep(Duration::from_secs(1));
            }
            until("all users", || peer.count() == 300);
            let worst = peer.windows().into_iter().max();
            drop(worker);
            let worst = worst.expect("windows");
            (attempt == 0 || worst > 25).then_some(worst)
        })
        .collect();
    assert!(
        worst.len() < 4 || worst.iter().any(|most| *most <= 25),
        "most in 100 ms, four times: {worst:?}"
    );
}

#[test]
#[ignore = "needs Locust: make test"]
fn worker_survives_malformed_messages_and_follows_valid_ones() {
    let server = Server::start(&[]);
    let mut master = Router::start();
    let worker = worker(&master.address, &["--users-max", "100"]);
    let name = master.welcome();
    let spawning = |data: &[u8]| [b"\x93\xa5spawn", data, b"\xa1x"].concat();
    let nonsense: [Vec<u8>; 12] = [
        vec![],
        vec![0xc1],
        b"\x93\xa5spawn".to_vec(),
        b"\x92\xa4stop\xc0".to_vec(),
        b"\x94\xa4stop\xc0\xa1x\xa1x".to_vec(),
        b"\x93\x01\xc0\xa1x".to_vec(),
        b"\x93\xa4stop\xc0\x05".to_vec(),
        b"\x93\xa4stop\xc0\xa1xtrailing".to_vec(),
        spawning(b"\xc0"),
        spawning(b"\x81\xa9timestamp\xcb\x7f\xf0\0\0\0\0\0\0"),
        b"\xdd\xff\xff\xff\xff\xdd\xff\xff\xff\xff".to_vec(),
        [vec![0x91; 100_000], vec![0xc0]].concat(),
    ];
    for bytes in &nonsense {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        master.send_bytes(&name, &hex);
    }
    for data in [
        json!({"timestamp": now(), "user_classes_count": {"LongConn": -1}}),
        json!({"timestamp": "now", "user_classes_count": {"LongConn": 1}}),
        json!({"timestamp": now(), "user_classes_count": [1]}),
    ] {
        master.send(&name, "spawn", data);
    }
    master.send(&name, "update_user_class", json!({"user_class_name": 3}));
    master.send(&name, "ack", json!("x"));
    master.send(&name, "spawning_complete", Value::Null);
    assert_eq!(master.next("heartbeat")["from"], *name, "it lives");

    // More than anybody holds: as many as there is room for, and a word about it.
    let host = server.address.to_string();
    master.send(
        &name,
        "spawn",
        spawn(
            now(),
            json!({"LongConn": u64::MAX}),
            &host,
            json!({"longconn_expect": ""}),
        ),
    );
    assert!(
        master.next("exception")["data"]["msg"]
            .as_str()
            .expect("text")
            .contains("--users-max")
    );
    while master.next("spawning_complete")["data"]["user_count"] != 100 {}
    server.until_open(100);
    // An order older than the last one is none.
    master.send(
        &name,
        "spawn",
        spawn(now() - 1_000.0, json!({"LongConn": 3}), &host, json!({})),
    );
    master.send(
        &name,
        "spawn",
        spawn(now(), json!({"LongConn": 7}), &host, json!({})),
    );
    server.until_open(7);
    let outcome = worker.stop();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.errors);
    let own = longconn(&outcome, 0);
    assert_eq!(
        (
            own.opened,
            count(&own.ended, "stopped"),
            count(&own.ended, "held")
        ),
        (100, 93, 7)
    );
    assert!(outcome.errors.lines().count() < 60, "{}", outcome.errors);
}

#[test]
#[ignore = "needs Locust: make test"]
fn silent_resolver_stops_no_heartbeat() {
    let folder = Folder::new("resolver");
    let hosts = folder.file("hosts");
    // Whoever looks a name up opens this, and waits for somebody who writes.
    nix::unistd::mkfifo(hosts.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut master = Router::start();
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, &hosts]);
    let own = subcommand("holdfast-client", "worker", &["--master", &master.address]);
    command.arg(own.get_program()).args(own.get_args());
    let worker = Running::<WorkerReport>::start(command);
    let name = master.welcome();
    let ten = json!({"LongConn": 10});
    let options = json!({"longconn_every": "0s"});
    let order = spawn(now(), ten.clone(), "nowhere.test:7070", options);
    master.send(&name, "spawn", order);
    master.next("spawning");
    for _ in 0..3 {
        assert_eq!(master.next("heartbeat")["data"]["state"], "spawning");
    }
    let said = master.next("exception")["data"]["msg"].to_string();
    for part in [
        "LongConn",
        "'nowhere.test:7070'",
        "has not answered",
        "next: ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The next test is with an address, and like any other.
    master.send(&name, "stop", Value::Null);
    master.next("client_stopped");
    let server = Server::start(&[]);
    let order = spawn(now(), ten, &server.address.to_string(), json!({}));
    master.send(&name, "spawn", order);
    server.until_open(10);
    assert_eq!(worker.stop().code(), Some(0));
}

#[test]
fn worker_survives_peers_that_are_no_master() {
    use std::io::Write;
    // Those who speak something else, those who begin well and go on badly, and those who say
    // nothing.
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    let after = |bytes: &[u8]| [&greeting[..], bytes].concat();
    let said = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        after(b"\x04\x00"),
        after(b"\x02\xff\xff\xff\xff\xff\xff\xff\xff"),
        after(b"\x04\x06\x05READYx\x00\x03abc"),
        greeting[..40].to_vec(),
    ];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let worker = worker(&listener.local_addr().expect("bound").to_string(), &[]);
    for bytes in said {
        let (mut stream, _) = listener.accept().expect("it tries again");
        let _ = stream.write_all(&bytes);
    }
    assert!(!worker.fresh().is_final);
    assert_eq!(worker.stop().code(), Some(0));
}

#[test]
#[ignore = "needs Locust: make test"]
fn reported_times_are_the_masters() {
    let server = Server::start(&["--every", "100ms"]);
    for skew in [10.0, -10.0] {
        let mut master = Router::start();
        let worker = worker(&master.address, &[]);
        let name = master.welcome();
        let options = json!({"longconn_every": "30s"});
        let order = spawn(
            now() + skew,
            json!({"LongConn": 5}),
            &server.address.to_string(),
            options,
        );
        master.send(&name, "spawn", order);
        let mut stats = json!({});
        until("figures of messages", || {
            stats = master.next("stats")["data"].clone();
            stats["stats"]
                .as_array()
                .is_some_and(|rows| rows.len() == 2)
        });
        let there = now() + skew;
        let row = &stats["stats"][1];
        let near = |time: f64| (there - 6.0..there + 1.0).contains(&time);
        let total = &stats["stats_total"];
        for time in [
            time(row, "start_time"),
            time(row, "last_request_timestamp"),
            time(total, "last_request_timestamp"),
        ] {
            assert!(near(time), "{time} of {there}");
        }
        let seconds = row["num_reqs_per_sec"].as_object().expect("counts");
        assert!(
            seconds
                .keys()
                .all(|second| near(second.parse().expect("a second"))),
            "{row} at {there}"
        );
        worker.stop();
    }
}
