//! Chat servers side by side: `holdfast-bench chat`.
//!
//! Purpose: `programs -> namespace -> slices, round by round -> medians -> ratios`. In a slice one server, on one half of the cores, has
//! members, on the other half (`examples/chat_members.rs`), one of which sends messages to all.
//! Invariants: the record is that of [`crate::http`], with messages delivered where that counts requests. What did not come to every
//! member once has no figures.
//! Must not depend on: how a server does its work.

pub mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use holdfast_engine::SetupError;
use holdfast_report::bottleneck;
use holdfast_report::folder::{RunFolder, check_label};
use holdfast_report::header::Header;
use holdfast_report::http::record::{
    CHAT_RUN_SCHEMA, Cores, Entry, HttpAsked, HttpRun, MEMBERS_PREFIX, Measured,
};
use holdfast_report::http::{ratios, summary, verdict};
use holdfast_telemetry::live::Live;
use holdfast_telemetry::proc::KernelSample;
use holdfast_telemetry::proc::tree;
use holdfast_telemetry::report_line::{AnyLine, Report};
use holdfast_telemetry::units::{count, round};
use holdfast_testbed::child::{Child, words};
use holdfast_testbed::namespace;
use holdfast_testbed::programs::{bin_dir_or_own, find, program};
use holdfast_units::parse;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use tokio::sync::Notify;

use crate::http::address::address;
use crate::http::cores::{self, Halves, allowed};
use crate::http::moment::Moment;
use crate::http::programs::{Family, Programs, kill_with_parent};
use crate::http::subject::build_go;
use crate::run_control::{Aborted, RunControl, has_not_ended, last_words};
use crate::run_harness::RunFlags;
use crate::scenario::Scenario;
use members::MembersReport;

const GO: &str = include_str!("../../competitors/go-chat/main.go");
/// Port in a network namespace of its own.
const PRIVATE_PORT: u16 = 900;
/// Descriptors of a server beside those of its members.
const OTHER_DESCRIPTORS: u64 = 64;
const START_MAX: Duration = Duration::from_secs(10);
/// Joining, and a batch, take less, or the slice failed.
const STEP_MAX: Duration = Duration::from_secs(120);
const SETTLE: Duration = Duration::from_millis(500);
/// How often the members are looked at: each report of them wakes the bench too.
const POLL: Duration = Duration::from_millis(250);

/// The flags of `holdfast-bench chat`.
#[derive(Debug, Clone, Args)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 passed, 1 fell short (run.json says in what), 2 not started, 130 interrupted."
)]
pub struct Flags {
    /// Send each message to this many members; servers that need a descriptor for each get as many as the limit allows, and the others
    /// are measured at both counts
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = parse::count_in::<u64>(2..=10_000_000))]
    members: u64,

    /// Send this many messages in a slice, after as many that are not measured
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = parse::count_in::<u32>(1..=10_000))]
    messages: u32,

    /// Measure these servers, separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "holdfast,baseline,go,tokio"
    )]
    subjects: Vec<Subject>,

    /// Measure everything this many times, in turns; figures are medians
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = parse::count_in::<u32>(1..=1_000))]
    rounds: u32,

    /// Have the servers listen on this port [default: 900; in the host's network one that is free]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// Stay in the host's network: no setting is changed [default: off]
    #[arg(long)]
    no_namespace: bool,

    /// The flags that every run has.
    #[command(flatten)]
    run: RunFlags,
}

/// A chat server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Subject {
    /// `engine/examples/chat.rs`.
    Holdfast,
    /// `engine/examples/bare_chat.rs`: what any server of this kind pays at least.
    #[value(alias = "floor")]
    Baseline,
    /// `competitors/go-chat`.
    Go,
    /// `competitors/tokio-chat`.
    Tokio,
}

impl Subject {
    /// Its name in records.
    fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Baseline => "floor",
            Self::Go => "go",
            Self::Tokio => "tokio",
        }
    }

    /// Each member needs a descriptor of its process.
    fn is_limited(self) -> bool {
        matches!(self, Self::Go | Self::Tokio)
    }
}

/// One measurement to be made.
#[derive(Debug, Clone, Copy)]
struct Slice {
    round: u32,
    members: u64,
    subject: Subject,
}

impl Slice {
    fn scenario(self) -> String {
        format!("{MEMBERS_PREFIX}{}", self.members)
    }
}

/// Chat servers side by side.
pub struct Chat {
    flags: Flags,
    halves: Halves,
    slices: Vec<Slice>,
    client: PathBuf,
    programs: BTreeMap<Subject, PathBuf>,
    notices: Vec<String>,
    port: u16,
}

