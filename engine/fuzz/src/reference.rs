//! HTTP/1.1 framing once more, the slow and obvious way: what the engine's parsers are compared with.
//!
//! Purpose: written from RFC 9112 and RFC 9110, and from the choices that the documentation of `holdfast-http1` states, line by
//! line over whole messages: finds the empty line first, splits, and lists every fault.
//! Invariants: shares no code with `holdfast-http1` but the types of its answers.
//! Must not know: how bytes arrive.

use holdfast_http1::{
    Body, CHUNK_LINE_BYTES_MAX, EMPTY_LINES_MAX, Limits, RequestHead, ResponseHead,
    TRAILER_BYTES_MAX,
};

/// What is said of the beginning of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<T> {
    /// More bytes are needed, as far as this reader looks.
    Open,
    /// It is this.
    Sound(T),
    /// It is wrong. The statuses that name something wrong with it, unordered.
    Wrong(Vec<u16>),
}

fn is_token(bytes: &[u8]) -> bool {
    const OTHERS: &[u8] = b"!#$%&'*+-.^_`|~";
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || OTHERS.contains(b))
}

/// VCHAR, obs-text, space and tab: what a value, a reason or an extension consists of.
fn is_text(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..))
}

fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn position(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

fn number(bytes: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(bytes).ok()?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The header lines of a head, apart from what is wrong with them.
#[derive(Debug, Default)]
struct Headers<'b> {
    all: Vec<(String, &'b [u8])>,
    are_malformed: bool,
}

impl<'b> Headers<'b> {
    fn read(lines: &[&'b [u8]]) -> Self {
        let mut headers = Headers::default();
        for line in lines {
            match line.iter().position(|b| *b == b':') {
                Some(colon) if is_token(&line[..colon]) && is_text(&line[colon + 1..]) => {
                    let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
                    headers.all.push((name, trimmed(&line[colon + 1..])));
                }
                _ => headers.are_malformed = true,
            }
        }
        headers
    }

    /// The values of one header, by its name in small letters.
    fn values(&self, name: &str) -> Vec<&'b [u8]> {
        let has_name = |header: &&(String, &'b [u8])| header.0 == name;
        self.all.iter().filter(has_name).map(|h| h.1).collect()
    }

    /// The elements of the list that the values of one header make together.
    fn elements(&self, name: &str) -> Vec<&'b [u8]> {
        let values = self.values(name);
        let split = |value: &&'b [u8]| value.split(|b| *b == b',').collect::<Vec<_>>();
        values.iter().flat_map(split).map(trimmed).collect()
    }

    fn has_element(&self, name: &str, element: &str) -> bool {
        self.elements(name)
            .iter()
            .any(|e| e.eq_ignore_ascii_case(element.as_bytes()))
    }

    fn stays(&self, is_http10: bool) -> bool {
        let stays = !is_http10 || self.has_element("connection", "keep-alive");
        stays && !self.has_element("connection", "close")
    }

    /// The transfer codings: whether each is chunked. `None`: something is wrong with them.
    fn codings(&self) -> Option<Vec<bool>> {
        let mut codings = Vec::new();
        for element in self.elements("transfer-encoding") {
            let semicolon = element.iter().position(|b| *b == b';');
            let name = trimmed(&element[..semicolon.unwrap_or(element.len())]);
            let is_chunked = name.eq_ignore_ascii_case(b"chunked");
            if !is_token(name) || is_chunked && semicolon.is_some() {
                return None;
            }
            codings.push(is_chunked);
        }
        let chunked_count = codings.iter().filter(|is_chunked| **is_chunked).count();
        (chunked_count <= 1).then_some(codings)
    }
}

/// The lines of the head that `bytes` begin with, and its length.
fn lines(bytes: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let end = position(bytes, b"\r\n\r\n")?;
    let mut lines = Vec::new();
    let mut rest = &bytes[..end];
    while let Some(at) = position(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    Some((lines, end + 4))
}

/// `host` or `host:port`: what each is. RFC 3986, 3.2.2 and 3.2.3.
fn host_and_port(bytes: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(b);
    let host_bytes = if bytes.starts_with(b"[") {
        let end = bytes.iter().position(|b| *b == b']')?;
        let inside = &bytes[1..end];
        if inside.is_empty() || !inside.iter().all(|b| is_plain(b) || *b == b':') {
            return None;
        }
        end + 1
    } else {
        let end = bytes.iter().position(|b| *b == b':');
        let host = &bytes[..end.unwrap_or(bytes.len())];
        let text = String::from_utf8_lossy(host);
        let mut parts = text.split('%');
        let is_first_plain = parts.next().unwrap_or("").bytes().all(|b| is_plain(&b));
        let are_others = parts.all(|part| {
            part.len() >= 2
                && part.bytes().take(2).all(|b| b.is_ascii_hexdigit())
                && part.bytes().all(|b| is_plain(&b))
        });
        if !is_first_plain || !are_others {
            return None;
        }
        host.len()
    };
    let (host, after) = bytes.split_at(host_bytes);
    match after.split_first() {
        None => Some((host, None)),
        Some((b':', port)) if port.iter().all(u8::is_ascii_digit) => Some((host, Some(port))),
        Some(_) => None,
    }
}

/// Whether a target has a form that its method allows, and no user information or fragment.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    if !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') {
        return false;
    }
    if method == b"CONNECT" {
        return matches!(host_and_port(target), Some((host, Some(port))) if !host.is_empty() && !port.is_empty());
    }
    if target.starts_with(b"/") || target == b"*" && method == b"OPTIONS" {
        return true;
    }
    let Some(at) = position(target, b"://") else {
        return false;
    };
    let (scheme, rest) = (&target[..at], &target[at + 3..]);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?'));
    let authority = &rest[..end.unwrap_or(rest.len())];
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
        && host_and_port(authority).is_some_and(|(host, _)| !host.is_empty())
}

/// The head of a request.
pub fn request(bytes: &[u8], limits: &Limits) -> Said<RequestHead> {
    let window = &bytes[..bytes.len().min(limits.head_bytes_max)];
    let mut start = 0;
    while start < 2 * EMPTY_LINES_MAX && window[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let Some((lines, length)) = lines(&window[start..]) else {
        return Said::Open;
    };
    let mut faults = Vec::new();
    // The request line.
    let words: Vec<&[u8]> = lines[0].split(|b| *b == b' ').collect();
    let method = words[0];
    let target = words.get(1).copied().unwrap_or_default();
    let version = words.get(2).copied().unwrap_or_default();
    if words.len() != 3 || !is_token(method) || !is_text(lines[0]) || lines[0].contains(&b'\t') {
        faults.push(400);
    }
    let long = target.iter().take_while(|b| **b > b' ' && **b != 0x7f);
    if long.count() > limits.target_bytes_max {
        faults.push(414);
    }
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => {}
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9'] => faults.push(505),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => faults.push(505),
        // Its line does not end at the CR, which the parser need not wait to see.
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'\r', ..] => faults.extend([400, 505]),
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'0'..=b'9',
            b'.',
            b'0'..=b'9',
            b'\r',
            ..,
        ] => faults.extend([400, 505]),
        _ => faults.push(400),
    }
    let headers = Headers::read(&lines[1..]);
    if headers.are_malformed {
        faults.push(400);
    }
    if lines.len() - 1 > limits.header_count_max {
        faults.push(431);
    } else if faults.contains(&400) {
        // The parser counts lines that end in a bare LF, which is wrong only when the head has its end.
        let all = window[start..start + length]
            .iter()
            .filter(|b| **b == b'\n');
        if all.count() - 2 > limits.header_count_max {
            faults.push(431);
        }
    }
    if !faults.is_empty() {
        // The target comes before most of these.
        if target.is_empty() || !target.is_ascii() {
            faults.push(400);
        }
        return Said::Wrong(faults);
    }
    // What a sound head says, 400 before 501 before 417 before 413.
    let is_http10 = version == b"HTTP/1.0";
    let hosts = headers.values("host");
    let lengths = headers.values("content-length");
    let announced = lengths.first().map(|value| number(value));
    let encodings = headers.values("transfer-encoding");
    let codings = headers.codings();
    let is_400 = !is_target(method, target)
        || hosts.len() > 1
        || hosts.is_empty() && !is_http10
        || hosts.iter().any(|host| host_and_port(host).is_none())
        || lengths.len() > 1
        || announced == Some(None)
        || encodings.len() > 1
        || !encodings.is_empty() && (is_http10 || !lengths.is_empty())
        || !encodings.is_empty() && !matches!(codings.as_deref(), Some([.., true]));
    if is_400 {
        return Said::Wrong(vec![400]);
    }
    if codings.is_some_and(|codings| codings.len() > 1) {
        return Said::Wrong(vec![501]);
    }
    let expectations = headers.elements("expect");
    let is_continue = |e: &&[u8]| e.eq_ignore_ascii_case(b"100-continue");
    if !expectations.iter().all(|e| e.is_empty() || is_continue(e)) {
        return Said::Wrong(vec![417]);
    }
    let body = match announced.flatten() {
        _ if !encodings.is_empty() => Body::Chunked,
        None | Some(0) => Body::None,
        Some(length) if length > limits.body_bytes_max => return Said::Wrong(vec![413]),
        Some(length) => Body::Length(length),
    };
    Said::Sound(RequestHead {
        length: start + length,
        is_head: method == b"HEAD",
        is_http10,
        keep_alive: headers.stays(is_http10) && method != b"CONNECT",
        expects_continue: !is_http10 && body != Body::None && expectations.iter().any(is_continue),
        body,
    })
}

