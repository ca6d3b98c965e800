//! Programs that others wrote: finding them, starting them, nginx among them.
//!
//! Invariants: nginx ends with the value that stands for it, and its folder with it.
//! Must not depend on: what is tested with them.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{Folder, own_address, until};

/// A command, its program looked for where only root's path leads too.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", path + ":/usr/sbin:/sbin");
    command
}

/// Starts a command; a program that is missing is named.
pub fn spawn(command: &mut Command) -> Child {
    let name = command.get_program().to_string_lossy().into_owned();
    command.spawn().unwrap_or_else(|e| match e.kind() {
        ErrorKind::NotFound => panic!("{name} is missing; next: make need"),
        _ => panic!("{name}: {e}"),
    })
}

/// An nginx of one process, listening; ended with this value.
pub struct Nginx {
    child: Child,
    pub address: SocketAddr,
    folder: Folder,
}

impl Nginx {
    /// `http` and `server` are put into the blocks of these names.
    pub fn start(name: &str, http: &str, server: &str) -> Self {
        let folder = Folder::new(name);
        let address: SocketAddr = (own_address(), 18_080).into();
        let at = folder.0.display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr warn;
            events {{ worker_connections 256; }}
            http {{
                log_format requests '$connection $request_method $uri $status $request_length';
                access_log {at}/requests requests; log_not_found off;
                client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c;
                uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;
                client_max_body_size 0;
                keepalive_requests 1000000;
                {http}
                server {{ listen {address}; {server} }}
            }}"
        );
        let file = folder.file("nginx.conf");
        std::fs::write(&file, config).expect("a file");
        let mut nginx = command("nginx");
        nginx.args(["-e", "stderr", "-p", &at.to_string(), "-c", &file]);
        let child = spawn(nginx.stdin(Stdio::null()).stderr(Stdio::piped()));
        let mut nginx = Nginx {
            child,
            address,
            folder,
        };
        until("nginx listens", || {
            let ended = nginx.child.try_wait().expect("our child");
            assert!(ended.is_none(), "{}", nginx.errors());
            TcpStream::connect(address).is_ok()
        });
        nginx
    }

    /// The requests it has answered so far, one a line: connection, method, path, status, bytes of
    /// the request.
    pub fn requests(&self) -> String {
        std::fs::read_to_string(self.folder.file("requests")).expect("it logs")
    }

    /// Ends it; gives what it complained of.
    pub fn end(mut self) -> String {
        self.child.kill().expect("it lives");
        let _ = self.child.wait();
        self.errors()
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        let stderr = self.child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut text).expect("text");
        text
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