/// Every measurement of a run: those that `limited` members allow next to each other.
fn slices(flags: &Flags, subjects: &BTreeSet<Subject>, limited: u64) -> Vec<Slice> {
    let counts = BTreeSet::from([flags.members.min(limited), flags.members]);
    let mut slices = Vec::new();
    for round in 1..=flags.rounds {
        for members in &counts {
            let fits = |s: &&Subject| !s.is_limited() || *members <= limited;
            slices.extend(subjects.iter().filter(fits).map(|subject| Slice {
                round,
                members: *members,
                subject: *subject,
            }));
        }
    }
    slices
}

impl Chat {
    /// Checks `flags` against the programs there are.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn new(flags: Flags) -> Result<Self, SetupError> {
        check_label(flags.run.name.as_deref())?;
        let bin_dir = flags.run.bin_dir.as_deref();
        let example = |name: &str| {
            program(bin_dir, &format!("examples/{name}"))
                .map_err(|e| SetupError::new(e.kind(), e.cause(), "make bench-chat"))
        };
        let mut notices = Vec::new();
        let mut programs = BTreeMap::new();
        for subject in flags.subjects.iter().copied() {
            let found = match subject {
                Subject::Holdfast => example("chat"),
                Subject::Baseline => example("bare_chat"),
                Subject::Tokio => example("chat_tokio"),
                Subject::Go => match go(&bin_dir_or_own(bin_dir)) {
                    Ok(path) => Ok(path),
                    Err(why) => {
                        notices.push(format!("go is left out: {why}"));
                        continue;
                    }
                },
            };
            programs.insert(subject, found?);
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(_, hard)| hard);
        let limited = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(2);
        if limited < flags.members && programs.keys().any(|s| s.is_limited()) {
            notices.push(format!(
                "one process may have {} descriptors: go and tokio have {} members, holdfast and the baseline, whose members need none, \
                 are measured with {0} and with {}",
                count(descriptors),
                count(limited),
                count(flags.members)
            ));
        }
        Ok(Self {
            halves: Halves::of(&allowed()),
            slices: slices(&flags, &programs.keys().copied().collect(), limited),
            client: example("chat_members")?,
            port: flags.port.unwrap_or(PRIVATE_PORT),
            programs,
            notices,
            flags,
        })
    }

    async fn measure(
        &self,
        control: &mut RunControl,
        folder: &RunFolder,
        number: usize,
        established: u64,
    ) -> Result<Measured, Aborted> {
        let slice = self.slices[number];
        let dir = folder.file(&format!("work/{number:05}"));
        std::fs::create_dir_all(&dir)
            .map_err(|e| Aborted::failed("not_started", format!("{}: {e}", dir.display())))?;
        // Rings of the slice before may end, with their sockets, later than their process.
        let has_ended = || Ok((KernelSample::read().established <= established).then_some(()));
        control.wait(START_MAX, POLL, has_ended).await?;
        let established = KernelSample::read().established;
        let address = address(number, self.port);
        let mut args = words(&[&address.to_string()]);
        if slice.subject.is_limited() {
            args.push(self.halves.server.len().to_string());
        }
        let program = &self.programs[&slice.subject];
        let (cores, notify) = (&self.halves.server, &control.notify);
        let mut server: Child<AnyLine> = start("server", program, args, cores, &dir, notify)?;
        let listens = control.wait(START_MAX, POLL, || {
            has_not_ended(&mut server, "server_did_not_start")?;
            Ok((server.heard().line_count > 0).then_some(()))
        });
        let words = "it does not listen";
        (listens.await?).ok_or_else(|| Aborted::failed("server_did_not_start", words))?;
        let rss_base_bytes = Some(tree::rss_bytes(server.pid()));
        let (members, messages) = (slice.members, self.flags.messages);
        let args = vec![
            address.to_string(),
            members.to_string(),
            messages.to_string(),
        ];
        let (cores, notify) = (&self.halves.client, &control.notify);
        let client = start("client", &self.client, args, cores, &dir, notify)?;
        let mut performance = Performance {
            control,
            server,
            client,
            members,
            address,
            established,
        };
        let measured = performance.perform(&self.halves).await?;
        let _ = std::fs::remove_dir_all(&dir);
        Ok(Measured {
            round: slice.round,
            server_core_count: self.halves.server.len(),
            client_core_count: self.halves.client.len(),
            is_shared: self.halves.is_shared(),
            rss_base_bytes,
            ..measured
        })
    }
}

/// Starts a program of a slice on `cores`; it ends with this one.
fn start<R: Report>(
    name: &'static str,
    program: &Path,
    args: Vec<String>,
    cores: &[usize],
    dir: &Path,
    notify: &Rc<Notify>,
) -> Result<Child<R>, Aborted> {
    let fail = |why: String| Aborted::failed("not_started", why);
    let wrap = Programs {
        setpriv: find("setpriv"),
        ..Programs::default()
    };
    let (program, args) = kill_with_parent(&wrap, Family::Alone, program, args);
    let log = dir.join(format!("{name}.stderr.log"));
    cores::on(cores, || {
        Child::start(name, &program, &args, log, notify.clone())
    })
    .map_err(fail)?
    .map_err(|e| fail(format!("{} cannot be started: {e}", program.display())))
}