/// The head of a response. What is wrong has no status: `Wrong(vec![])`.
pub fn response(bytes: &[u8], was_head: bool, limits: &Limits) -> Said<ResponseHead> {
    let window = &bytes[..bytes.len().min(limits.head_bytes_max)];
    let Some((lines, length)) = lines(window) else {
        return Said::Open;
    };
    let wrong = || Said::Wrong(Vec::new());
    let line = lines[0];
    let is_http10 = line.starts_with(b"HTTP/1.0 ");
    if !is_http10 && !line.starts_with(b"HTTP/1.1 ") || line.len() < 12 {
        return wrong();
    }
    let (digits, reason) = line[9..].split_at(3);
    let (Some(status @ 100..), true) = (
        number(digits),
        is_text(reason) && matches!(reason.first(), None | Some(b' ')),
    ) else {
        return wrong();
    };
    let headers = Headers::read(&lines[1..]);
    if headers.are_malformed || lines.len() - 1 > limits.header_count_max {
        return wrong();
    }
    let mut lengths: Vec<Option<u64>> = headers
        .elements("content-length")
        .into_iter()
        .map(number)
        .collect();
    lengths.dedup();
    let has_encoding = !headers.values("transfer-encoding").is_empty();
    let Some(codings) = headers.codings() else {
        return wrong();
    };
    let announced = match (&lengths[..], has_encoding) {
        ([], true) if is_http10 => return wrong(),
        ([], true) if codings.last() == Some(&true) => Body::Chunked,
        ([], _) => Body::UntilClose,
        ([Some(0)], false) => Body::None,
        ([Some(length)], false) => Body::Length(*length),
        _ => return wrong(),
    };
    let status = status as u16;
    let body = if was_head || status < 200 || status == 204 || status == 304 {
        Body::None
    } else {
        announced
    };
    Said::Sound(ResponseHead {
        length,
        status,
        keep_alive: headers.stays(is_http10) && body != Body::UntilClose && status != 101,
        body,
    })
}

