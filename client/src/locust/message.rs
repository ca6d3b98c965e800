//! Messages between Locust's master and a worker: `[type, data, node id]` in msgpack.
//!
//! One message that is not as the master expects it ends its listener for all workers, so everything that is sent is made here.
//! Invariants: what is sent has the keys, types and order a Locust worker of version 2.47 sends, byte for byte; whatever arrives is a
//! message or an error.
//! Must not know: when something is sent, or what follows from what arrives.

use std::collections::BTreeMap;

use rmpv::Value;

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 32;
/// Most user classes of one order that are looked at.
const CLASSES_MAX: usize = 1_000;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it is.
    pub kind: String,
    /// What it says.
    pub data: Value,
    /// The worker it comes from or goes to.
    pub node: String,
}

impl Message {
    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let parts = vec![
            (&*self.kind).into(),
            self.data.clone(),
            (&*self.node).into(),
        ];
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &Value::Array(parts)).expect("memory can be written");
        bytes
    }

    /// The message in some bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(mut bytes: &[u8]) -> Result<Message, String> {
        let value = rmpv::decode::read_value_with_max_depth(&mut bytes, DEPTH_MAX)
            .map_err(|e| format!("not msgpack ({e})"))?;
        if !bytes.is_empty() {
            return Err(format!("{} bytes behind a message", bytes.len()));
        }
        let Value::Array(parts) = value else {
            return Err("not an array".to_owned());
        };
        let [kind, data, node] = <[Value; 3]>::try_from(parts)
            .map_err(|parts| format!("an array of {}, not 3", parts.len()))?;
        match (kind.as_str(), node.as_str()) {
            (Some(kind), Some(node)) => Ok(Message {
                kind: kind.to_owned(),
                node: node.to_owned(),
                data,
            }),
            _ => Err("a type or node id that is no text".to_owned()),
        }
    }
}

/// A map with text keys, in this order.
pub fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Map(pairs.map(|(key, value)| (key.into(), value)).into())
}

/// Users by class, as every message about users has them.
pub fn user_counts(counts: &[(&str, u64)]) -> [(&'static str, Value); 2] {
    let by_class = counts
        .iter()
        .map(|(class, count)| ((*class).into(), (*count).into()));
    [
        ("user_classes_count", Value::Map(by_class.collect())),
        (
            "user_count",
            counts.iter().map(|(_, count)| count).sum::<u64>().into(),
        ),
    ]
}

/// The worker is there. Of the version, -1 means that it need not be the master's.
pub fn client_ready() -> (&'static str, Value) {
    ("client_ready", (-1).into())
}

/// The worker lives. `cpu_percent` is of all cores it may use, from 0 to 100.
pub fn heartbeat(state: &str, cpu_percent: f64, memory_bytes: u64) -> (&'static str, Value) {
    let data = map([
        ("state", state.into()),
        ("current_cpu_usage", cpu_percent.into()),
        ("current_memory_usage", memory_bytes.into()),
    ]);
    ("heartbeat", data)
}

/// All users ordered are there.
pub fn spawning_complete(counts: &[(&str, u64)]) -> (&'static str, Value) {
    ("spawning_complete", map(user_counts(counts)))
}

/// Something went wrong that somebody has to look at.
pub fn exception(what: &str, details: &str) -> (&'static str, Value) {
    let data = map([("msg", what.into()), ("traceback", details.into())]);
    ("exception", data)
}

/// The worker's last lines, which replace those before.
pub fn logs<'a>(node: &str, lines: impl Iterator<Item = &'a str>) -> (&'static str, Value) {
    let lines = Value::Array(lines.map(Value::from).collect());
    ("logs", map([("worker_id", node.into()), ("logs", lines)]))
}

/// What a master wants.
#[derive(Debug, PartialEq)]
pub enum Order {
    /// It knows the worker.
    Ack,
    /// It lives.
    Heartbeat,
    /// So many users, from now on.
    Spawn(Spawn),
    /// All workers have all their users.
    SpawningComplete,
    /// No users; stay.
    Stop,
    /// No users; go.
    Quit,
    /// Connect again.
    Reconnect,
    /// A user class of this name gets this host, if it gives one.
    UpdateUserClass(String, Option<String>),
    /// A message of a locustfile's own, by its type.
    Custom(String),
}

