//! A master controlled by the test: a real ROUTER socket.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::common::{PATIENCE, own_address};
use crate::python;

/// A running router. Killed when dropped.
pub struct Router {
    child: Child,
    input: ChildStdin,
    lines: Receiver<Value>,
    pub address: String,
    /// Everything a worker has sent, except heartbeats.
    pub heard: Vec<Value>,
}

impl Router {
    pub fn start() -> Self {
        let address = format!("{}:5557", own_address());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/locust/router.py");
        let mut child = Command::new(python("python3"))
            .args([script, &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Router {
            child,
            input,
            lines,
            address,
            heard: Vec::new(),
        }
    }

    /// Waits for the next message of a type; answers heartbeats meanwhile, as a master does.
    pub fn next(&mut self, kind: &str) -> Value {
        let since = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(since.elapsed());
            let heard: Vec<_> = self.heard.iter().map(|m| m["type"].to_string()).collect();
            let message = self
                .lines
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("no {kind} after {heard:?}"));
            let from = message["from"].as_str().expect("a name").to_owned();
            if message["type"] == "heartbeat" {
                self.send(&from, "heartbeat", Value::Null);
            } else {
                self.heard.push(message.clone());
            }
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Accepts the registration of a worker; gives its node id.
    pub fn welcome(&mut self) -> String {
        let name = self.next("client_ready")["from"]
            .as_str()
            .expect("a name")
            .to_owned();
        self.send(&name, "ack", json!({"index": 0}));
        name
    }

    pub fn send(&mut self, to: &str, kind: &str, data: Value) {
        self.say(json!({"to": to, "message": [kind, data]}));
    }

    pub fn send_bytes(&mut self, to: &str, hex: &str) {
        self.say(json!({"to": to, "hex": hex}));
    }

    fn say(&mut self, order: Value) {
        writeln!(self.input, "{order}").expect("it listens");
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This machine's time, seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a master's orders have dates")]
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

/// The data of a spawn request with this timestamp.
pub fn spawn(timestamp: f64, counts: Value, host: &str, options: Value) -> Value {
    json!({
        "timestamp": timestamp,
        "user_classes_count": counts,
        "host": host,
        "stop_timeout": 0,
        "parsed_options": options,
    })
}
