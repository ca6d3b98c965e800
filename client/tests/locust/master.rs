//! Locust's real master, and the HTTP interface of its web page.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{Folder, PATIENCE, own_address, until};
use crate::python;

/// The locustfile that comes with the worker.
pub const LOCUSTFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/locust/locustfile.py");

/// A running master. Killed when dropped.
pub struct Master {
    child: Child,
    pub ip: IpAddr,
    pub folder: Folder,
}

impl Master {
    /// Starts a master with the project's locustfile, and waits for its web page if it has one.
    pub fn start(name: &str, args: &[&str]) -> Self {
        Self::on(own_address(), LOCUSTFILE, Folder::new(name), args)
    }

    /// Starts a master on an address, with a locustfile.
    pub fn on(ip: IpAddr, locustfile: &str, folder: Folder, args: &[&str]) -> Self {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.file("log"));
        let log = log.expect("a file");
        let mut command = Command::new(python("locust"));
        command.args(["--master", "-f", locustfile]);
        command.args([
            "--master-bind-host",
            &ip.to_string(),
            "--web-host",
            &ip.to_string(),
        ]);
        command.args(args).current_dir(&folder.0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        let child = command.spawn().expect("locust runs");
        let master = Master { child, ip, folder };
        if !args.contains(&"--headless") {
            until("the web page", || {
                TcpStream::connect(master.web_address()).is_ok()
            });
        }
        master
    }

    /// The address for workers.
    pub fn address(&self) -> String {
        format!("{}:5557", self.ip)
    }

    fn web_address(&self) -> SocketAddr {
        (self.ip, 8089).into()
    }

    /// The address of the web page.
    pub fn url(&self) -> String {
        format!("http://{}/", self.web_address())
    }

    /// Its log and tables so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.file("log")).unwrap_or_default()
    }

    /// Fails the test if a worker's message caused an error in the master.
    pub fn assert_unhurt(&self) {
        let log = self.log();
        for word in [
            "Traceback",
            "Unhandled",
            "RPCError",
            "Unknown message",
            "unrecognized",
        ] {
            assert!(!log.contains(word), "{word}: {log}");
        }
    }

    /// Sends a request to its web server.
    fn ask(&self, method: &str, path: &str, content: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.web_address()).expect("its web server");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: master\r\nConnection: close\r\nContent-Type: {content}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(
            answer.starts_with("HTTP/1.1 20"),
            "{method} {path}: {answer}"
        );
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    /// Starts or edits a test, with the fields of the form.
    pub fn swarm(&self, form: &str) {
        let answer = self.ask("POST", "/swarm", "application/x-www-form-urlencoded", form);
        assert!(
            answer.contains("\"success\":true") || answer.contains("\"success\": true"),
            "{answer}"
        );
    }

    pub fn post_json(&self, path: &str, json: &str) {
        self.ask("POST", path, "application/json", json);
    }

    pub fn post(&self, path: &str) {
        self.ask("POST", path, "text/plain", "");
    }

    pub fn get(&self, path: &str) -> String {
        self.ask("GET", path, "text/plain", "")
    }

    /// The figures of its web page.
    pub fn stats(&self) -> Value {
        serde_json::from_str(&self.get("/stats/requests")).expect("JSON")
    }

    /// Waits for figures on its web page.
    pub fn until(&self, what: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let stats = self.stats();
            if is_it(&stats) {
                return stats;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "did not happen: {what}; {stats}; {}",
                self.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// Waits until it shows so many users.
    pub fn until_users(&self, count: u64) {
        self.until(&format!("{count} users"), |stats| {
            stats["user_count"] == count
        });
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it lives");
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until("the master's end", || {
            status = self.child.try_wait().expect("our child");
            status.is_some()
        });
        status.expect("it ended")
    }

    /// A row of the table it leaves: by the names of the columns.
    pub fn row(&self, table: &str, name: &str) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.folder.file(table)).expect("a table");
        let mut lines = text.lines();
        let columns: Vec<_> = lines.next().expect("a head").split(',').collect();
        let row = lines
            .map(|line| line.split(',').collect::<Vec<_>>())
            .find(|row| row.contains(&name));
        let row = row.unwrap_or_else(|| panic!("no {name} in {text}"));
        columns
            .iter()
            .zip(row)
            .map(|(c, v)| ((*c).to_owned(), v.to_owned()))
            .collect()
    }

    /// A number of a row.
    pub fn figure(&self, name: &str, column: &str) -> u64 {
        let row = self.row("figures_stats.csv", name);
        let cell = &row.iter().find(|(c, _)| c == column).expect("a column").1;
        cell.parse().unwrap_or_else(|e| panic!("{cell}: {e}"))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A row of what its page shows.
pub fn entry<'a>(stats: &'a Value, name: &str) -> &'a Value {
    let mut rows = stats["stats"].as_array().into_iter().flatten();
    rows.find(|row| row["name"] == name).unwrap_or(&Value::Null)
}
