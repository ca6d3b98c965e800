//! Source and sink of bulk data: both ends of a relay's connections in one process.
//!
//! Purpose: sends as much as goes over some connections in one direction, and checks that exactly
//! that arrives: `holdfast-bench bulk`, which `holdfast-bench relay` starts.
//! Invariants: byte `n` of every connection is `n % PERIOD`, so a byte that is lost, doubled or
//! moved shows, in the data or in the counts. Every wait is bounded. One thread for each end: the
//! relay is what is measured, and both ends together cost it nothing.
//! Must not depend on: what is between the ends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_telemetry::report_line::{Report, read_json};
use holdfast_units::parse;

/// Schema of a [`BulkReport`].
pub const BULK_SCHEMA: &str = "holdfast.bulk/1";
/// Prime, so that no power of two hides a shift.
const PERIOD: usize = 251;
/// Bytes of one read or write.
const BLOCK: usize = 256 * 1024;
/// Bytes at both ends of a read that are compared; the counts tell the rest.
const CHECKED: usize = 64;
/// An end that waits longer than this for the other has lost something.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// From the side that connects.
    Up,
    /// To it.
    Down,
}

/// The flags of `holdfast-bench bulk`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes: 0 everything arrived, 1 something did not, 2 not started.")]
pub struct Flags {
    /// Accept the connections at this address
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,

    /// Connect to this address: that of a relay, or the one that is listened on
    #[arg(long, value_name = "HOST:PORT")]
    target: SocketAddr,

    /// Send over this many connections at once
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = parse::count_in::<usize>(1..=1_000))]
    connections: usize,

    /// Send from the connecting side (up) or to it (down)
    #[arg(long, value_enum, default_value = "up")]
    direction: Direction,

    /// Send for this long
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse::time)]
    time: Duration,
}

/// What the line on standard output says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BulkReport {
    /// [`BULK_SCHEMA`].
    pub schema: String,
    /// Bytes handed to the kernel by all sources.
    pub sent: u64,
    /// Bytes that arrived at all sinks.
    pub received: u64,
    /// Reads with a byte that should be another one.
    pub wrong: u64,
    /// Connections that ended with an error.
    pub failed: u64,
    /// The first such error.
    pub error: Option<String>,
    /// From the first byte to the last end, seconds.
    pub seconds: f64,
}

impl Report for BulkReport {
    fn read(line: &str) -> Result<Self, String> {
        read_json(line, BULK_SCHEMA, |r: &Self| &r.schema)
    }
    fn is_final(&self) -> bool {
        true
    }
}

/// Sends, receives, prints a [`BulkReport`]. Exit code 0 if all arrived, 1 if not.
///
/// # Errors
/// When the address cannot be listened on, or nothing connects.
pub fn run(flags: &Flags) -> Result<u8, SetupError> {
    let refuse = |what: &str, e: io::Error| {
        SetupError::new(
            SetupErrorKind::Io,
            format!("{what}: {e}"),
            "give --listen a free address and --target that of a relay which leads there",
        )
    };
    let listener = TcpListener::bind(flags.listen).map_err(|e| refuse("--listen", e))?;
    let report = transfer(&listener, flags).map_err(|e| refuse("--target", e))?;
    let is_whole = report.sent == report.received && report.wrong + report.failed == 0;
    println!("{}", serde_json::to_string(&report).unwrap_or_default());
    Ok(u8::from(!is_whole))
}

/// What one end did.
#[derive(Debug, Default)]
struct Done {
    sent: u64,
    received: u64,
    wrong: u64,
    error: Option<io::Error>,
}

