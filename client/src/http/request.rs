//! What is sent: one request rendered once, and repeated as often as are sent at once.
//!
//! Invariants: what a flag says cannot end a line of the head early, nor frame the body differently
//! than we do.
//! Must not depend on: connections, responses.

use super::url::Url;
use crate::interned;

/// Longest batch, bytes: what a server does not take at once is copied for each connection.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// What a request is made of.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// The method.
    pub method: String,
    /// Lines from [`parse_header`].
    pub headers: Vec<String>,
    /// The body, if there is one.
    pub body: Option<Vec<u8>>,
    /// Ask for the end of the connection after the last response of a batch.
    pub is_last: bool,
    /// Requests sent at once.
    pub count: u8,
}

/// Requests that are sent at once: `count` times the same.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    bytes: &'static [u8],
    /// Of one that is not the last.
    request_bytes: usize,
    count: u8,
}

impl Batch {
    /// Requests in it.
    pub fn count(&self) -> u8 {
        self.count
    }

    /// All bytes of the last `count` requests.
    pub fn last(&self, count: u8) -> &'static [u8] {
        &self.bytes[self.request_bytes * usize::from(self.count - count)..]
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Parses a method.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_method(text: &str) -> Result<String, String> {
    if text == "CONNECT" {
        return Err("CONNECT makes a tunnel, no request; next: give another method".to_owned());
    }
    if is_token(text) {
        return Ok(text.to_owned());
    }
    Err("not a method; next: give one such as GET, HEAD or POST".to_owned())
}

/// True if sending a request twice means the same as sending it once (RFC 9110, 9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

/// Parses `Name: value`.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_header(text: &str) -> Result<String, String> {
    let wrong = |what: &str| format!("{what}; next: give one such as 'Accept: text/html'");
    let (name, value) = text.split_once(':').ok_or_else(|| wrong("not a header"))?;
    if !is_token(name) {
        return Err(wrong("not a header's name"));
    }
    let value = value.trim_matches([' ', '\t']);
    if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        return Err(wrong("a control character in a header's value"));
    }
    let instead = match &*name.to_ascii_lowercase() {
        "content-length" | "transfer-encoding" => "--body or --body-file, which frame the body",
        "connection" => "--no-keepalive to close connections; they are kept otherwise",
        "expect" => "the request without it: no body waits for a 100",
        _ => return Ok(format!("{name}: {value}")),
    };
    Err(format!(
        "{name} is not a header to give; next: give {instead}"
    ))
}

/// Renders a batch. Its memory is never given back: it is sent to the end of the program.
///
/// # Errors
/// One line when it is too long.
pub fn render(url: &Url, parts: &Parts) -> Result<Batch, anyhow::Error> {
    let (bytes, request_bytes) = render_bytes(url, parts)?;
    Ok(Batch {
        bytes: interned::keep(bytes),
        request_bytes,
        count: parts.count,
    })
}

