//! The URL of `--target`: where to connect, and what to request.
//!
//! As in curl, a fragment is dropped, and `user:password@` becomes Basic credentials.
//! Invariants: authority, path and credentials are visible ASCII, so a request contains them
//! unchanged.
//! Must not depend on: sockets, requests.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Host and port, to be resolved.
    pub host_port: String,
    /// Value of the Host header: with the port only if one was given.
    pub authority: String,
    /// Path and query, at least `/`.
    pub path: String,
    /// Base64 of `user:password`, if the URL names a user (RFC 7617).
    pub credentials: Option<String>,
}

/// As in a report: without credentials.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Parses `[http://][USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY][#FRAGMENT]`.
///
/// # Errors
/// The invalid part, and what to give instead.
pub fn parse(text: &str) -> Result<Url, String> {
    let wrong =
        |what: &str| format!("{what}; next: give a URL such as http://192.0.2.1:8080/path?query");
    // As in curl, http is the default scheme.
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
    let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, authority) = match authority.rsplit_once('@') {
        Some((user, authority)) => (Some(user), authority),
        None => (None, authority),
    };
    let credentials = match user {
        None | Some("") => None,
        Some(user) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            let decoded = unescape(user).zip(unescape(password));
            let (user, password) = decoded.ok_or_else(|| {
                wrong("a percent sign without two hexadecimal digits in the user name or password")
            })?;
            Some(STANDARD.encode([&user[..], b":", &password].concat()))
        }
    };
    let port = match authority.rsplit_once(':') {
        // A colon inside the brackets belongs to the address.
        Some((_, port)) if !port.ends_with(']') => Some(port),
        _ => None,
    };
    let host = match port {
        Some(port) => &authority[..authority.len() - port.len() - 1],
        None => authority,
    };
    // RFC 3986, 3.2.3: an empty port is the scheme's default.
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
        credentials,
    })
}

/// Decodes percent escapes.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        // Everything is ASCII here, so bytes are characters.
        let digits = part.get(..2).filter(|d| !d.starts_with('+'))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_into_address_host_and_path() {
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
            ("http://a/p#f", "a:80", "a", "/p"),
            ("http://a#f?/x@b", "a:80", "a", "/"),
            ("a?q#", "a:80", "a", "/?q"),
            ("http://me@a:81/p@q", "a:81", "a:81", "/p@q"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(
                (&*url.host_port, &*url.authority, &*url.path),
                (host_port, authority, path)
            );
        }
    }

    #[test]
    fn user_and_password_become_basic_credentials() {
        for (text, expected) in [
            ("http://a", None),
            ("http://@a", None),
            (
                "http://Aladdin:open%20sesame@a",
                Some("Aladdin:open sesame"),
            ),
            ("http://me@a", Some("me:")),
            ("http://me:p:w@a", Some("me:p:w")),
            ("http://me:p@w@a", Some("me:p@w")),
            ("http://a%3ab:@[::1]:80/", Some("a:b:")),
        ] {
            let url = parse(text).unwrap();
            let decoded = url.credentials.map(|c| STANDARD.decode(c).unwrap());
            assert_eq!(decoded.as_deref(), expected.map(str::as_bytes), "{text}");
        }
        let rfc = parse("http://Aladdin:open%20sesame@a").unwrap();
        let rfc = rfc.credentials.unwrap();
        assert_eq!(rfc, "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn errors_name_the_invalid_part() {
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
            ("http://#f", "host"),
            ("http://me@/", "host"),
            ("http://me:50%@a/", "percent sign"),
            ("http://m%+1e@a/", "percent sign"),
            ("http://m%xx@a/", "percent sign"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains(part) && error.contains("; next: "),
                "{text}: {error}"
            );
        }
    }
}