fn transfer(listener: &TcpListener, flags: &Flags) -> io::Result<BulkReport> {
    let mut ends = Vec::new();
    for _ in 0..flags.connections {
        let near = TcpStream::connect_timeout(&flags.target, STALL_MAX)?;
        let far = accept(listener)?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(STALL_MAX))?;
            end.set_write_timeout(Some(STALL_MAX))?;
        }
        ends.push(match flags.direction {
            Direction::Up => (near, far),
            Direction::Down => (far, near),
        });
    }
    // Everybody and this thread, so that no connection has the relay for itself.
    let start = Barrier::new(2 * ends.len() + 1);
    let (done, seconds) = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (from, to) in &ends {
            let start = &start;
            threads.push(scope.spawn(move || {
                start.wait();
                source(from, flags.time)
            }));
            threads.push(scope.spawn(move || {
                start.wait();
                sink(to)
            }));
        }
        start.wait();
        let started = Instant::now();
        let done: Vec<Done> = threads
            .into_iter()
            .map(|t| t.join().unwrap_or_default())
            .collect();
        (done, started.elapsed().as_secs_f64())
    });
    Ok(BulkReport {
        schema: BULK_SCHEMA.into(),
        sent: done.iter().map(|d| d.sent).sum(),
        received: done.iter().map(|d| d.received).sum(),
        wrong: done.iter().map(|d| d.wrong).sum(),
        failed: done.iter().filter(|d| d.error.is_some()).count() as u64,
        error: done
            .iter()
            .find_map(|d| Some(d.error.as_ref()?.to_string())),
        seconds,
    })
}

/// The connection that a relay makes for the one just opened.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let until = Instant::now() + STALL_MAX;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the connection did not get through",
                ));
            }
            Err(e) => return Err(e),
        }
    }
}

/// As many bytes of the pattern as one read or write has, beginning anywhere in it.
fn pattern() -> Vec<u8> {
    (0..BLOCK + PERIOD).map(|n| (n % PERIOD) as u8).collect()
}

fn source(mut to: &TcpStream, time: Duration) -> Done {
    let pattern = pattern();
    let until = Instant::now() + time;
    let mut done = Done::default();
    while Instant::now() < until && done.error.is_none() {
        let start = (done.sent % PERIOD as u64) as usize;
        match to.write(&pattern[start..start + BLOCK]) {
            Ok(n) => done.sent += n as u64,
            Err(e) => done.error = Some(e),
        }
    }
    if let Err(e) = to.shutdown(Shutdown::Write) {
        done.error.get_or_insert(e);
    }
    done
}

fn sink(mut from: &TcpStream) -> Done {
    let pattern = pattern();
    let mut block = vec![0; BLOCK];
    let mut done = Done::default();
    loop {
        match from.read(&mut block) {
            Ok(0) => return done,
            Ok(n) => {
                let start = (done.received % PERIOD as u64) as usize;
                let (got, due) = (&block[..n], &pattern[start..start + n]);
                let checked = CHECKED.min(n);
                if got[..checked] != due[..checked] || got[n - checked..] != due[n - checked..] {
                    done.wrong += 1;
                }
                done.received += n as u64;
            }
            Err(e) => {
                done.error = Some(e);
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(listener: &TcpListener, target: SocketAddr, direction: Direction) -> Flags {
        Flags {
            listen: listener.local_addr().expect("an address"),
            target,
            connections: 4,
            direction,
            time: Duration::from_millis(50),
        }
    }

    /// A relay of `count` connections that leaves out byte number `missing` of each.
    fn broken_relay(backend: SocketAddr, count: usize, missing: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for client in listener.incoming().take(count) {
                let mut client = client.expect("accepts");
                let mut server = TcpStream::connect(backend).expect("connects");
                thread::spawn(move || {
                    let mut before = vec![0; missing];
                    client.read_exact(&mut before).expect("reads");
                    server.write_all(&before).expect("writes");
                    client.read_exact(&mut [0]).expect("reads");
                    io::copy(&mut client, &mut server).expect("copies");
                    server.shutdown(Shutdown::Write).expect("ends");
                });
            }
        });
        address
    }

    #[test]
    fn all_bytes_arrive_both_ways() {
        for direction in [Direction::Up, Direction::Down] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
            let target = listener.local_addr().expect("an address");
            let report =
                transfer(&listener, &flags(&listener, target, direction)).expect("transfers");
            assert_eq!((report.wrong, report.failed), (0, 0), "{report:?}");
            assert!(report.sent >= 4 * BLOCK as u64 / 8 && report.sent == report.received);
        }
    }

    #[test]
    fn relay_that_drops_a_byte_of_each_connection_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let backend = listener.local_addr().expect("an address");
        let target = broken_relay(backend, 4, 1_000);
        let report =
            transfer(&listener, &flags(&listener, target, Direction::Up)).expect("transfers");
        assert_eq!(report.sent - report.received, 4, "{report:?}");
        assert!(report.wrong >= 4, "{report:?}");
    }
}
