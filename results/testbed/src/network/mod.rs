//! The lab's network: hosts in namespaces of their own, joined by a bridge in another.
//!
//! Purpose: [`Network::build`] makes it inside a [sandbox](crate::sandbox), with the kernel
//! profiles of each host's role and a connection table of its own; [`Network::check`] proves that
//! its hosts hear each other.
//! Invariants: everything made lives in the sandbox and ends with it. A process that joins an
//! existing testbed finds the same hosts.
//! Must not depend on: what runs in it.

pub mod host;
pub mod layout;
pub mod shell;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_sysctl::profile::Role;
use holdfast_sysctl::values::write;
use nix::mount::{MsFlags, mount};

use crate::namespace::{self, Tuning};
use crate::programs::find;
use crate::sandbox::NAMES;

use holdfast_engine::{SetupError, SetupErrorKind};
use host::Host;
use layout::{BACKEND, BALANCER, BRIDGE, Layout, MASTER, PREFIX, Place};

/// Where a lab says what it is, for whoever enters it later.
const ABOUT: &str = "/run/holdfast-lab.json";
/// The discard port: nobody listens, and the refusal proves that the host is there.
const CLOSED_PORT: u16 = 9;
/// A host on this machine answers within microseconds.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// All hosts.
#[derive(Debug)]
pub struct Network {
    /// Its plan.
    pub layout: Layout,
    /// The `ip` program.
    pub ip: PathBuf,
    hosts: Vec<Host>,
}

impl Network {
    /// Makes the network for `users` connections, or finds the one that is here already.
    ///
    /// # Errors
    /// What could not be made, and what helps.
    pub fn build(wanted: Layout, users: u64) -> Result<Self, SetupError> {
        let ip = find("ip").ok_or_else(|| {
            SetupError::new(
                SetupErrorKind::NotFound,
                "ip is missing",
                "apt-get install iproute2",
            )
        })?;
        if let Ok(text) = fs::read(ABOUT) {
            let layout = serde_json::from_slice(&text).map_err(|e| {
                SetupError::new(
                    SetupErrorKind::Io,
                    format!("{ABOUT}: {e}"),
                    "leave this lab and make another, make lab",
                )
            })?;
            return Ok(Self::found(layout, ip));
        }
        let places = wanted.places();
        make_names(&wanted).map_err(|why| broken(&why))?;
        namespace::loopback_up().map_err(|why| broken(&why))?;
        name_own(BRIDGE.1).map_err(|why| broken(&why))?;
        let mut hosts = Vec::new();
        for place in &places {
            hosts.push(make_host(place, users_of(place, users, &wanted))?);
        }
        let network = Self {
            layout: wanted,
            ip,
            hosts,
        };
        network.join(&places)?;
        fs::write(
            ABOUT,
            serde_json::to_vec(&network.layout).unwrap_or_default(),
        )
        .map_err(|e| broken(&format!("{ABOUT}: {e}")))?;
        Ok(network)
    }

    fn found(layout: Layout, ip: PathBuf) -> Self {
        let hosts = layout.places().into_iter().map(|place| Host {
            name: place.name,
            addresses: place.addresses,
            lab: Default::default(),
        });
        Self {
            layout,
            ip,
            hosts: hosts.collect(),
        }
    }

