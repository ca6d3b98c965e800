//! Targets: names and ports into addresses of one family.
//!
//! Must not know: connections.

use std::net::{SocketAddr, ToSocketAddrs};

/// Resolves `HOST:PORT` texts. Of a name with addresses of both families, those of the first one's family are used.
///
/// # Errors
/// One line naming the text and the cause.
pub fn resolve(texts: &[String]) -> Result<Vec<SocketAddr>, anyhow::Error> {
    let mut targets: Vec<SocketAddr> = Vec::new();
    for text in texts {
        let found = text.to_socket_addrs().map_err(|e| {
            anyhow::anyhow!("cannot resolve target '{text}' ({e}); next: give HOST:PORT, such as 192.0.2.1:7070 or [::1]:7070")
        })?;
        let mut found: Vec<SocketAddr> = found.collect();
        let family = targets.first().or(found.first()).map(SocketAddr::is_ipv6);
        found.retain(|a| Some(a.is_ipv6()) == family);
        if found.is_empty() {
            anyhow::bail!(
                "target '{text}' has no address of the first target's family; next: give targets of one family"
            );
        }
        if found.iter().any(|a| a.port() == 0) {
            anyhow::bail!("target '{text}' has port 0; next: give the port the server listens on");
        }
        targets.extend(found);
    }
    let mut seen = std::collections::HashSet::new();
    targets.retain(|t| seen.insert(*t));
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_all(texts: &[&str]) -> Result<Vec<SocketAddr>, anyhow::Error> {
        resolve(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn both_families_alone_but_not_together() {
        assert_eq!(
            resolve_all(&["127.0.0.1:80", "127.0.0.2:80", "127.0.0.1:80"])
                .unwrap()
                .len(),
            2
        );
        assert_eq!(resolve_all(&["[::1]:80"]).unwrap().len(), 1);
        assert!(resolve_all(&["127.0.0.1:80", "[::1]:80"]).is_err());
        assert!(resolve_all(&["127.0.0.1"]).is_err());
        assert!(resolve_all(&["127.0.0.1:0"]).is_err());
    }
}
