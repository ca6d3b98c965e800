//! What moves a limit: the setting and the command.
//!
//! Invariants: a value that is proposed is the one of the kernel profiles (`holdfast-tune`) for as
//! many connections; a setting of a namespace is proposed to the bench, one of the machine to
//! holdfast-tune.
//! Must not depend on: whether it was the limit.

use holdfast_sysctl::plan::{Request, command};
use holdfast_sysctl::profile::{Role, built_in, joined};

use holdfast_telemetry::namespace::NamespaceRecord;

/// The value of `key` in the run's namespace, where the record has it.
pub fn present<'a>(lab: &'a NamespaceRecord, key: &str) -> Option<&'a str> {
    let setting = lab.settings.iter().find(|s| s.key == key)?;
    setting.after.as_deref()
}

/// `, KEY = VALUE here`, where the record has it.
pub fn said(lab: &NamespaceRecord, key: &str) -> String {
    present(lab, key).map_or_else(String::new, |value| format!(", {key} = {value} here"))
}

/// How to raise `key` for so many connections; `None` where it is as the profiles want it.
pub fn raise(lab: &NamespaceRecord, key: &str, connections: u64) -> Option<String> {
    let settings = joined(&built_in(Role::Both));
    let setting = settings.iter().find(|s| s.key == key)?;
    let wanted = setting.wanted(connections);
    let now = present(lab, key);
    if now.is_some_and(|now| setting.suffices(now, &wanted, setting.rule)) {
        return None;
    }
    let tune = tune(connections);
    if now.is_none() || lab.namespace == "host" {
        return Some(format!("{tune} ({key} = {wanted})"));
    }
    let word = format!("{key}={wanted}");
    let word = if word.contains(' ') {
        format!("'{word}'")
    } else {
        word
    };
    Some(format!(
        "holdfast-bench longconn --sysctl {word}; outside the bench: {tune}"
    ))
}

/// The command that sets what so many connections want on this machine.
pub fn tune(connections: u64) -> String {
    command("apply", &Request::new(Role::Both, connections))
}
