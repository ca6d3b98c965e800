//! Fault-injection tests: real faults on the real kernel under the programs as they are shipped.
//! `engine/RELIABILITY.md` says what is promised and what was seen; `make faults`, `make soak` and
//! `make faults-million` run this.
//!
//! Each test runs in namespaces of its own, bounded in time: a backend and a client host on a
//! bridge, both with the kernel profile of their role. It prints one line, pass or FAIL, and what
//! it saw.
//! Invariants: processes, sockets and mounts end with the test's namespaces, whatever ends it. The
//! memory control group is removed and net.ipv4.tcp_mem, which belongs to the machine, is restored
//! here, also by the next start.
//! Must not depend on: what a test does.
#![forbid(unsafe_code)]

mod limits;
mod million;
mod network;
mod processes;
mod soak;
mod stage;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use holdfast_testbed::sandbox::{self, Entered};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use stage::Stage;

/// Minutes a test may take at most, unless it is a long one.
const MINUTES_MAX: f64 = 4.0;

/// One test: its name and what is promised.
struct Fault {
    name: &'static str,
    promise: &'static str,
    run: fn(&Stage),
}

const fn fault(name: &'static str, promise: &'static str, run: fn(&Stage)) -> Fault {
    Fault { name, promise, run }
}

const FAULTS: [Fault; 14] = [
    fault("link", network::LINK, network::link),
    fault("link-long", network::LINK_LONG, network::link_long),
    fault("loss", network::LOSS, network::loss),
    fault("resets", network::RESETS, network::resets),
    fault("half-open", network::HALF_OPEN, network::half_open),
    fault("killed", processes::KILLED, processes::killed),
    fault(
        "stopped-server",
        processes::STOPPED_SERVER,
        processes::stopped_server,
    ),
    fault(
        "stopped-client",
        processes::STOPPED_CLIENT,
        processes::stopped_client,
    ),
    fault(
        "full-stdout",
        processes::FULL_STDOUT,
        processes::full_stdout,
    ),
    fault("clocks", processes::CLOCKS, processes::clocks),
    fault("disk-full", processes::DISK_FULL, processes::disk_full),
    fault("descriptors", limits::DESCRIPTORS, limits::descriptors),
    fault("memory", limits::MEMORY, limits::memory),
    fault("tcp-mem", limits::TCP_MEM, limits::tcp_mem),
];

/// Run only when named.
const LONG: [Fault; 2] = [
    fault("million", million::PROMISE, million::run),
    fault("soak", soak::PROMISE, soak::run),
];

/// Inject faults into server and client, and check what is promised (root)
#[derive(Debug, Parser)]
#[command(
    name = "faults",
    after_help = "Exit codes: 0 every promise was kept, 1 one was not, 2 usage or set-up error."
)]
pub struct Args {
    /// Tests to run [default: all but million and soak]
    names: Vec<String>,

    /// List the tests and what each promises
    #[arg(long)]
    list: bool,

    /// Folder of holdfast-server, holdfast-client, holdfast-bench and holdfast-tune
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    bin_dir: PathBuf,

    /// Users of million and soak [default: 1000000, 200000]
    #[arg(long, value_name = "COUNT")]
    users: Option<u64>,

    /// Minutes of soak, after 100 s in which sockets come to rest; a slope needs one at least
    #[arg(long, default_value_t = 30.0, value_parser = minutes)]
    minutes: f64,

    /// Where soak writes memory over time
    #[arg(long, value_name = "FILE", default_value = "soak.csv")]
    csv: PathBuf,

    /// The test this process runs, in namespaces of its own
    #[arg(long, hide = true)]
    inside: Option<String>,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (1.0..=10_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("give minutes from 1 to 10,000".into()),
    }
}

fn find(name: &str) -> Option<&'static Fault> {
    FAULTS.iter().chain(&LONG).find(|fault| fault.name == name)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.inside {
        Some(name) => inside(name, &args).map(ExitCode::from),
        None if args.list => {
            for fault in FAULTS.iter().chain(&LONG) {
                println!("{:16} {}", fault.name, fault.promise);
            }
            Ok(ExitCode::SUCCESS)
        }
        None => all(&args),
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("error: {why}");
        ExitCode::from(2)
    })
}

/// Runs the tests that are asked for, one after the other, each in a process of its own.
fn all(args: &Args) -> Result<ExitCode, String> {
    let bin_dir = &args.bin_dir;
    if let Some(name) = args.names.iter().find(|name| find(name).is_none()) {
        return Err(format!(
            "there is no test {name:?}; next: make faults FAULTS=--list"
        ));
    }
    if !geteuid().is_root() {
        return Err("links, limits and control groups need root; next: sudo make faults".into());
    }
    if !bin_dir.join("holdfast-server").exists() {
        return Err(format!(
            "no programs in {}; next: make build",
            bin_dir.display()
        ));
    }
    limits::clean(bin_dir);
    let asked = args.names.iter().filter_map(|name| find(name));
    let tests: Vec<_> = if args.names.is_empty() {
        FAULTS.iter().collect()
    } else {
        asked.collect()
    };
    let mut failed = Vec::new();
    for fault in tests {
        if !run(fault, args) {
            failed.push(fault.name);
        }
        limits::clean(bin_dir);
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("fell short: {}", failed.join(" "));
    Ok(ExitCode::from(1))
}

/// Runs one test in a process of its own; whether it passed.
fn run(fault: &Fault, args: &Args) -> bool {
    let own = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(own)
        .args(std::env::args_os().skip(1))
        .args(["--inside", fault.name])
        .spawn()
        .expect("this program starts again");
    let minutes = match fault.name {
        "soak" => args.minutes + 15.0,
        "million" => 60.0,
        _ => MINUTES_MAX,
    };
    let limit = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            return status.success();
        }
        if Instant::now() > limit {
            println!("FAIL  {}: not over within {minutes} minutes", fault.name);
            let _ = child.kill();
            let _ = child.wait();
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs one test here, after entering namespaces of its own; its exit code.
fn inside(name: &str, args: &Args) -> Result<u8, String> {
    // Whatever ends the parent ends the namespaces too.
    set_pdeathsig(Signal::SIGKILL).map_err(|e| e.to_string())?;
    if let Entered::Done(code) = sandbox::enter(true).map_err(|e| e.to_string())? {
        return Ok(code);
    }
    let fault = find(name).ok_or("no such test")?;
    let since = Instant::now();
    let name = fault.name;
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload();
        let text = said.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| said.downcast_ref::<&str>().copied());
        let (text, saw) = (text.unwrap_or("a panic"), stage::figures());
        let place = panic.location().map(ToString::to_string);
        println!(
            "FAIL  {name}: NOT {text} ({}); {saw}",
            place.unwrap_or_default()
        );
        // Everything of these namespaces ends with their first process.
        std::process::exit(1);
    }));
    let bin_dir: &Path = &args.bin_dir;
    let stage = Stage::new(bin_dir, args)?;
    (fault.run)(&stage);
    println!(
        "pass  {name}: {} ({:.0} s)",
        stage::figures(),
        since.elapsed().as_secs_f64()
    );
    Ok(0)
}
