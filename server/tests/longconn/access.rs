//! Who may connect: `--allow`, `--deny`, `--max-per-source`, from several sources.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::common::{Folder, PATIENCE, Server, count, longconn, refusal};

fn connect(source: &str, target: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
    let source = SocketAddr::new(source.parse().unwrap(), 0);
    socket.bind(&source.into()).unwrap();
    socket
        .connect(&target.into())
        .expect("the kernel accepts it");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// True if the server sends a heartbeat; false if it resets the connection.
fn is_let_in(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 2]) {
        Ok(0) => panic!("ended without a reset"),
        Ok(_) => true,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}");
            false
        }
    }
}

fn start(args: &[&str]) -> Server {
    Server::start(&[&["--interval", "50ms", "--threads", "2"], args].concat())
}

#[test]
fn longest_prefix_decides_who_is_let_in() {
    let folder = Folder::new("access");
    let file = folder.file("deny");
    std::fs::write(&file, "# those\n127.0.2.0/24\n\n127.0.3.9 # and that one\n").unwrap();
    let deny = format!("@{file}");
    let server = start(&["--allow", "127.0.0.0/8,127.0.2.7", "--deny", &deny]);
    let sources = [
        ("127.0.0.1", true),
        ("127.0.2.1", false),
        ("127.0.2.7", true),
        ("127.0.3.8", true),
        ("127.0.3.9", false),
    ];
    let mut held = Vec::new();
    for (source, expected) in sources {
        for _ in 0..4 {
            let mut stream = connect(source, server.address);
            assert_eq!(is_let_in(&mut stream), expected, "{source}");
            held.push(stream);
        }
    }
    let report = server.running.until("all of them", |r| r.open_now == 12);
    assert_eq!(count(&report.closed, "denied"), 8, "{:?}", report.closed);
    assert_eq!((report.accepted, report.refused_full), (20, 0));
    drop(held);
    let last = server.running.stop().last();
    assert_eq!(count(&last.closed, "denied"), 8, "{:?}", last.closed);
}

#[test]
fn each_source_has_its_places_and_gets_them_back_however_connections_end() {
    let server = start(&["--max-per-source", "3", "--idle-timeout", "3s"]);
    for round in 0..4 {
        let mut held = Vec::new();
        for source in ["127.0.0.1", "127.0.0.65", "127.9.9.9"] {
            for number in 0..5 {
                let mut stream = connect(source, server.address);
                assert_eq!(
                    is_let_in(&mut stream),
                    number < 3,
                    "{source}, round {round}"
                );
                held.push(stream);
            }
        }
        server.until_open(9);
        match round {
            // The server closes them.
            0 => drop(server.until_open(0)),
            // Resets.
            1 => held.iter().for_each(|stream| {
                let socket = socket2::SockRef::from(stream);
                let _ = socket.set_linger(Some(std::time::Duration::ZERO));
            }),
            // FIN, and the rest when it is dropped.
            _ => held.iter().for_each(|stream| {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }),
        }
        drop(held);
        server.until_open(0);
    }
    let last = server.running.stop().last();
    assert_eq!(count(&last.closed, "source_limit"), 24, "{:?}", last.closed);
}

/// A listener of every address has IPv4 peers as IPv6 ones.
#[test]
fn both_versions_and_mapped_addresses_are_told_apart() {
    let mut command = longconn("holdfast-server", &["--interval", "50ms"]);
    command.args(["--allow", "127.0.0.1,::1", "--deny", "::/0"]);
    command.args(["--listen", "[::]:0"]);
    let server = Server::run(command);
    let port = server.address.port();
    let v4 = |ip: [u8; 4]| SocketAddr::from((ip, port));
    let v6 = SocketAddr::new("::1".parse().unwrap(), port);
    assert!(is_let_in(&mut connect("::1", v6)));
    assert!(is_let_in(&mut connect("127.0.0.1", v4([127, 0, 0, 1]))));
    assert!(!is_let_in(&mut connect("127.0.0.2", v4([127, 0, 0, 1]))));
}

#[test]
fn networks_that_are_none_are_refused_with_code_2() {
    for (flag, value) in [
        ("--allow", "10.0.0/8"),
        ("--deny", "127.0.0.1/33"),
        ("--deny", "@/nowhere"),
        ("--max-per-source", "0"),
    ] {
        let outcome = refusal("holdfast-server", &[flag, value]);
        outcome.assert_refused(&[flag, "; next: "]);
    }
}