/// One slice under way.
struct Performance<'a> {
    control: &'a mut RunControl,
    server: Child<AnyLine>,
    client: Child<MembersReport>,
    members: u64,
    /// Where the server listens.
    address: SocketAddr,
    /// Sockets that were established without the members.
    established: u64,
}

impl Performance<'_> {
    async fn perform(&mut self, halves: &Halves) -> Result<Measured, Aborted> {
        let (members, established) = (self.members, self.established + 2 * self.members);
        let address = self.address;
        let has_joined = |r: &MembersReport| {
            r.opened + r.failed >= members
                && KernelSample::read().established >= established
                && is_queue_empty(address)
        };
        self.until(has_joined).await?;
        self.rest().await?;
        self.client.signal(Signal::SIGUSR1);
        let before = self.until(|r| r.batches == 1).await?;
        self.rest().await?;
        let client_cpu = tree::cpu_seconds(self.client.pid());
        let start = Moment::now(self.server.pid());
        self.client.signal(Signal::SIGUSR1);
        let after = self.until(|r| r.batches == 2).await?;
        let mut measured = Measured {
            client_cpu_seconds: tree::cpu_seconds(self.client.pid()) - client_cpu,
            requests: after.delivered - before.delivered,
            latency_us: Some(after.delivery_us),
            last_us: Some(after.last_us),
            idle_connections: members,
            ..Measured::default()
        };
        start.until_now(self.server.pid(), halves, &mut measured);
        // By the time that messages were under way.
        let per_second = |us: u64| members as f64 / (us.max(1) as f64 / 1e6);
        measured.requests_per_second = Some(per_second(after.last_us.p50));
        // What comes twice would come now.
        self.rest().await?;
        measured.rss_bytes = Some(tree::rss_bytes(self.server.pid()));
        self.client.signal(Signal::SIGTERM);
        let (control, client) = (&mut *self.control, &mut self.client);
        control.until_ended(client, "client_did_not_end").await?;
        let last = client.heard().latest.clone().unwrap_or_default();
        measured.failures = failures(&last, members);
        if !last.is_final {
            let words = format!("the members left no final report{}", last_words(client));
            return Err(Aborted::failed("client_without_result", words));
        }
        self.server.signal(Signal::SIGKILL);
        let (control, server) = (&mut *self.control, &mut self.server);
        control.until_ended(server, "server_did_not_end").await?;
        Ok(measured)
    }

    /// Waits for a report that is as `is_it` wants it.
    async fn until(
        &mut self,
        is_it: impl Fn(&MembersReport) -> bool,
    ) -> Result<MembersReport, Aborted> {
        let (server, client) = (&mut self.server, &mut self.client);
        let found = self.control.wait(STEP_MAX, POLL, || {
            has_not_ended(server, "server_died")?;
            has_not_ended(client, "client_died")?;
            let latest = client.heard().latest.clone();
            Ok(latest.filter(|report| is_it(report)))
        });
        let found = found.await?;
        found.ok_or_else(|| {
            let latest = self.client.heard().latest.clone().unwrap_or_default();
            let failures = failures(&latest, self.members);
            let seconds = STEP_MAX.as_secs();
            Aborted::failed(
                "not_delivered",
                format!(
                    "not all members had joined and every message after {seconds} s: {failures:?}"
                ),
            )
        })
    }

    async fn rest(&mut self) -> Result<(), Aborted> {
        let rested = self.control.wait::<()>(SETTLE, SETTLE, || Ok(None)).await?;
        debug_assert!(rested.is_none());
        Ok(())
    }
}

/// Whether the server has accepted all that connected to it: a member whom it does not know yet would miss a message.
fn is_queue_empty(address: SocketAddr) -> bool {
    // Listeners come first, and the rest of the file has a line for each connection.
    let mut text = String::new();
    let read = File::open("/proc/thread-self/net/tcp")
        .and_then(|file| file.take(64 << 10).read_to_string(&mut text));
    let port = format!(":{:04X}", address.port());
    let is_listener = |fields: &Vec<&str>| {
        fields.get(3) == Some(&"0A") && fields.get(1).is_some_and(|local| local.ends_with(&port))
    };
    let mut listeners = text
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(is_listener);
    let is_empty = |fields: Vec<&str>| fields.get(4).is_some_and(|q| q.ends_with(":00000000"));
    read.is_ok() && listeners.all(is_empty)
}

