//! URLs, methods and headers of the client, and the requests they make.
//!
//! Whatever flags say, each request that is sent has to be one request to the server's parser: with
//! the end and the body that the client means. An input is lines: the URL, the method, headers, an
//! empty line, the body.
//!
//! Allowed differences: the server may refuse a Host that a flag gave (two of them, or one that is
//! no host), a head longer than its limits, and a target whose host is none to RFC 3986; never may
//! it find another end.

use holdfast_client::http::request::{Parts, parse_header, parse_method, render_bytes};
use holdfast_client::http::url;
use holdfast_http1::{Body, Limits, METHOD_BYTES_MAX, parse_request};

/// URLs and what else makes a request.
pub fn urls(data: &[u8]) {
    let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], Some(data[at + 2..].to_vec())),
        None => (data, None),
    };
    let Ok(head) = std::str::from_utf8(head) else {
        return;
    };
    let mut lines = head.split('\n');
    let Ok(target) = url::parse(lines.next().unwrap_or("")) else {
        return;
    };
    check_url(&target);
    let method = parse_method(lines.next().unwrap_or("GET"));
    let headers: Vec<String> = lines.filter_map(|line| parse_header(line).ok()).collect();
    let Ok(method) = method else { return };
    let count = 1 + (data.len() % 3) as u8;
    let is_last = data.len().is_multiple_of(2);
    let has_own_host = headers
        .iter()
        .any(|line| line.to_ascii_lowercase().starts_with("host:"));
    let parts = Parts {
        method,
        headers,
        body,
        is_last,
        count,
    };
    let Ok((bytes, request_bytes)) = render_bytes(&target, &parts) else {
        panic!("too long a batch from so short an input");
    };
    let limits = Limits {
        head_bytes_max: 1 << 20,
        target_bytes_max: 1 << 20,
        header_count_max: 128,
        ..Limits::default()
    };
    let body = parts.body.as_deref().unwrap_or_default();
    let mut rest = &bytes[..];
    for number in 1..=count {
        let head = match parse_request(rest, &limits) {
            Ok(Some(head)) => head,
            Err(refusal) if has_own_host && refusal.reason.contains("Host") => return,
            Err(refusal) if refusal.reason.contains("too many headers") => return,
            Err(refusal) if refusal.status == 501 && parts.method.len() > METHOD_BYTES_MAX => {
                return;
            }
            said => panic!("{said:?}: {}", rest.escape_ascii()),
        };
        let framing = match body.len() {
            0 => Body::None,
            length => Body::Length(length as u64),
        };
        assert_eq!(head.body, framing);
        assert_eq!(head.keep_alive, !(is_last && number == count));
        assert_eq!(head.is_head, parts.method == "HEAD");
        assert!(!head.expects_continue && !head.is_http10);
        let whole = head.length + body.len();
        assert_eq!(&rest[head.length..whole], body);
        assert!(number == count || whole == request_bytes);
        rest = &rest[whole..];
    }
    assert!(
        rest.is_empty(),
        "more than was meant: {}",
        rest.escape_ascii()
    );
}

/// Checks a parsed URL: its parts are valid and form the same URL again.
fn check_url(target: &url::Url) {
    assert!(target.path.starts_with('/'));
    assert!(
        target
            .path
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'#')
    );
    assert!(target.host_port.starts_with(&target.authority) || target.authority.contains(':'));
    let Some((host, port)) = target.host_port.rsplit_once(':') else {
        panic!("no port in {target:?}");
    };
    assert!(!host.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    assert!(port.parse::<u16>().is_ok_and(|port| port > 0), "{target:?}");
    let again = url::parse(&format!("http://{}{}", target.authority, target.path));
    let credentials = target.credentials.clone();
    let again = again.map(|again| url::Url {
        credentials,
        ..again
    });
    assert_eq!(again.as_ref(), Ok(target));
}