/// What a chunked body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not there yet.
    Open,
    /// After so many bytes.
    At(usize),
    /// Never: the byte at this place is wrong.
    Wrong(usize),
}

/// The chunked body that `bytes` begin with: its payload as far as it is there, and its end.
pub fn chunked(bytes: &[u8]) -> (Vec<u8>, End) {
    let mut payload = Vec::new();
    let end = match chunks(bytes, &mut payload) {
        Ok(end) => End::At(end),
        Err(end) => end,
    };
    (payload, end)
}

/// One byte, which has to be `expected`.
fn exactly(bytes: &[u8], at: usize, expected: u8) -> Result<usize, End> {
    match bytes.get(at) {
        None => Err(End::Open),
        Some(byte) if *byte == expected => Ok(at + 1),
        Some(_) => Err(End::Wrong(at)),
    }
}

/// The end of the run of bytes from `at` that fit; one more has to follow it.
fn run(bytes: &[u8], at: usize, fits: impl Fn(u8) -> bool) -> Result<usize, End> {
    let length = bytes[at..].iter().take_while(|b| fits(**b)).count();
    match at + length < bytes.len() {
        true => Ok(at + length),
        false => Err(End::Open),
    }
}

/// As `result` says, unless a place past `end_max` was reached without anything wrong before: then that place is wrong.
fn bounded(result: Result<usize, End>, bytes: &[u8], end_max: usize) -> Result<usize, End> {
    let reached = match result {
        Ok(at) | Err(End::Wrong(at) | End::At(at)) => at,
        Err(End::Open) => bytes.len(),
    };
    match reached > end_max {
        true => Err(End::Wrong(end_max)),
        false => result,
    }
}

