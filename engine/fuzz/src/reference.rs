//! HTTP/1.1 framing once more, in the slow and obvious way: what the parsers of `holdfast-http1`
//! are compared with.
//!
//! Written from RFC 9112, RFC 9110 and the choices that the documentation of `holdfast-http1`
//! states, line by line over whole messages: finds the empty line first, splits, and lists every
//! error.
//! Invariants: shares no code with `holdfast-http1` but the types of its answers.
//! Must not depend on: how bytes arrive.

use std::net::Ipv6Addr;

use holdfast_http1::{
    Body, CHUNK_LINE_BYTES_MAX, EMPTY_LINES_MAX, Limits, METHOD_BYTES_MAX, Oddities, Oddity,
    RequestHead, ResponseHead, TRAILER_BYTES_MAX,
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
        let inside = String::from_utf8_lossy(&bytes[1..end]).into_owned();
        let is_future = inside
            .to_lowercase()
            .strip_prefix('v')
            .and_then(|rest| rest.split_once('.'))
            .is_some_and(|(version, rest)| {
                !version.is_empty()
                    && version.bytes().all(|b| b.is_ascii_hexdigit())
                    && !rest.is_empty()
                    && rest.bytes().all(|b| is_plain(&b) || b == b':')
            });
        if !is_future && inside.parse::<Ipv6Addr>().is_err() {
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
    let method_bytes = window[start..].iter().take_while(|b| is_token(&[**b]));
    if method_bytes.count() > METHOD_BYTES_MAX {
        return Said::Wrong(vec![501]);
    }
    let long = target.iter().take_while(|b| **b > b' ' && **b != 0x7f);
    if long.count() > limits.target_bytes_max {
        faults.push(414);
    }
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => {}
        [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9'] => faults.push(505),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => faults.push(505),
        // Its line does not end at the CR, which the parser need not wait to see.
        [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', b'\r', ..] => faults.extend([400, 505]),
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
        // The parser counts lines that end in a bare LF, which is wrong only when the head has its
        // end.
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
        is_connect: method == b"CONNECT",
        is_http10,
        keep_alive: headers.stays(is_http10) && method != b"CONNECT",
        expects_continue: !is_http10 && body != Body::None && expectations.iter().any(is_continue),
        body,
    })
}

/// The lines of a response's head, without their line ends, its length, and whether any of them
/// ends in a bare LF.
fn lenient_lines(bytes: &[u8]) -> Option<(Vec<&[u8]>, usize, bool)> {
    let mut lines = Vec::new();
    let mut at = 0;
    let mut has_bare_lf = false;
    loop {
        let end = at + bytes[at..].iter().position(|b| *b == b'\n')?;
        let line = &bytes[at..end];
        at = end + 1;
        has_bare_lf |= !line.ends_with(b"\r");
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() && !lines.is_empty() {
            return Some((lines, at, has_bare_lf));
        }
        lines.push(line);
    }
}

/// The head of a response. What is wrong has no status: `Wrong(vec![])`.
pub fn response(bytes: &[u8], was_head: bool, limits: &Limits) -> Said<ResponseHead> {
    let window = &bytes[..bytes.len().min(limits.head_bytes_max)];
    let Some((lines, length, has_bare_lf)) = lenient_lines(window) else {
        return Said::Open;
    };
    let wrong = || Said::Wrong(Vec::new());
    let mut oddities = Oddities::NONE;
    if has_bare_lf {
        oddities.insert(Oddity::BareLf);
    }
    let line = lines[0];
    let [
        b'H',
        b'T',
        b'T',
        b'P',
        b'/',
        b'1',
        b'.',
        minor @ b'0'..=b'9',
        b' ',
        rest @ ..,
    ] = line
    else {
        return wrong();
    };
    if *minor > b'1' {
        oddities.insert(Oddity::MinorVersion);
    }
    let is_http10 = *minor == b'0';
    if rest.len() < 3 {
        return wrong();
    }
    let (digits, reason) = rest.split_at(3);
    let (Some(status @ 100..), true) = (
        number(digits),
        is_text(reason) && matches!(reason.first(), None | Some(b' ')),
    ) else {
        return wrong();
    };
    // Folded lines are one, with spaces instead of the line breaks (RFC 9112, 5.2).
    let mut unfolded: Vec<Vec<u8>> = Vec::new();
    for line in &lines[1..] {
        match (line.first(), unfolded.last_mut()) {
            (Some(b' ' | b'\t'), Some(last)) => {
                oddities.insert(Oddity::FoldedLine);
                last.extend_from_slice(b"  ");
                last.extend_from_slice(line);
            }
            _ => unfolded.push(line.to_vec()),
        }
    }
    let unfolded: Vec<&[u8]> = unfolded.iter().map(Vec::as_slice).collect();
    let headers = Headers::read(&unfolded);
    if headers.are_malformed || unfolded.len() > limits.header_count_max {
        return wrong();
    }
    let mut lengths: Vec<Option<u64>> = headers
        .elements("content-length")
        .into_iter()
        .map(number)
        .collect();
    lengths.dedup();
    let Some(codings) = headers.codings() else {
        return wrong();
    };
    let mut may_stay = status != 101;
    if !codings.is_empty() {
        if !lengths.is_empty() {
            oddities.insert(Oddity::LengthBesideEncoding);
            may_stay = false;
        }
        if is_http10 {
            oddities.insert(Oddity::EncodingInHttp10);
            may_stay = false;
        }
    }
    let announced = match (&lengths[..], codings.last()) {
        ([] | [Some(_)], Some(true)) => Body::Chunked,
        ([] | [Some(_)], Some(false)) | ([], None) => Body::UntilClose,
        ([Some(0)], None) => Body::None,
        ([Some(length)], None) => Body::Length(*length),
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
        keep_alive: headers.stays(is_http10) && body != Body::UntilClose && may_stay,
        body,
        oddities,
    })
}

