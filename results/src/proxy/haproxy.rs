//! haproxy's own statistics, from its socket.
//!
//! Purpose: `show info` and `show stat` as figures, to be compared with ours.
//! Invariants: what a version does not say reads as zero. One question a connection, bounded in
//! time.
//! Must not depend on: what is measured.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A busy haproxy answers within this.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// One side of haproxy: all connections with clients, or all with servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Side {
    /// Sessions now (`scur`).
    pub open: u64,
    /// Most at once (`smax`).
    pub open_max: u64,
    /// Sessions since the start (`stot`).
    pub sessions: u64,
    /// Bytes towards the client (`bout`).
    pub bytes_out: u64,
    /// Responses with a status of 2xx (`hrsp_2xx`).
    pub ok: u64,
    /// Requests, connections or responses that failed (`ereq`, `econ`, `eresp`).
    pub errors: u64,
}

/// What haproxy says of itself at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// Most connections it takes (`Maxconn`).
    pub connections_max: u64,
    /// Descriptors it has, from which it reckons that number unless told (`Ulimit-n`).
    pub descriptors: u64,
    /// Share of its time it had nothing to do, lately (`Idle_pct`), percent.
    pub idle_percent: u64,
    /// Towards clients.
    pub front: Side,
    /// Towards servers.
    pub back: Side,
}

/// Asks the haproxy behind `socket`.
///
/// # Errors
/// When it does not answer.
pub fn ask(socket: &Path) -> io::Result<Statistics> {
    let info = question(socket, "show info")?;
    let stat = question(socket, "show stat")?;
    Ok(of_texts(&info, &stat))
}

fn question(socket: &Path, words: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(format!("{words}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the answers to `show info` and `show stat` say.
#[must_use]
pub fn of_texts(info: &str, stat: &str) -> Statistics {
    let info: BTreeMap<_, _> = info
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    let number = |name: &str| {
        info.get(name)
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    };
    Statistics {
        connections_max: number("Maxconn"),
        descriptors: number("Ulimit-n"),
        idle_percent: number("Idle_pct"),
        front: side(stat, "FRONTEND"),
        back: side(stat, "BACKEND"),
    }
}

/// All rows of one kind together.
fn side(stat: &str, kind: &str) -> Side {
    let mut lines = stat.lines();
    let names: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
        .split(',')
        .collect();
    let mut all = Side::default();
    for line in lines {
        let row: BTreeMap<&str, &str> = names.iter().copied().zip(line.split(',')).collect();
        if row.get("svname") != Some(&kind) {
            continue;
        }
        let number = |name: &str| {
            row.get(name)
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        all.open += number("scur");
        all.open_max += number("smax");
        all.sessions += number("stot");
        all.bytes_out += number("bout");
        all.ok += number("hrsp_2xx");
        all.errors += number("ereq") + number("econ") + number("eresp");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_their_names() {
        let info = "Name: HAProxy\nUlimit-n: 20000\nMaxconn: 9983\nCurrConns: 3\nIdle_pct: 97\n\n";
        let stat = "# pxname,svname,qcur,scur,smax,stot,bout,econ,hrsp_2xx,\n\
            front,FRONTEND,,3,5,8,2000,,7,\n\
            back,server,0,2,4,6,1990,1,7,\n\
            back,BACKEND,0,2,4,6,1990,1,7,\n\n";
        let found = of_texts(info, stat);
        assert_eq!(
            (found.connections_max, found.descriptors, found.idle_percent),
            (9_983, 20_000, 97)
        );
        let front = found.front;
        assert_eq!(
            (front.open, front.open_max, front.sessions, front.bytes_out),
            (3, 5, 8, 2_000)
        );
        assert_eq!(
            (found.back.sessions, found.back.errors, found.back.ok),
            (6, 1, 7)
        );
        assert_eq!(of_texts("", ""), Statistics::default());
    }
}