fn is_text_byte(byte: u8) -> bool {
    is_text(&[byte])
}

fn chunks(bytes: &[u8], payload: &mut Vec<u8>) -> Result<usize, End> {
    let mut at = 0;
    loop {
        // chunk-size [ chunk-ext ] CRLF
        let line = at;
        let digits_end = bounded(
            run(bytes, line, |b| b.is_ascii_hexdigit()),
            bytes,
            line + 16,
        )?;
        if digits_end == line {
            return Err(End::Wrong(line));
        }
        let digits = String::from_utf8_lossy(&bytes[line..digits_end]);
        let size = u64::from_str_radix(&digits, 16).map_err(|_| End::Wrong(line))?;
        let line_max = line + usize::from(CHUNK_LINE_BYTES_MAX);
        at = bounded(extension(bytes, digits_end), bytes, line_max)?;
        at = exactly(bytes, at, b'\r')?;
        at = exactly(bytes, at, b'\n')?;
        if size == 0 {
            break;
        }
        // chunk-data CRLF
        let there = (bytes.len() - at).min(usize::try_from(size).unwrap_or(usize::MAX));
        payload.extend_from_slice(&bytes[at..at + there]);
        at += there;
        if (there as u64) < size {
            return Err(End::Open);
        }
        at = exactly(bytes, at, b'\r')?;
        at = exactly(bytes, at, b'\n')?;
    }
    // trailer-section CRLF
    let section = at;
    let section_max = section + usize::from(TRAILER_BYTES_MAX);
    while bytes.get(at) != Some(&b'\r') {
        at = bounded(trailer(bytes, at), bytes, section_max)?;
    }
    at = exactly(bytes, at, b'\r')?;
    exactly(bytes, at, b'\n')
}

/// Whitespace and then an extension, or nothing; returns where the CR has to be.
fn extension(bytes: &[u8], at: usize) -> Result<usize, End> {
    let gap_end = run(bytes, at, |b| matches!(b, b' ' | b'\t'))?;
    match bytes[gap_end] {
        b';' => run(bytes, gap_end, is_text_byte),
        _ if gap_end == at => Ok(at),
        // Whitespace alone is none.
        _ => Err(End::Wrong(gap_end)),
    }
}

fn trailer(bytes: &[u8], at: usize) -> Result<usize, End> {
    let colon = run(bytes, at, |b| is_token(&[b]))?;
    if colon == at {
        return Err(End::Wrong(at));
    }
    let value = exactly(bytes, colon, b':')?;
    let end = exactly(bytes, run(bytes, value, is_text_byte)?, b'\r')?;
    exactly(bytes, end, b'\n')
}
