//! Texts of `/proc`, `/sys` and cgroups. The kernel writes them, but other kernels and containers
//! may differ: no text may cause a panic, and parsed values must match the text.

use holdfast_sysctl::machine::{
    parse_cgroups, parse_core_count, parse_cpu_model, parse_io_uring_privileged,
    parse_kernel_version, parse_memory, parse_memory_left,
};
use holdfast_telemetry::proc::{COUNTERS, KernelSample, core_ticks, cpu_ticks, kib_line, snmp};
use holdfast_telemetry::proc::{conntrack_drops, oom_kills, packets_dropped};

/// The value of the first line `NAME:...`.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let is_it = |line: &&str| line.split(':').next() == Some(name) && line.contains(':');
    let line = text.lines().find(is_it)?;
    Some(&line[name.len() + 1..])
}

/// A size in kB, in bytes, if it fits.
fn kib(text: &str) -> Option<u64> {
    let bytes = u128::from(text.trim().parse::<u64>().ok()?) * 1024;
    u64::try_from(bytes).ok()
}

/// Splits an input at its first NUL into the two texts that most parsers take.
fn two(data: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(data).ok()?;
    Some(text.split_once('\0').unwrap_or((text, "")))
}

/// Files that server and client read before they start.
pub fn machine(data: &[u8]) {
    let Some((text, other)) = two(data) else {
        return;
    };
    if let Some((major, minor)) = parse_kernel_version(text) {
        let digits = format!("{major}{minor}");
        let zeros_apart = |c: &char| c.is_ascii_digit() && *c != '0';
        let start: String = digits.chars().filter(zeros_apart).collect();
        let found: String = text.chars().filter(zeros_apart).collect();
        assert!(found.starts_with(&start), "{major}.{minor} of {text:?}");
    }
    assert!(!parse_cpu_model(text).contains('\n'));
    check_core_count(text);
    let memory = parse_memory(text).map(|memory| (memory.total_bytes, memory.available_bytes));
    let in_kib = |name| kib(field(text, name)?.trim().strip_suffix("kB")?);
    assert_eq!(memory, in_kib("MemTotal").zip(in_kib("MemAvailable")));
    for group in [-1, 0, 998] {
        let is_privileged = parse_io_uring_privileged(text, other, group);
        let is_named = field(text, "CapEff").is_some()
            || field(text, "Gid").is_some()
            || field(text, "Groups").is_some();
        assert!(
            is_named || !is_privileged,
            "privileged without a line that says so"
        );
        assert!(!is_privileged || !other.is_empty() || group >= 0);
    }
    for cgroup in parse_cgroups(text, other) {
        // Never outside the mount.
        let is_mounted = text.lines().any(|line| {
            let point = line.split(' ').nth(4);
            point.is_some_and(|point| cgroup.folder.starts_with(point))
        });
        assert!(is_mounted, "{}", cgroup.folder.display());
    }
    if let Some(left) = parse_memory_left(text, other, text, "inactive_file") {
        assert!(text.trim().parse::<u64>().is_ok_and(|limit| left <= limit));
    }
}

fn check_core_count(status: &str) {
    let expected = field(status, "Cpus_allowed_list").and_then(|list| {
        let mut count = 0_u128;
        for range in list.trim().split(',') {
            let mut ends = range.splitn(2, '-');
            let first: usize = ends.next()?.parse().ok()?;
            let last = match ends.next() {
                Some(last) => last.parse().ok()?,
                None => first,
            };
            count += u128::try_from(last.checked_sub(first)?).ok()? + 1;
        }
        usize::try_from(count).ok()
    });
    assert_eq!(parse_core_count(status), expected);
}

/// Files that the bench reads every second.
pub fn samples(data: &[u8]) {
    let Some((text, other)) = two(data) else {
        return;
    };
    let expected = field(text, "Slab").and_then(|rest| kib(rest.split_whitespace().next()?));
    assert_eq!(kib_line(text, "Slab"), expected);
    for (text, name) in [(text, "cpu"), (text, "cpu1"), (other, "cpu")] {
        if let Some(ticks) = core_ticks(text, name) {
            assert!(ticks.softirq <= ticks.busy && ticks.busy <= ticks.all);
        }
    }
    let ticks = cpu_ticks(text);
    assert!(ticks.is_none() || text.contains(')'));
    for (name, value) in snmp(text, "TcpExt") {
        assert!(text.contains(&name) && !name.contains(char::is_whitespace));
        assert!(text.contains(&value.to_string()) || text.contains('+') || text.contains('0'));
    }
    let sample = KernelSample::of_texts(text, text, text, text, text);
    assert_eq!(sample.slab_bytes, expected.unwrap_or(0));
    assert!(sample.busy_ticks <= sample.all_ticks);
    assert!(
        sample
            .counters
            .keys()
            .all(|name| COUNTERS.contains(&&**name))
    );
    let later = KernelSample::of_texts(other, other, other, other, other);
    let busy = later.busy_percent_since(&sample);
    assert!((0.0..=100.0).contains(&busy), "{busy}");
    for core in later.each_core_since(&sample) {
        assert!((0.0..=100.0).contains(&core.percent(core.busy)), "{core:?}");
    }
    let _ = (
        packets_dropped(text),
        oom_kills(text),
        conntrack_drops(text),
    );
}
