//! Preflight checks of ports against the real kernel: free, in use, in TIME_WAIT, address of
//! another machine.
//!
//! No test in this file may start a process: between fork and exec the child holds the listeners of
//! all threads, and a port just given up is in use a little longer.

use std::net::{SocketAddr, TcpListener, TcpStream};

use holdfast_sysctl::preflight::{check_port, check_port_free};

#[test]
fn port_in_use_until_its_listener_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    check_port(addr).unwrap();
    assert_eq!(
        check_port_free(addr).unwrap_err().to_string(),
        format!(
            "{addr} is in use by another listener; next: stop the process listening on that port \
             (ss -ltnp 'sport = :{}'), or choose another port",
            addr.port()
        )
    );
    drop(listener);
    check_port_free(addr).unwrap();
    // The check left nothing behind: the port can be taken, and asked for twice.
    check_port_free(addr).unwrap();
    TcpListener::bind(addr).unwrap();
}

#[test]
fn port_whose_connections_are_still_closing_is_free() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let client = TcpStream::connect(addr).unwrap();
    let (server, _) = listener.accept().unwrap();
    drop(listener);
    drop(server);
    check_port_free(addr).unwrap();
    drop(client);
    check_port_free(addr).unwrap();
}

#[test]
fn address_of_another_machine() {
    let addr: SocketAddr = "192.0.2.1:0".parse().unwrap();
    assert_eq!(
        check_port(addr).unwrap_err().to_string(),
        "192.0.2.1 is not an address of this machine; next: ip -brief address (lists its addresses), \
         or listen on all of them: 0.0.0.0 or [::]"
    );
}