/// What did not come to every member once.
fn failures(report: &MembersReport, members: u64) -> BTreeMap<String, u64> {
    let due = report.messages * members;
    [
        ("not_joined", members.saturating_sub(report.opened)),
        ("closed", report.ended),
        ("missed", due.saturating_sub(report.delivered)),
        ("invalid_bytes", report.invalid),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(kind, count)| (kind.to_string(), count))
    .collect()
}

/// Builds the Go server.
fn go(bin_dir: &Path) -> Result<PathBuf, String> {
    let tool = find("go").ok_or("the Go tool is not here; next: apt-get install golang-go")?;
    build_go(&tool, bin_dir, "chat-go", GO).map_err(|why| format!("it cannot be built: {why}"))
}

impl Scenario for Chat {
    type Record = HttpRun;
    const NAME: &'static str = "chat";
    const SCHEMA: &'static str = CHAT_RUN_SCHEMA;

    fn run_flags(&self) -> &RunFlags {
        &self.flags.run
    }

    fn prepare(&mut self, head: Header, live: &mut Live) -> Result<HttpRun, SetupError> {
        let mut scenarios: Vec<Entry> = Vec::new();
        for slice in self.slices.iter().filter(|slice| slice.round == 1) {
            scenarios.push(Entry {
                scenario: slice.scenario(),
                subject: slice.subject.name().into(),
                generator: "members".into(),
                connections: slice.members,
                ..Entry::default()
            });
        }
        let names: BTreeSet<String> = scenarios.iter().map(|e| e.scenario.clone()).collect();
        let mut run = HttpRun {
            header: head,
            notes: self.notices.clone(),
            asked: HttpAsked {
                scenarios: names.into_iter().collect(),
                subjects: self.programs.keys().map(|s| s.name().into()).collect(),
                generators: vec!["members".into()],
                rounds: self.flags.rounds,
                messages: Some(self.flags.messages),
                ..HttpAsked::default()
            },
            cores: Cores {
                server: self.halves.server.clone(),
                client: self.halves.client.clone(),
            },
            scenarios,
            ..HttpRun::default()
        };
        let tuning = namespace::Tuning {
            is_private: !self.flags.no_namespace,
            ..namespace::Tuning::default()
        };
        run.header.lab = namespace::enter(self.flags.members, &tuning);
        for note in self.notices.iter().chain(&run.header.lab.notes) {
            live.note(note);
        }
        if !run.header.lab.is_private() && self.flags.port.is_none() {
            self.port = namespace::free_port()?;
        }
        Ok(run)
    }

    async fn run(
        &mut self,
        control: &mut RunControl,
        folder: &RunFolder,
        run: &mut HttpRun,
    ) -> Result<(), SetupError> {
        control.progress.title = "bench chat";
        let started = Instant::now();
        let established = KernelSample::read().established;
        for (number, slice) in self.slices.iter().enumerate() {
            let (scenario, name) = (slice.scenario(), slice.subject.name());
            let part = format!("{scenario} of {name}, round {}", slice.round);
            let left =
                started.elapsed() / (number as u32).max(1) * (self.slices.len() - number) as u32;
            control.progress.begin(part.clone(), slice.members, left);
            let measured = match self.measure(control, folder, number, established).await {
                Ok(measured) => measured,
                Err(Aborted::Refused(error)) => return Err(error),
                Err(Aborted::Interrupted) => {
                    run.header.incidents.push("interrupted".into());
                    break;
                }
                Err(Aborted::Failed { kind, why }) => {
                    control.live.note(format_args!("{part}: {why}"));
                    Measured {
                        round: slice.round,
                        failures: [(kind.to_string(), 1)].into(),
                        error: Some(why),
                        ..Measured::default()
                    }
                }
            };
            let is_of = |e: &&mut Entry| e.scenario == scenario && e.subject == name;
            if let Some(entry) = run.scenarios.iter_mut().find(is_of) {
                entry.measured.push(measured);
            }
        }
        run.header.seconds = round(started.elapsed().as_secs_f64(), 3);
        Ok(())
    }

    fn record(&mut self, folder: &RunFolder, run: &mut HttpRun) {
        for entry in &mut run.scenarios {
            *entry = std::mem::take(entry).summed_up();
            entry.limits = bottleneck::of_entry(entry);
        }
        run.ratios = ratios::ratios(&run.scenarios);
        let _ = std::fs::remove_dir(folder.file("work"));
    }

    fn judge(run: &mut HttpRun) {
        verdict::judge(run);
        run.header.limits = bottleneck::of_http(run);
    }

    fn summarise(run: &HttpRun, folder: &Path) -> String {
        summary::page(run, folder)
    }

    fn head(run: &mut HttpRun) -> &mut Header {
        &mut run.header
    }
}