    /// Every host.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// One host by its name, which is of this layout.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .unwrap_or_else(|| panic!("{name} is no host of this layout"))
    }

    /// The client hosts.
    pub fn clients(&self) -> impl Iterator<Item = &Host> {
        self.hosts
            .iter()
            .filter(|host| ![BACKEND, BALANCER, MASTER].contains(&host.name.as_str()))
    }

    /// Has every host call every other one's main address, and the backend all addresses there are;
    /// the calls that were answered.
    ///
    /// # Errors
    /// The first that was not.
    pub fn check(&self) -> Result<usize, SetupError> {
        let mut answered = 0;
        for host in &self.hosts {
            let others = self.hosts.iter().filter(|other| other.name != host.name);
            let targets: Vec<_> = others
                .flat_map(|other| {
                    let count = if host.name == BACKEND {
                        other.addresses.len()
                    } else {
                        1
                    };
                    other.addresses[..count].iter().copied()
                })
                .collect();
            let silent = host
                .inside(|| {
                    targets
                        .iter()
                        .find(|ip| !answers((**ip, CLOSED_PORT).into()))
                })
                .map_err(|why| broken(&why))?;
            if let Some(ip) = silent {
                return Err(SetupError::new(
                    SetupErrorKind::Other,
                    format!("{} hears nothing from {ip}", host.name),
                    format!(
                        "ip netns exec {} ip address, and a firewall that sees bridged frames (sysctl net.bridge)",
                        host.name
                    ),
                ));
            }
            answered += targets.len();
        }
        Ok(answered)
    }

    /// Links, bridge and addresses.
    fn join(&self, places: &[Place]) -> Result<(), SetupError> {
        let bridge = BRIDGE.0;
        let mut own = format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {bridge} up\n"
        );
        for place in places {
            let name = &place.name;
            own += &format!(
                "link add name {name} type veth peer name eth0 netns {name}\nlink set dev {name} master {bridge} up\n"
            );
        }
        self.batch(&[], &own)?;
        for family in ["ip", "ip6", "arp"] {
            // Where the machine's firewall sees bridged frames, those of this bridge are none of
            // its business.
            let _ = write(&format!("net.bridge.bridge-nf-call-{family}tables"), "0");
        }
        for place in places {
            let mut text = String::from("link set eth0 up\n");
            for address in &place.addresses {
                text += &format!("address add {address}/{PREFIX} dev eth0\n");
            }
            self.batch(&["-n", &place.name], &text)?;
        }
        Ok(())
    }

    fn batch(&self, args: &[&str], text: &str) -> Result<(), SetupError> {
        let say = |e: std::io::Error| broken(&format!("ip: {e}"));
        let mut process = Command::new(&self.ip)
            .args(args)
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(say)?;
        if let Some(mut stdin) = process.stdin.take() {
            stdin.write_all(text.as_bytes()).map_err(say)?;
        }
        let output = process.wait_with_output().map_err(say)?;
        if output.status.success() {
            return Ok(());
        }
        Err(broken(&format!(
            "ip: {}",
            String::from_utf8_lossy(&output.stderr)
        )))
    }
}

/// The connections of one host among `users`: what its settings are scaled to.
fn users_of(place: &Place, users: u64, layout: &Layout) -> u64 {
    match place.role {
        Role::Client => users.div_ceil(u64::from(layout.clients())),
        Role::Host => 0,
        _ => users,
    }
}

/// A namespace of its own, tuned, with the host's name.
fn make_host(place: &Place, users: u64) -> Result<Host, SetupError> {
    let tuning = Tuning {
        role: place.role,
        ..Tuning::default()
    };
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let lab = namespace::enter(users, &tuning);
            if lab.namespace == "host" {
                return Err(lab.notes.join("; "));
            }
            name_own(&place.name).map(|()| lab)
        });
        thread
            .join()
            .unwrap_or_else(|_| Err("a thread panicked".into()))
    });
    Ok(Host {
        name: place.name.clone(),
        addresses: place.addresses.clone(),
        lab: made.map_err(|why| broken(&format!("{}: {why}", place.name)))?,
    })
}

/// Gives the network namespace of the calling thread a name.
fn name_own(name: &str) -> Result<(), String> {
    let path = Path::new(NAMES).join(name);
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    fs::File::create(&path).map_err(|e| say(&e))?;
    let none: Option<&str> = None;
    let own = Some("/proc/thread-self/ns/net");
    mount(own, &path, none, MsFlags::MS_BIND, none).map_err(|e| say(&e))
}

/// Names for addresses, in place of the machine's.
fn make_names(layout: &Layout) -> Result<(), String> {
    let hosts = "/run/hosts";
    fs::write(hosts, layout.names()).map_err(|e| format!("{hosts}: {e}"))?;
    let none: Option<&str> = None;
    if Path::new("/etc/hosts").exists() {
        mount(Some(hosts), "/etc/hosts", none, MsFlags::MS_BIND, none)
            .map_err(|e| format!("/etc/hosts: {e}"))?;
    }
    Ok(())
}

/// Whether somebody is there: to refuse is to answer.
fn answers(address: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&address, ANSWER_MAX) {
        Ok(_) => true,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionRefused,
    }
}

fn broken(why: &str) -> SetupError {
    SetupError::new(
        SetupErrorKind::Io,
        format!("the lab's network cannot be made: {why}"),
        "modprobe bridge veth, on a kernel that has namespaces",
    )
}
