//! Locust's page at an address of this machine, while a run lasts.
//!
//! Purpose: a browser is not in the lab. A listener on the machine's loopback hands each connection
//! on to the page in the master's network.
//! Invariants: only 127.0.0.1 listens; all of it ends with this process. One thread for each
//! direction of a connection: it is for people, not for load.
//! Must not depend on: what the page shows.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

use super::plan::PAGE_PORT;

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_testbed::network::host::Host;
use holdfast_testbed::sandbox::OUTSIDE;

/// Serves the page of `master` at `port` of the machine's 127.0.0.1 from now on; its address for
/// people.
///
/// # Errors
/// When the port is taken, or this process may not enter the machine's network.
pub fn publish(master: &Host, port: u16) -> Result<String, SetupError> {
    let machine = Host {
        name: OUTSIDE.into(),
        addresses: vec![Ipv4Addr::LOCALHOST],
        lab: Default::default(),
    };
    let address = machine.at(port);
    let bound = machine
        .inside(|| TcpListener::bind(address).map_err(|e| e.to_string()))
        .and_then(|bound| bound);
    let listener = bound.map_err(|why| {
        SetupError::new(
            SetupErrorKind::Io,
            format!("Locust's page cannot be served at {address}: {why}"),
            "leave --web out, run as root, or end what listens there (ss -ltnp)",
        )
    })?;
    let master = master.clone();
    std::thread::spawn(move || {
        for browser in listener.incoming().flatten() {
            let page = master.inside(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PAGE_PORT)));
            if let Ok(Ok(page)) = page {
                let _ = join(browser, page);
            }
        }
    });
    Ok(format!("http://{address}/"))
}

/// Copies both ways until both have ended.
fn join(one: TcpStream, other: TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(one.try_clone()?, other.try_clone()?), (other, one)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
