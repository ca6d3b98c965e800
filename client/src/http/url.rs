//! The URL of `--target`: who to connect to, and what to ask for.
//!
//! Invariants: authority and path are visible ASCII, so they can stand in a request as they are.
//! Must not know: sockets, requests.

/// A URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Host and port, to be resolved.
    pub host_port: String,
    /// What the Host header says: the port only if it was given.
    pub authority: String,
    /// Path and query, at least `/`.
    pub path: String,
}

/// Parses `[http://]HOST[:PORT][/PATH][?QUERY]`.
///
/// # Errors
/// What is wrong, and what to give instead.
pub fn parse(text: &str) -> Result<Url, String> {
    let wrong =
        |what: &str| format!("{what}; next: give a URL such as http://192.0.2.1:8080/path?query");
    // As in curl, http is what is meant where nothing is said.
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if text.starts_with("unix:") || rest.starts_with("unix:") {
        return Err(
            "Unix sockets are not connected to; next: let the server listen on 127.0.0.1 too, and give http://127.0.0.1:8080/"
                .to_owned(),
        );
    }
    if scheme.eq_ignore_ascii_case("https") {
        return Err(
            "https is not spoken, load is plain HTTP/1.1; next: give the http:// address of the server behind its TLS terminator"
                .to_owned(),
        );
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(wrong("a scheme other than http"));
    }
    if rest.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(wrong(
            "a space, a control or a letter outside ASCII (percent-encode it)",
        ));
    }
    if rest.contains('#') {
        return Err(wrong("a fragment, which no server ever sees"));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("a user name in the URL; next: give --header 'Authorization: ...'".to_owned());
    }
    let port = match authority.rsplit_once(':') {
        // A colon inside the brackets belongs to the address.
        Some((_, port)) if !port.ends_with(']') => Some(port),
        _ => None,
    };
    let host = match port {
        Some(port) => &authority[..authority.len() - port.len() - 1],
        None => authority,
    };
    // RFC 3986, 3.2.3: an empty port is the scheme's own.
    let (port, authority) = match port {
        Some("") => (None, host),
        port => (port, authority),
    };
    if port.is_some_and(|p| !matches!(p.parse::<u16>(), Ok(1..)) || p.starts_with('+')) {
        return Err(wrong("not a port from 1 to 65535"));
    }
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !is_ipv6 && !is_name {
        return Err(wrong(
            "not a host name, an IPv4 address or an [IPv6] address",
        ));
    }
    Ok(Url {
        host_port: format!("{host}:{}", port.unwrap_or("80")),
        authority: authority.to_owned(),
        path: match path {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_connected_to_and_what_is_asked_for() {
        for (text, host_port, authority, path) in [
            ("http://a", "a:80", "a", "/"),
            ("HTTP://a.b:8080/", "a.b:8080", "a.b:8080", "/"),
            (
                "http://127.0.0.1:1/x/y?z=1:2/3",
                "127.0.0.1:1",
                "127.0.0.1:1",
                "/x/y?z=1:2/3",
            ),
            ("http://a?q", "a:80", "a", "/?q"),
            ("a:81/p", "a:81", "a:81", "/p"),
            ("localhost", "localhost:80", "localhost", "/"),
            ("http://a:/p", "a:80", "a", "/p"),
            ("http://[::1]", "[::1]:80", "[::1]", "/"),
            ("http://[::1]:8080/p", "[::1]:8080", "[::1]:8080", "/p"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(
                (&*url.host_port, &*url.authority, &*url.path),
                (host_port, authority, path)
            );
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (text, part) in [
            ("https://a", "TLS"),
            ("ftp://a", "scheme"),
            ("unix:///run/app.sock", "Unix"),
            ("http://unix:/run/app.sock", "Unix"),
            ("http://", "host"),
            ("http://:80", "host"),
            ("http://a:0", "port"),
            ("http://a:00", "port"),
            ("http://a:x", "port"),
            ("http://a:65536", "port"),
            ("http://::1", "host"),
            ("http://[::1", "host"),
            ("http://[a]", "host"),
            ("http://a/b c", "space"),
            ("http://a/\r\nX: y", "control"),
            ("http://a/é", "ASCII"),
            ("http://a/#f", "fragment"),
            ("http://me:pw@a/", "Authorization"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains(part) && error.contains("; next: "),
                "{text}: {error}"
            );
        }
    }
}