/// An order for users.
#[derive(Debug, PartialEq)]
pub struct Spawn {
    /// The master's time, seconds since 1970.
    pub timestamp: f64,
    /// Users by class.
    pub counts: BTreeMap<String, u64>,
    /// The host of all classes.
    pub host: Option<String>,
    /// How long users may finish what they are doing, seconds.
    pub stop_timeout: f64,
    /// Every option of the master, those of its locustfile too.
    pub options: BTreeMap<String, Value>,
}

fn field<'a>(data: &'a Value, key: &str) -> Option<&'a Value> {
    let pairs = data.as_map()?;
    let pair = pairs.iter().find(|(k, _)| k.as_str() == Some(key))?;
    Some(&pair.1)
}

fn text(data: &Value, key: &str) -> Option<String> {
    field(data, key)?.as_str().map(str::to_owned)
}

impl Order {
    /// What a message from the master says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_message(message: &Message) -> Result<Order, String> {
        let data = &message.data;
        Ok(match &*message.kind {
            "ack" => Order::Ack,
            "heartbeat" => Order::Heartbeat,
            "spawn" => Order::Spawn(Spawn::from_data(data)?),
            "spawning_complete" => Order::SpawningComplete,
            "stop" => Order::Stop,
            "quit" => Order::Quit,
            "reconnect" => Order::Reconnect,
            "update_user_class" => {
                let class =
                    text(data, "user_class_name").ok_or("update_user_class names no class")?;
                Order::UpdateUserClass(class, text(data, "host"))
            }
            other => Order::Custom(other.chars().take(64).collect()),
        })
    }
}

impl Spawn {
    fn from_data(data: &Value) -> Result<Spawn, String> {
        let timestamp = field(data, "timestamp").and_then(Value::as_f64);
        let timestamp = timestamp
            .filter(|t| t.is_finite())
            .ok_or("spawn without a time")?;
        let counts = field(data, "user_classes_count").and_then(Value::as_map);
        let counts = counts.ok_or("spawn without users by class")?;
        let count = |(class, count): &(Value, Value)| {
            let class = class.as_str().ok_or("a user class whose name is no text")?;
            let count = count.as_u64().ok_or("a number of users that is none")?;
            Ok((class.to_owned(), count))
        };
        let counts: Result<_, &str> = counts.iter().take(CLASSES_MAX).map(count).collect();
        let options = field(data, "parsed_options").and_then(Value::as_map);
        let options = options.into_iter().flatten();
        Ok(Spawn {
            timestamp,
            counts: counts?,
            host: text(data, "host").filter(|host| !host.is_empty()),
            stop_timeout: field(data, "stop_timeout")
                .and_then(Value::as_f64)
                .filter(|seconds| seconds.is_finite())
                .map_or(0.0, |seconds| seconds.clamp(0.0, 86_400.0)),
            options: options
                .filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value.clone())))
                .collect(),
        })
    }
}

/// Messages captured between Locust's own master and worker, version 2.47.0.
#[cfg(test)]
pub mod captured {
    use serde_json::Value;

    /// Every one that has its bytes: type and bytes, and whether a master sent it.
    pub fn messages() -> Vec<(String, Vec<u8>, bool)> {
        let all = include_str!("../../tests/locust/messages.json");
        let all: Vec<Value> = serde_json::from_str(all).expect("JSON");
        all.iter()
            .filter_map(|message| {
                let hex = message["hex"].as_str()?.as_bytes().chunks(2);
                let byte = |pair: &[u8]| {
                    u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex")
                };
                let kind = message["type"].as_str()?.to_owned();
                Some((
                    kind,
                    hex.map(byte).collect(),
                    message["dir"] == "master->worker",
                ))
            })
            .collect()
    }