/// What a chunked body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not there yet.
    Open,
    /// Not there yet: in the payload of a chunk that ends after so many bytes.
    Within(u64),
    /// After so many bytes.
    At(usize),
    /// Never: the byte at this place is wrong.
    Wrong(usize),
}

/// The chunked body that `bytes` begin with, as a server reads it: its payload as far as it is
/// there, and its end.
pub fn chunked(bytes: &[u8]) -> (Vec<u8>, End) {
    let mut body = Chunks::default();
    let end = body.read(bytes);
    (body.payload, end.map_or_else(|end| end, End::At))
}

/// The same as a user agent reads it, and what is odd about it.
pub fn lenient_chunked(bytes: &[u8]) -> (Vec<u8>, End, Oddities) {
    let mut body = Chunks {
        is_lenient: true,
        ..Chunks::default()
    };
    let end = body.read(bytes);
    let end = end.map_or_else(|end| end, End::At);
    (body.payload, end, body.oddities)
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

/// As `result` says, unless a place past `end_max` was reached without anything wrong before: then
/// that place is wrong.
fn bounded(result: Result<usize, End>, bytes: &[u8], end_max: usize) -> Result<usize, End> {
    let reached = match result {
        Ok(at) | Err(End::Wrong(at) | End::At(at)) => at,
        Err(End::Open | End::Within(_)) => bytes.len(),
    };
    match reached > end_max {
        true => Err(End::Wrong(end_max)),
        false => result,
    }
}

fn is_text_byte(byte: u8) -> bool {
    is_text(&[byte])
}

fn is_gap(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A chunked body being read.
#[derive(Default)]
struct Chunks {
    is_lenient: bool,
    payload: Vec<u8>,
    oddities: Oddities,
}

impl Chunks {
    fn read(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        loop {
            // chunk-size [ chunk-ext ] CRLF
            let line_max = at + usize::from(CHUNK_LINE_BYTES_MAX);
            let mut size = 0;
            at = bounded(self.size_line(bytes, at, &mut size), bytes, line_max)?;
            at = self.line_end(bytes, at)?;
            if size == 0 {
                break;
            }
            // chunk-data CRLF
            let there = (bytes.len() - at).min(usize::try_from(size).unwrap_or(usize::MAX));
            self.payload.extend_from_slice(&bytes[at..at + there]);
            if (there as u64) < size {
                return Err(End::Within((at as u64).saturating_add(size)));
            }
            at = self.line_end(bytes, at + there)?;
        }
        // trailer-section CRLF
        let section = at;
        let section_max = section + usize::from(TRAILER_BYTES_MAX);
        loop {
            match bytes.get(at) {
                Some(b'\r') => break,
                Some(b'\n') if self.is_lenient => break,
                Some(b' ' | b'\t') if self.is_lenient && at > section => {
                    self.oddities.insert(Oddity::FoldedLine);
                    let folded = run(bytes, at, is_text_byte);
                    let folded = folded.and_then(|end| self.line_end(bytes, end));
                    at = bounded(folded, bytes, section_max)?;
                }
                _ => at = bounded(self.trailer(bytes, at), bytes, section_max)?,
            }
        }
        self.line_end(bytes, at)
    }

    /// CRLF, or for user agents LF.
    fn line_end(&mut self, bytes: &[u8], at: usize) -> Result<usize, End> {
        if self.is_lenient && bytes.get(at) == Some(&b'\n') {
            self.oddities.insert(Oddity::BareLf);
            return Ok(at + 1);
        }
        exactly(bytes, exactly(bytes, at, b'\r')?, b'\n')
    }

    /// Up to where the line end has to be.
    fn size_line(&mut self, bytes: &[u8], start: usize, size: &mut u64) -> Result<usize, End> {
        let mut at = start;
        if self.is_lenient {
            while bytes.get(at).is_some_and(|b| is_gap(*b)) {
                self.oddities.insert(Oddity::ChunkWhitespace);
                at += 1;
            }
        }
        let first = at;
        while let Some(digit) = bytes.get(at).and_then(|b| char::from(*b).to_digit(16)) {
            if at > first && *size == 0 {
                self.oddities.insert(Oddity::LeadingZeros);
            }
            let next = size.checked_mul(16).ok_or(End::Wrong(at))?;
            *size = next + u64::from(digit);
            at += 1;
        }
        match bytes.get(at) {
            None => return Err(End::Open),
            Some(_) if at == first => return Err(End::Wrong(at)),
            Some(_) => {}
        }
        let gap_end = run(bytes, at, is_gap)?;
        if self.is_lenient {
            return match bytes[gap_end] {
                b';' => run(bytes, gap_end, is_text_byte),
                b'\r' | b'\n' if gap_end > at => {
                    self.oddities.insert(Oddity::ChunkWhitespace);
                    Ok(gap_end)
                }
                _ if gap_end > at => Err(End::Wrong(gap_end)),
                _ => Ok(at),
            };
        }
        extensions(bytes, at)
    }

    fn trailer(&mut self, bytes: &[u8], at: usize) -> Result<usize, End> {
        let colon = run(bytes, at, |b| is_token(&[b]))?;
        if colon == at {
            return Err(End::Wrong(at));
        }
        let value = exactly(bytes, colon, b':')?;
        let end = run(bytes, value, is_text_byte)?;
        self.line_end(bytes, end)
    }
}

/// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )` (RFC 9112, 7.1.1).
fn extensions(bytes: &[u8], start: usize) -> Result<usize, End> {
    let mut at = start;
    loop {
        // Whitespace alone is none.
        let gap_end = run(bytes, at, is_gap)?;
        if bytes[gap_end] != b';' {
            return match gap_end == at {
                true => Ok(at),
                false => Err(End::Wrong(gap_end)),
            };
        }
        let name = run(bytes, gap_end + 1, is_gap)?;
        let name_end = run(bytes, name, |b| is_token(&[b]))?;
        if name_end == name {
            return Err(End::Wrong(name));
        }
        at = name_end;
        let equals = run(bytes, at, is_gap)?;
        if bytes[equals] == b'=' {
            let value = run(bytes, equals + 1, is_gap)?;
            at = match bytes[value] {
                b'"' => quoted(bytes, value + 1)?,
                _ => run(bytes, value, |b| is_token(&[b]))?,
            };
            if at == value {
                return Err(End::Wrong(value));
            }
        }
    }
}

/// The rest of a quoted string, its closing quote included.
fn quoted(bytes: &[u8], start: usize) -> Result<usize, End> {
    let mut at = start;
    loop {
        match bytes.get(at) {
            None => return Err(End::Open),
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match bytes.get(at + 1) {
                None => return Err(End::Open),
                Some(b) if is_text_byte(*b) => at += 2,
                Some(_) => return Err(End::Wrong(at + 1)),
            },
            Some(b) if is_text_byte(*b) => at += 1,
            Some(_) => return Err(End::Wrong(at)),
        }
    }
}
