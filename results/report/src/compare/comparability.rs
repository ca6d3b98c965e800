//! Whether runs can be compared at all.
//!
//! Purpose: everything besides the programs that makes a figure what it is: machine, kernel,
//! settings, what was asked.
//! Invariants: each difference is named with its values; the commit is none, it is what is
//! compared.
//! Must not depend on: figures.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::side::Sample;
use crate::record::Record;

use holdfast_telemetry::units::bytes;

/// What is said where a run has no such value.
const NONE: &str = "nothing";

/// Everything that must be the same, by its path in the record.
fn ground(record: &Record) -> BTreeMap<String, String> {
    let mut ground = BTreeMap::new();
    let mut add = |key: &str, value: String| ground.insert(key.to_string(), value);
    let head = record.header();
    let (machine, lab) = (&head.machine, &head.lab);
    add("name", head.name.clone());
    add("machine.kernel", machine.kernel.clone());
    add("machine.cpu", machine.cpu.clone());
    add("machine.core_count", machine.core_count.to_string());
    // A boot takes some kilobytes more or less.
    add("machine.memory_bytes", bytes(machine.memory_bytes));
    add(
        "machine.rlimit_nofile.hard",
        machine.rlimit_nofile.hard.to_string(),
    );
    add("lab.namespace", lab.namespace.clone());
    add(
        "lab.connection_hash_buckets",
        lab.connection_hash_buckets
            .map_or_else(|| NONE.into(), |n| n.to_string()),
    );
    for setting in &lab.settings {
        let value = setting.after.clone().unwrap_or_else(|| NONE.into());
        add(&format!("lab.settings.{}", setting.key), value);
    }
    add("build", build(&head.command).into());
    let is_interrupted = head.incidents.iter().any(|i| i == "interrupted");
    add("interrupted", is_interrupted.to_string());
    match record {
        Record::Longconn(run) => {
            flat(&mut ground, "asked", &run.asked);
            let p = &run.processes;
            for (name, process) in [("server", &p.server), ("client", &p.client)] {
                let key = format!("processes.{name}.thread_count");
                ground.insert(key, process.thread_count.to_string());
                ground.insert(
                    format!("processes.{name}.command"),
                    arguments(&process.command),
                );
            }
            ground.insert(
                "memory.warmed_bytes".into(),
                (run.memory.warmed_bytes > 0).to_string(),
            );
        }
        Record::Http(run) => {
            flat(&mut ground, "asked", &run.asked);
            // More rounds are more of the same.
            ground.remove("asked.rounds");
            flat(&mut ground, "cores", &run.cores);
            flat(&mut ground, "programs", &run.programs);
        }
        Record::Relay(run) => {
            flat(&mut ground, "asked", &run.asked);
            ground.remove("asked.rounds");
            flat(&mut ground, "cores", &run.cores);
            flat(&mut ground, "programs", &run.programs);
        }
        Record::Proxy(run) => {
            flat(&mut ground, "asked", &run.asked);
            ground.remove("asked.rounds");
            ground.insert(
                "version".into(),
                run.version.clone().unwrap_or_else(|| NONE.into()),
            );
        }
    }
    ground
}

fn flat(ground: &mut BTreeMap<String, String>, key: &str, value: &impl Serialize) {
    if let Ok(Value::Object(fields)) = serde_json::to_value(value) {
        for (name, value) in fields {
            ground.insert(format!("{key}.{name}"), value.to_string());
        }
    }
}

/// How the bench was built, by the folder it was started from.
fn build(command: &str) -> &'static str {
    let program = command.split(' ').next().unwrap_or_default();
    if program.contains("/debug/") {
        "dev"
    } else {
        "release"
    }
}

/// The arguments of a command line that are not of one run only.
fn arguments(command: &str) -> String {
    let mut words = command.split(' ').skip(1);
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "--histogram-log" {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// What differs between any two of these runs, each with its values.
pub fn differences<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<String> {
    let grounds: Vec<BTreeMap<String, String>> = samples.map(|s| ground(&s.record)).collect();
    let keys: std::collections::BTreeSet<&String> =
        grounds.iter().flat_map(BTreeMap::keys).collect();
    let mut found: Vec<(&str, String)> = Vec::new();
    for key in keys {
        let mut values: Vec<&str> = Vec::new();
        for ground in &grounds {
            let value = ground.get(key).map_or(NONE, String::as_str);
            if !values.contains(&value) {
                values.push(value);
            }
        }
        if values.len() > 1 {
            found.push((key, format!("{key}: {}", values.join(" | "))));
        }
    }
    // What was asked stands in the command lines too: it is named once.
    let is_asked = found.iter().any(|(key, _)| key.starts_with("asked."));
    found.retain(|(key, _)| !(is_asked && key.ends_with(".command")));
    found.into_iter().map(|(_, words)| words).collect()
}