    /// The bytes of the first one of a type a worker sent.
    pub fn sent(kind: &str) -> Vec<u8> {
        let of_kind = |(k, _, is_masters): &(String, Vec<u8>, bool)| k == kind && !is_masters;
        messages()
            .into_iter()
            .find(of_kind)
            .expect("it was captured")
            .1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "vm_f41b2e356e4b40afa9ecf944d0a76c91";

    fn encoded((kind, data): (&str, Value)) -> Vec<u8> {
        let message = Message {
            kind: kind.to_owned(),
            data,
            node: NODE.to_owned(),
        };
        message.encode()
    }

    #[test]
    fn what_is_sent_is_what_a_worker_of_locust_sends() {
        let counts = [("TcpIdle", 1), ("TcpEcho", 1)];
        let empty = |kind| (kind, Value::Nil);
        let logs = Message::decode(&captured::sent("logs")).unwrap();
        let lines = field(&logs.data, "logs").and_then(Value::as_array).unwrap();
        let lines = lines.iter().map(|line| line.as_str().unwrap());
        for ours in [
            heartbeat("running", 0.0, 56_020_992),
            spawning_complete(&counts),
            self::logs(NODE, lines),
            empty("spawning"),
            empty("client_stopped"),
            empty("quit"),
        ] {
            assert_eq!(encoded(ours.clone()), captured::sent(ours.0), "{}", ours.0);
        }
        // The version is text there; -1, one byte, says that it need not be compared.
        let theirs = captured::sent("client_ready");
        assert_eq!(
            encoded(client_ready()),
            [&theirs[..14], &[0xff], &theirs[21..]].concat()
        );
        let (_, data) = exception("what", "");
        assert_eq!(
            data,
            map([("msg", "what".into()), ("traceback", "".into())])
        );
    }

    #[test]
    fn every_captured_message_is_read_and_written_again_the_same() {
        for (kind, bytes, is_masters) in captured::messages() {
            let message = Message::decode(&bytes).unwrap();
            assert_eq!(
                (message.encode(), &message.kind, &*message.node),
                (bytes, &kind, NODE)
            );
            if is_masters {
                let order = Order::from_message(&message).unwrap();
                let expected = match &*kind {
                    "ack" => Order::Ack,
                    "heartbeat" => Order::Heartbeat,
                    "spawning_complete" => Order::SpawningComplete,
                    "stop" => Order::Stop,
                    "quit" => Order::Quit,
                    "update_user_class" => {
                        Order::UpdateUserClass("TcpIdle".to_owned(), Some("x".to_owned()))
                    }
                    "hello" => Order::Custom("hello".to_owned()),
                    "spawn" => continue,
                    other => panic!("{other} is new"),
                };
                assert_eq!(order, expected);
            }
        }
    }

    #[test]
    fn an_order_for_users_is_taken_apart() {
        let data = map([
            ("timestamp", 1795350447.618831.into()),
            (
                "user_classes_count",
                map([("Http", 1.into()), ("LongConn", 2.into())]),
            ),
            ("host", "tcp://127.0.0.1:9000".into()),
            ("stop_timeout", 1.0.into()),
            (
                "parsed_options",
                map([("headless", false.into()), ("payload", "changed".into())]),
            ),
        ]);
        let spawn = Spawn::from_data(&data).unwrap();
        assert_eq!(
            (
                spawn.counts["Http"],
                spawn.counts["LongConn"],
                spawn.stop_timeout
            ),
            (1, 2, 1.0)
        );
        assert_eq!(spawn.host.as_deref(), Some("tcp://127.0.0.1:9000"));
        assert_eq!(spawn.options["payload"], "changed".into());
    }

    #[test]
    fn whatever_comes_is_a_message_or_an_error() {
        // Each captured message cut anywhere, and with each byte changed.
        for (_, bytes, _) in captured::messages() {
            for at in 0..bytes.len() {
                assert!(Message::decode(&bytes[..at]).is_err());
                let mut changed = bytes.clone();
                changed[at] ^= 0xff;
                if let Ok(message) = Message::decode(&changed) {
                    let _ = Order::from_message(&message);
                }
            }
        }
    }
}
