//! nginx as the system under test: whether it can pass connections on, when it is ready, what it
//! complains of.
//!
//! Invariants: reads only.
//! Must not depend on: what passes through it.

use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast_telemetry::proc::tree;

/// What a configuration loads so that this nginx passes connections on; nothing if that is built
/// in, `None` if it cannot.
#[must_use]
pub fn stream(nginx: &Path) -> Option<String> {
    let output = Command::new(nginx).arg("-V").output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    loads(&said, |module| Path::new(module).exists())
}

/// The same, by what `nginx -V` says.
fn loads(said: &str, exists: impl Fn(&str) -> bool) -> Option<String> {
    let mut words = said.split_whitespace();
    if words.clone().any(|word| word == "--with-stream") {
        return Some(String::new());
    }
    let modules = words.find_map(|word| word.strip_prefix("--modules-path="))?;
    let module = format!("{modules}/ngx_stream_module.so");
    exists(&module).then(|| format!("load_module {module};"))
}

/// Whether all `workers` below `master` have done what they do at their start. It listens before it
/// has workers, and each of them touches the memory of all connections it may have. A connection to
/// try it would be one that nobody counts.
#[must_use]
pub fn is_ready(master: u32, workers: usize) -> bool {
    let tree = tree::pids(master);
    tree.len() > workers && tree.into_iter().all(tree::is_sleeping)
}

/// The last line of its log that says it ran out of descriptors.
#[must_use]
pub fn out_of_descriptors(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().rev();
    lines.find(|line| line.contains("(24: ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_built_in_or_loaded_from_where_this_nginx_has_its_modules() {
        let found = |said, is_there| loads(said, |_: &str| is_there);
        let dynamic = "configure arguments: --modules-path=/opt/m --with-stream=dynamic";
        assert_eq!(
            found(dynamic, true).as_deref(),
            Some("load_module /opt/m/ngx_stream_module.so;")
        );
        assert_eq!(found(dynamic, false), None);
        assert_eq!(
            found("--prefix=/x --with-stream", false).as_deref(),
            Some("")
        );
        assert_eq!(found("nginx version: nginx/1.22.1", true), None);
    }
}
