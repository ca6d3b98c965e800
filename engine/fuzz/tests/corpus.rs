//! Every input that fuzzing ever found worth keeping, once more.
//!
//! Must not depend on: what a target does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_fuzz::TARGETS;

/// An input that takes longer hangs, or will on some machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a target's corpus may be at most, so that it stays a part of the sources.
const FILES_MAX: usize = 250;
const BYTES_MAX: usize = 250_000;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target)
}

/// The inputs of a target, by name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder(target);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut all: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("an input");
            (path.display().to_string(), bytes)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn every_input_keeps_every_promise() {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        for (path, bytes) in &inputs {
            let since = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
                failed.push(path.clone());
            }
            assert!(since.elapsed() < PATIENCE, "{path} hangs");
        }
        println!("{name}: {} inputs", inputs.len());
    }
    assert!(failed.is_empty(), "these fail: {failed:#?}");
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

/// `bytes` with up to four small changes of the kind that parsers get wrong.
fn mutated(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    const PIECES: [&[u8]; 16] = [
        b"\r", b"\n", b"\r\n", b"\r\n ", b" ", b"\t", b":", b";", b",", b"\"", b"=", b"\\", b"0",
        b"f", b"[", b"v1.",
    ];
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let piece = PIECES[random.below(PIECES.len())];
        match random.below(4) {
            0 | 1 => drop(bytes.splice(at..at, piece.iter().copied())),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            _ => {}
        }
    }
    bytes
}

/// A minute part of what `make fuzz` does, the same each time.
#[test]
fn mutated_protocol_inputs_keep_every_promise() {
    let rounds =
        std::env::var("HOLDFAST_FUZZ_ROUNDS").map_or(3, |text| text.parse().expect("a number"));
    let mut random = Random(0x6d75_7461_7465_6421);
    for (name, target) in TARGETS {
        if !name.starts_with("http_") && !["chunked", "client_hello", "proxy"].contains(name) {
            continue;
        }
        let inputs = inputs(name);
        for _ in 0..rounds {
            for (path, bytes) in &inputs {
                let bytes = mutated(bytes, &mut random);
                let result = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
                assert!(
                    result.is_ok(),
                    "{name}, from {path}: {}",
                    bytes.escape_ascii()
                );
            }
        }
    }
}

#[test]
fn corpora_are_there_and_small() {
    for (name, _) in TARGETS {
        let inputs = inputs(name);
        let bytes: usize = inputs.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        assert!(
            inputs.len() <= FILES_MAX && bytes <= BYTES_MAX,
            "{name}: {} files, {bytes} bytes",
            inputs.len()
        );
    }
}

/// A target without a binary would never be fuzzed, a folder without a target never be replayed.
#[test]
fn targets_binaries_and_corpora_are_the_same() {
    let listed = |folder: &str| -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let entries = std::fs::read_dir(path).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(listed("bin"), names);
    assert_eq!(listed("corpus"), names);
}
