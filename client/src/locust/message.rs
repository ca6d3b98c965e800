//! Messages between Locust's master and a worker: `[type, data, node id]` in msgpack.
//!
//! One malformed message ends the master's listener for all workers, so every message sent is built
//! here.
//! Invariants: messages sent have the keys, types and order of Locust 2.47's own worker, byte for
//! byte; all bytes received give a message or an error.
//! Must not depend on: when a message is sent, the effects of one.

use std::collections::BTreeMap;

use rmpv::Value;

/// Deepest nesting accepted.
const DEPTH_MAX: usize = 32;
/// Most user classes read from one spawn request.
const CLASSES_MAX: usize = 1_000;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its type.
    pub kind: String,
    /// Its data.
    pub data: Value,
    /// The worker it comes from or goes to.
    pub node: String,
}

impl Message {
    /// The message in msgpack.
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

    /// The message in `bytes`.
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

/// Registers a worker. The version -1 tells the master not to compare it with its own.
pub fn client_ready() -> (&'static str, Value) {
    ("client_ready", (-1).into())
}

/// Keeps a worker registered. `cpu_percent` is of all cores it may use, from 0 to 100.
pub fn heartbeat(state: &str, cpu_percent: f64, memory_bytes: u64) -> (&'static str, Value) {
    let data = map([
        ("state", state.into()),
        ("current_cpu_usage", cpu_percent.into()),
        ("current_memory_usage", memory_bytes.into()),
    ]);
    ("heartbeat", data)
}

/// A worker's users while it starts or stops some, and once it has as many as wanted.
pub fn spawning_complete(counts: &[(&str, u64)]) -> (&'static str, Value) {
    ("spawning_complete", map(user_counts(counts)))
}

/// A row of the master's exception table.
pub fn exception(what: &str, details: &str) -> (&'static str, Value) {
    let data = map([("msg", what.into()), ("traceback", details.into())]);
    ("exception", data)
}

/// The worker's last log lines, which replace all sent before.
pub fn logs<'a>(node: &str, lines: impl Iterator<Item = &'a str>) -> (&'static str, Value) {
    let lines = Value::Array(lines.map(Value::from).collect());
    ("logs", map([("worker_id", node.into()), ("logs", lines)]))
}

/// A message from a master.
#[derive(Debug, PartialEq)]
pub enum MasterMessage {
    /// The worker is registered.
    Ack,
    /// The answer to a heartbeat.
    Heartbeat,
    /// New numbers of users.
    Spawn(SpawnRequest),
    /// All workers together have all users.
    SpawningComplete,
    /// Stop all users and stay connected.
    Stop,
    /// Stop all users and exit.
    Quit,
    /// Connect again.
    Reconnect,
    /// The class picker changed a class: its name, and its host if that was set.
    UpdateUserClass(String, Option<String>),
    /// A message of another type, which a locustfile may define.
    Custom(String),
}

/// New numbers of users, with all options.
#[derive(Debug, PartialEq)]
pub struct SpawnRequest {
    /// The master's time, seconds since 1970.
    pub timestamp: f64,
    /// Users this worker should have, by class.
    pub counts: BTreeMap<String, u64>,
    /// The host of all classes.
    pub host: Option<String>,
    /// How long users may take to finish their task when they are stopped, seconds.
    pub stop_timeout: f64,
    /// All options of the master, including those of its locustfile.
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

impl MasterMessage {
    /// Interprets a message from the master.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_message(message: &Message) -> Result<MasterMessage, String> {
        let data = &message.data;
        Ok(match &*message.kind {
            "ack" => MasterMessage::Ack,
            "heartbeat" => MasterMessage::Heartbeat,
            "spawn" => MasterMessage::Spawn(SpawnRequest::from_data(data)?),
            "spawning_complete" => MasterMessage::SpawningComplete,
            "stop" => MasterMessage::Stop,
            "quit" => MasterMessage::Quit,
            "reconnect" => MasterMessage::Reconnect,
            "update_user_class" => {
                let class =
                    text(data, "user_class_name").ok_or("update_user_class names no class")?;
                MasterMessage::UpdateUserClass(class, text(data, "host"))
            }
            other => MasterMessage::Custom(other.chars().take(64).collect()),
        })
    }
}

impl SpawnRequest {
    fn from_data(data: &Value) -> Result<SpawnRequest, String> {
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
        Ok(SpawnRequest {
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
    fn messages_sent_equal_those_of_locusts_own_worker() {
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
    fn captured_messages_survive_decoding_and_encoding() {
        for (kind, bytes, is_masters) in captured::messages() {
            let message = Message::decode(&bytes).unwrap();
            assert_eq!(
                (message.encode(), &message.kind, &*message.node),
                (bytes, &kind, NODE)
            );
            if is_masters {
                let received = MasterMessage::from_message(&message).unwrap();
                let expected = match &*kind {
                    "ack" => MasterMessage::Ack,
                    "heartbeat" => MasterMessage::Heartbeat,
                    "spawning_complete" => MasterMessage::SpawningComplete,
                    "stop" => MasterMessage::Stop,
                    "quit" => MasterMessage::Quit,
                    "update_user_class" => {
                        MasterMessage::UpdateUserClass("TcpIdle".to_owned(), Some("x".to_owned()))
                    }
                    "hello" => MasterMessage::Custom("hello".to_owned()),
                    "spawn" => continue,
                    other => panic!("{other} is new"),
                };
                assert_eq!(received, expected);
            }
        }
    }

    #[test]
    fn spawn_request_is_read_in_full() {
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
        let spawn = SpawnRequest::from_data(&data).unwrap();
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
    fn damaged_messages_are_messages_or_errors() {
        // Each captured message cut anywhere, and with each byte changed.
        for (_, bytes, _) in captured::messages() {
            for at in 0..bytes.len() {
                assert!(Message::decode(&bytes[..at]).is_err());
                let mut changed = bytes.clone();
                changed[at] ^= 0xff;
                if let Ok(message) = Message::decode(&changed) {
                    let _ = MasterMessage::from_message(&message);
                }
            }
        }
    }
}
