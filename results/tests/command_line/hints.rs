//! Values that an error proposes are accepted where the refused one was.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{errors, run, run_within};

/// Command lines whose last word is refused with a proposal.
const REFUSED: &[&str] = &[
    "server longconn --listen nonsense",
    "server longconn --metrics nonsense",
    "server longconn --interval 5parsecs",
    "server longconn --idle-timeout x",
    "server longconn --drain-timeout x",
    "server longconn --connections 1x",
    "server http --header nonsense",
    "server http --head-max x",
    "server http --body-max x",
    "server http --read-timeout x",
    "client longconn --users 1 --target nonsense",
    "client longconn --users 1 --target no-such-host.invalid:1",
    "client longconn --target 192.0.2.1:9 --users 1x",
    "client longconn --target 192.0.2.1:9 --users 1 --ports 5-1",
    "client longconn --target 192.0.2.1:9 --users 1 --run-time 0",
    "client longconn --target 192.0.2.1:9 --users 1 --run-time x",
    "client longconn --target 192.0.2.1:9 --users 1 --spawn-rate x",
    "client longconn --target 192.0.2.1:9 --users 1 --interval x",
    "client longconn --target 192.0.2.1:9 --users 1 --connect-timeout x",
    "client http --users 1 --target nonsense",
    "client http --users 1 --target ftp://192.0.2.1/",
    "client http --users 1 --target http://no-such-host.invalid/",
    "client http --target http://192.0.2.1:9/ --rate x",
    "client http --target http://192.0.2.1:9/ --users x",
    "client http --target http://192.0.2.1:9/ --requests x",
    "client http --target http://192.0.2.1:9/ --wait x",
    "client http --target http://192.0.2.1:9/ --timeout x",
    "client http --target http://192.0.2.1:9/ --header nonsense",
    "client http --target http://192.0.2.1:9/ --expect-status x",
    "client worker --master nonsense",
    "bench longconn --bin-dir /no-such-folder --users x",
    "bench longconn --bin-dir /no-such-folder --spawn-rate x",
    "bench longconn --bin-dir /no-such-folder --interval x",
    "bench http --bin-dir /no-such-folder --slice x",
    "tune plan --connections x",
];

/// What an error proposes: values in place of the refused one, or more flags behind it.
#[derive(Debug, PartialEq)]
enum Proposal {
    Value(String),
    Flag(String, String),
}

/// The proposals in the advice of an error about `flag`: what comes after "such as", after the flag
/// itself, or the ends of a range; for a name that is unknown, `--resolve`.
fn proposals(flag: &str, said: &str) -> Vec<Proposal> {
    let advice = said.lines().find_map(|line| line.split_once("next: "));
    let advice = advice.map_or("", |(_, advice)| advice);
    let word = |text: &str| {
        text.split([' ', ',', ';', ')'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    if let Some((_, host)) = advice.split_once("--resolve ") {
        let value = word(host).replace("ADDRESS", "192.0.2.1");
        return vec![Proposal::Flag("--resolve".into(), value)];
    }
    let listed = |text: &str| -> Vec<Proposal> {
        let text = text.split([';', '(']).next().unwrap_or_default();
        let parts = text.split(", ").flat_map(|part| part.split(" or "));
        let plain = parts.map(|value| {
            value
                .trim()
                .trim_start_matches("or ")
                .trim_matches(['\'', '"'])
        });
        let values = plain.filter(|value| !value.is_empty());
        values
            .map(|value| Proposal::Value(value.to_owned()))
            .collect()
    };
    if let Some((_, values)) = advice.split_once("such as ") {
        return listed(values);
    }
    if let Some((_, value)) = advice.split_once(&format!("{flag} ")) {
        return vec![Proposal::Value(word(value))];
    }
    let range = advice
        .split_once(" from ")
        .and_then(|(_, range)| range.split_once(" to "));
    range.map_or_else(Vec::new, |(least, most)| {
        let mut found = vec![Proposal::Value(least.to_owned())];
        found.extend(listed(most));
        found
    })
}

/// What is wrong with the advice for one command line.
fn faults_of(line: &str) -> Vec<String> {
    let words: Vec<_> = line.split(' ').collect();
    let (before, refused) = words.split_at(words.len() - 1);
    let output = run(&words);
    let said = errors(&output);
    if output.status.code() != Some(2) || !said.starts_with("error: ") {
        return vec![format!("is not refused: {said}")];
    }
    // Of a URL, the host is named.
    let value = refused[0]
        .trim_start_matches("http://")
        .trim_end_matches('/');
    if !said.contains(value) && !said.contains(before[before.len() - 1]) {
        return vec![format!("names neither flag nor value: {said}")];
    }
    let proposals = proposals(before[before.len() - 1], &said);
    if proposals.is_empty() {
        return vec![format!("proposes nothing: {said}")];
    }
    let refused_again = proposals.iter().filter_map(|proposal| {
        let (line, value) = match proposal {
            Proposal::Value(value) => ([before, &[value]].concat(), value),
            Proposal::Flag(flag, value) => ([&words[..], &[flag, value]].concat(), value),
        };
        let again = errors(&run_within("1", &line));
        let error = again.lines().find(|line| line.starts_with("error: "))?;
        // What cannot be reached, or is missing, is another matter.
        let is_accepted = !error.contains(value.as_str()) && !error.contains("cannot resolve");
        (!is_accepted).then(|| format!("proposes '{value}': {error}"))
    });
    refused_again.collect()
}

#[test]
fn every_value_that_an_error_proposes_is_accepted_in_its_place() {
    // What is accepted runs until it is ended, so several are tried at a time.
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(line) = REFUSED.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for fault in faults_of(line) {
                        let text = format!("holdfast-{line} {}", fault.trim());
                        wrong.lock().expect("no panic").push(text);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn proposals_are_read_from_advice() {
    let values = |said: &str| -> Vec<String> {
        let found = proposals("--time", said).into_iter();
        found
            .map(|proposal| match proposal {
                Proposal::Value(value) => value,
                Proposal::Flag(flag, value) => format!("{flag} {value}"),
            })
            .collect()
    };
    let said = "error: x; next: give bytes such as 512, 64k, 1.5M or 'a b'; or none\n";
    assert_eq!(values(said), ["512", "64k", "1.5M", "a b"]);
    assert_eq!(
        values("error: x; next: give --time 10s, or leave it out"),
        ["10s"]
    );
    assert_eq!(
        values("error: x; next: give users from 0.001 to 100, or max"),
        ["0.001", "100", "max"]
    );
    assert_eq!(
        values("error: x; next: --resolve a:1:ADDRESS"),
        ["--resolve a:1:192.0.2.1"]
    );
    assert_eq!(values("error: x"), Vec::<String>::new());
}