/// The bytes of a batch, and how many of them are a request that is not the last.
///
/// # Errors
/// One line when there are too many.
pub fn render_bytes(url: &Url, parts: &Parts) -> Result<(Vec<u8>, usize), anyhow::Error> {
    let has = |name: &str| {
        parts.headers.iter().any(|h| {
            h.split_once(':')
                .is_some_and(|(n, _)| n.eq_ignore_ascii_case(name))
        })
    };
    let one = |is_last: bool| {
        let mut head = format!("{} {} HTTP/1.1\r\n", parts.method, url.path);
        if !has("host") {
            head += &format!("Host: {}\r\n", url.authority);
        }
        // As in curl, a header that was given goes before the URL's credentials.
        if let Some(credentials) = &url.credentials
            && !has("authorization")
        {
            head += &format!("Authorization: Basic {credentials}\r\n");
        }
        for header in &parts.headers {
            head += &format!("{header}\r\n");
        }
        if is_last {
            head += "Connection: close\r\n";
        }
        // RFC 9110, 8.6: a method that has a use for a body says that there is none.
        let expects_body = matches!(&*parts.method, "POST" | "PUT" | "PATCH");
        if parts.body.is_some() || expects_body {
            let length = parts.body.as_ref().map_or(0, Vec::len);
            head += &format!("Content-Length: {length}\r\n");
        }
        head += "\r\n";
        let mut request = head.into_bytes();
        request.extend_from_slice(parts.body.as_deref().unwrap_or_default());
        request
    };
    // Only the last of a batch may say that the connection ends: what follows such a one is not
    // answered.
    let (request, last) = (one(false), one(parts.is_last));
    let request_bytes = request.len();
    let before = usize::from(parts.count) - 1;
    let bytes = request_bytes * before + last.len();
    if bytes > BATCH_BYTES_MAX {
        anyhow::bail!(
            "{bytes} bytes sent at once are too many; next: give a shorter body or --pipeline so that it is at most {BATCH_BYTES_MAX}"
        );
    }
    Ok(([request.repeat(before), last].concat(), request_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::url;

    fn rendered(parts: Parts) -> String {
        let url = url::parse("http://a:81/p?q").unwrap();
        let batch = render(&url, &parts).unwrap();
        String::from_utf8(batch.last(parts.count).to_vec()).unwrap()
    }

    fn parts(method: &str, count: u8) -> Parts {
        Parts {
            method: method.to_owned(),
            count,
            ..Parts::default()
        }
    }

    #[test]
    fn requests_as_the_rfc_writes_them() {
        assert_eq!(
            rendered(parts("GET", 2)),
            "GET /p?q HTTP/1.1\r\nHost: a:81\r\n\r\n".repeat(2)
        );
        let mut post = parts("POST", 1);
        post.headers = vec![
            parse_header("host:other").unwrap(),
            parse_header("X-Y:\t a: b ").unwrap(),
        ];
        post.body = Some(b"12345".to_vec());
        post.is_last = true;
        assert_eq!(
            rendered(post),
            "POST /p?q HTTP/1.1\r\nhost: other\r\nX-Y: a: b\r\nConnection: close\r\nContent-Length: 5\r\n\r\n12345"
        );
        assert!(rendered(parts("POST", 1)).contains("\r\nContent-Length: 0\r\n"));
        assert!(!rendered(parts("HEAD", 1)).contains("Content-Length"));
    }

    #[test]
    fn credentials_of_the_url_are_sent_unless_a_header_has_others() {
        let url = url::parse("http://me:pw@a/").unwrap();
        let rendered = |headers: &[&str]| {
            let headers = headers.iter().map(|h| parse_header(h).unwrap()).collect();
            let parts = Parts {
                headers,
                ..parts("GET", 1)
            };
            String::from_utf8(render(&url, &parts).unwrap().last(1).to_vec()).unwrap()
        };
        assert_eq!(
            rendered(&[]),
            "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic bWU6cHc=\r\n\r\n"
        );
        assert_eq!(
            rendered(&["authorization: Bearer x"]),
            "GET / HTTP/1.1\r\nHost: a\r\nauthorization: Bearer x\r\n\r\n"
        );
    }

    #[test]
    fn a_part_of_a_batch_is_whole_requests() {
        let url = url::parse("http://a").unwrap();
        let batch = render(&url, &parts("GET", 128)).unwrap();
        assert_eq!(batch.last(128).len(), batch.last(1).len() * 128);
        assert_eq!(batch.last(3), batch.last(1).repeat(3));
        let is_last = true;
        let batch = render(
            &url,
            &Parts {
                is_last,
                ..parts("GET", 3)
            },
        )
        .unwrap();
        let text = String::from_utf8(batch.last(3).to_vec()).unwrap();
        assert_eq!(text.matches("Connection: close").count(), 1);
        assert!(text.ends_with("Connection: close\r\n\r\n"));
    }

    #[test]
    fn nothing_ends_a_line_early_or_frames_the_body() {
        for text in [
            "X",
            ": y",
            "X y: z",
            "X: a\r\nY: b",
            "X: a\nb",
            "X: \u{0}",
            "X: \u{7f}",
            "Content-Length: 3",
            "transfer-encoding: chunked",
            "Connection: close",
            "Expect: 100-continue",
        ] {
            let error = parse_header(text).unwrap_err();
            assert!(error.contains("; next: "), "{text:?}: {error}");
        }
        for text in ["", "GET /", "G\r\n", "CONNECT"] {
            assert!(parse_method(text).is_err(), "{text:?}");
        }
    }
}
