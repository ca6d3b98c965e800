//! SIGUSR2: a new process takes new connections, and the old one goes on with those it has.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::service::Service;
use crate::common::{Folder, PATIENCE, program, read_to_end};

fn connect(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(service.address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads what is there and `count` messages more.
fn hear(stream: &mut TcpStream, count: usize) {
    stream.set_nonblocking(true).unwrap();
    while stream.read(&mut [0; 4_096]).is_ok_and(|n| n > 0) {}
    stream.set_nonblocking(false).unwrap();
    stream
        .read_exact(&mut vec![0; 2 * count])
        .expect("messages");
}

#[test]
fn old_process_sends_heartbeats_until_its_connections_end() {
    let args = ["longconn", "--interval", "100ms", "--threads", "2"];
    let mut service = Service::start("longconn-upgrade", &args);
    let mut held: Vec<TcpStream> = (0..20).map(|_| connect(&service)).collect();
    held.iter_mut().for_each(|stream| hear(stream, 1));
    let first = service.upgrade();
    let mut later: Vec<TcpStream> = (0..20).map(|_| connect(&service)).collect();
    let second = service.upgrade();
    std::thread::sleep(Duration::from_millis(1_500));
    for stream in held.iter_mut().chain(&mut later) {
        hear(stream, 3);
    }
    assert!(service.is_running(first) && service.is_running(second));
    drop(held);
    service.until_ended(first);
    later.iter_mut().for_each(|stream| hear(stream, 1));
    // A process that has retired stops as any other one.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(second), Signal::SIGTERM).unwrap();
    for mut stream in later {
        read_to_end(&mut stream).expect("FIN");
    }
    service.until_ended(second);
    hear(&mut connect(&service), 1);
    service.stop();
}

#[test]
fn connections_are_kept_for_the_time_that_was_asked_for() {
    let args = [
        "longconn",
        "--interval",
        "100ms",
        "--keep-after-upgrade",
        "2s",
    ];
    let mut service = Service::start("longconn-kept", &args);
    let mut held = connect(&service);
    hear(&mut held, 1);
    let old = service.upgrade();
    let since = Instant::now();
    read_to_end(&mut held).expect("FIN");
    assert!(since.elapsed() >= Duration::from_millis(1_500), "kept");
    drop(held);
    service.until_ended(old);
}

/// Sockets are passed as systemd does, by a shell that knows its process id.
#[test]
fn sockets_of_a_service_manager_are_served_and_left_open() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    nix::fcntl::fcntl(
        &listener,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let start = |name: &str| {
        let mut command = Command::new("bash");
        command.args([
            "-c",
            r#"exec 3<&"$1"; shift; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x exec "$@""#,
            "bash",
            &std::os::fd::AsRawFd::as_raw_fd(&listener).to_string(),
            program("holdfast-server").to_str().expect("plain text"),
            "longconn",
            "--interval",
            "100ms",
            "--threads",
            "3",
        ]);
        Service::run(Folder::new(name), command)
    };
    let mut first = start("systemd-first");
    assert_eq!(first.address, address);
    hear(&mut connect(&first), 1);
    // An upgrade passes it on.
    let old = first.upgrade();
    first.until_ended(old);
    hear(&mut connect(&first), 1);
    first.stop();
    // The next one finds what came meanwhile.
    let mut waiting = connect(&first);
    let _second = start("systemd-second");
    hear(&mut waiting, 1);
}

#[test]
fn inherited_descriptor_that_is_no_listener_is_refused() {
    let mut command = Command::new("bash");
    let script = r#"exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;
    command.args(["-c", script, "bash"]);
    command.arg(program("holdfast-server")).arg("longconn");
    let output = command.output().expect("bash runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("no listening TCP socket; next: "),
        "{errors}"
    );
}
