//! haproxy and nginx between a client and a server: their configurations and command lines.
//!
//! Invariants: a configuration is written into the folder of its measurement and nothing is
//! started. No limit of connections is set: each reckons its own, and that is a result.
//! Must not depend on: what is measured.

use std::net::SocketAddr;
use std::path::Path;

use holdfast_testbed::child::words;

use crate::proxy::nginx;

const HAPROXY: &str = include_str!("../competitors/haproxy-proxy.cfg");
const NGINX: &str = include_str!("../competitors/nginx-stream.conf");

/// Whether a program understands what it passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes.
    Tcp,
    /// Requests.
    Http,
}

impl Mode {
    /// As haproxy's configuration and the records have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }
}

/// What stands between a client and a server.
#[derive(Debug, Clone, Copy)]
pub struct Between<'a> {
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Where it connects to.
    pub backend: SocketAddr,
    /// Threads of haproxy, processes of nginx.
    pub threads: usize,
    /// Descriptors a process may have.
    pub descriptors: u64,
    /// What haproxy understands.
    pub mode: Mode,
    /// haproxy moves bytes with splice where it finds that worth while.
    pub is_splicing: bool,
    /// haproxy's statistics.
    pub socket: &'a Path,
    /// Folder for the configuration.
    pub dir: &'a Path,
}

impl Between<'_> {
    /// Writes haproxy's configuration; its arguments.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn haproxy(&self) -> Result<Vec<String>, String> {
        let splice = if self.is_splicing {
            "option splice-auto"
        } else {
            ""
        };
        let text = HAPROXY
            .replace("@MODE@", self.mode.name())
            .replace("@SPLICE@", splice)
            .replace("@SOCKET@", &self.socket.display().to_string());
        let file = self.write("haproxy.cfg", &text)?;
        Ok(words(&["-db", "-q", "-f", &file]))
    }

    /// Writes the configuration of nginx; its arguments.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn nginx(&self, program: &Path) -> Result<Vec<String>, String> {
        let module = nginx::stream(program).unwrap_or_default();
        let text = NGINX.replace("@MODULE@", &module);
        let file = self.write("nginx.conf", &text)?;
        let dir = self.dir.display().to_string();
        // -e: it would otherwise open the log it was built with, which a plain user may not.
        Ok(words(&["-p", &dir, "-e", "stderr", "-c", &file]))
    }

    fn write(&self, name: &str, template: &str) -> Result<String, String> {
        let text = template
            .replace("@ADDRESS@", &self.address.to_string())
            .replace("@BACKEND@", &self.backend.to_string())
            .replace("@THREADS@", &self.threads.to_string())
            .replace("@CONNECTIONS@", &self.descriptors.to_string())
            .replace("@DIR@", &self.dir.display().to_string());
        let file = self.dir.join(name);
        std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(file.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_have_no_mark_left() {
        let dir = std::env::temp_dir().join(format!("holdfast-between-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let address = "127.1.0.1:900".parse().expect("an address");
        let mut between = Between {
            address,
            backend: address,
            threads: 1,
            descriptors: 20_000,
            mode: Mode::Tcp,
            is_splicing: true,
            socket: Path::new("/tmp/x.sock"),
            dir: &dir,
        };
        let text = |args: &[String]| std::fs::read_to_string(args.last().expect("a file"));
        let haproxy = text(&between.haproxy().expect("written")).expect("read");
        assert!(
            haproxy.contains("mode tcp\n    option splice-auto\n"),
            "{haproxy}"
        );
        between.is_splicing = false;
        let plain = text(&between.haproxy().expect("written")).expect("read");
        assert!(!plain.contains("splice"), "{plain}");
        let nginx = text(&between.nginx(Path::new("/no/nginx")).expect("written")).expect("read");
        // A comment says what the bench fills in.
        for text in [haproxy, plain, nginx] {
            let marks = text.replace("@...@", "");
            assert!(!marks.contains('@'), "{marks}");
        }
        std::fs::remove_dir_all(&dir).expect("removes");
    }
}
