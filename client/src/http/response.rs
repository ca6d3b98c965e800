//! Responses: found in the bytes of a connection, and compared with what is expected.
//!
//! Invariants: a response is judged once, when its framing is complete; how its bytes were cut
//! makes no difference; no byte of a body is kept.
//! Must not depend on: connections, clocks, which request a response belongs to.

use holdfast_http1::{Body, Chunked, Limits, Malformed, Oddities, Oddity, parse_response};

/// Which status codes are right, one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statuses([u64; 16]);

/// Status codes there can be: three digits.
pub const STATUS_COUNT: usize = 1_000;

impl Statuses {
    /// True if `status` is right.
    pub fn has(&self, status: u16) -> bool {
        self.0[usize::from(status) / 64] >> (status % 64) & 1 == 1
    }
}

/// Parses codes and classes, separated by commas: `200`, `2xx,304`.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_statuses(text: &str) -> Result<Statuses, String> {
    let mut statuses = Statuses([0; 16]);
    for part in text.split(',').map(str::trim) {
        let (first, last) = match part.strip_suffix("xx") {
            Some(class) => (format!("{class}00"), format!("{class}99")),
            None => (part.to_owned(), part.to_owned()),
        };
        let code = |text: &str| match text.parse::<u16>() {
            Ok(code @ 200..=999) if text.len() == 3 => Ok(code),
            _ => Err(
                "not a final status from 200 to 999; next: give codes or classes, such as 2xx,304"
                    .to_owned(),
            ),
        };
        for status in code(&first)?..=code(&last)? {
            statuses.0[usize::from(status) / 64] |= 1 << (status % 64);
        }
    }
    Ok(statuses)
}

/// What responses are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Expectations {
    /// The requests are HEAD: no body comes.
    pub was_head: bool,
    /// Bounds of a head.
    pub limits: Limits,
    /// Right status codes.
    pub statuses: Statuses,
    /// What every body must be, byte for byte.
    pub body: Option<&'static [u8]>,
}

/// Where in a response the next byte stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Position {
    /// At the beginning of a head.
    #[default]
    Head,
    /// In a body of which so much is still to come.
    Length(u64),
    /// In a body of chunks.
    Chunked(Chunked),
    /// In a body that ends with the connection.
    UntilClose,
}

/// What is known of the response under way: how much of the expected body came, and what is wrong
/// already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress(u32);

const WRONG_STATUS: u32 = 1 << 31;
const WRONG_BODY: u32 = 1 << 30;
/// No other response follows on the connection.
const LAST: u32 = 1 << 29;
/// The status is 408.
const REQUEST_TIMEOUT: u32 = 1 << 28;
/// The bits below count bytes. More than any command line, so more than any expected body.
const POSITION: u32 = REQUEST_TIMEOUT - 1;

/// How a response was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Expected,
    /// Another status.
    WrongStatus,
    /// 408, which was not expected, and no other response follows: the server gave the connection
    /// up before the request reached it (RFC 9110, 15.5.9).
    RequestTimeout,
    /// Another body.
    WrongBody,
}

/// What was found in some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A part of a response. So many bytes were used; the others are to come again, with what
    /// follows.
    Partial(usize),
    /// A whole one, in so many bytes.
    Complete {
        /// Bytes used.
        used: usize,
        /// How it was.
        verdict: Verdict,
        /// No other follows on the connection.
        is_last: bool,
    },
}

impl Progress {
    fn of_head(is_right: bool, is_last: bool) -> Self {
        Progress(if is_right { 0 } else { WRONG_STATUS } | if is_last { LAST } else { 0 })
    }

    fn compare(&mut self, bytes: &[u8], expectations: &Expectations) {
        let Some(expected) = expectations.body else {
            return;
        };
        let at = (self.0 & POSITION) as usize;
        if expected.get(at..at + bytes.len()) == Some(bytes) {
            self.0 += bytes.len() as u32;
        } else {
            self.0 |= WRONG_BODY;
        }
    }

    fn verdict(self, expectations: &Expectations) -> Verdict {
        let is_short = expectations
            .body
            .is_some_and(|b| b.len() != (self.0 & POSITION) as usize);
        if self.0 & WRONG_STATUS != 0 {
            match self.0 & (LAST | REQUEST_TIMEOUT) == LAST | REQUEST_TIMEOUT {
                true => Verdict::RequestTimeout,
                false => Verdict::WrongStatus,
            }
        } else if self.0 & WRONG_BODY != 0 || is_short {
            Verdict::WrongBody
        } else {
            Verdict::Expected
        }
    }
}

/// Counts of responses.
#[derive(Debug, Clone)]
pub struct ResponseCounts {
    /// Final heads, by status code.
    pub statuses: Box<[u64; STATUS_COUNT]>,
    /// Heads and chunked bodies that had an oddity, by [`Oddity`] number.
    pub oddities: [u64; Oddity::ALL.len()],
}

impl Default for ResponseCounts {
    fn default() -> Self {
        ResponseCounts {
            statuses: Box::new([0; STATUS_COUNT]),
            oddities: [0; Oddity::ALL.len()],
        }
    }
}

impl ResponseCounts {
    #[inline]
    fn add_oddities(&mut self, oddities: Oddities) {
        if !oddities.is_empty() {
            let found = oddities.iter();
            found.for_each(|oddity| self.oddities[oddity as usize] += 1);
        }
    }

    /// Adds the counts of another thread.
    pub fn merge(&mut self, other: &ResponseCounts) {
        let statuses = self.statuses.iter_mut().zip(other.statuses.iter());
        statuses.for_each(|(sum, part)| *sum += part);
        let oddities = self.oddities.iter_mut().zip(other.oddities);
        oddities.for_each(|(sum, part)| *sum += part);
    }
}

/// Reads on in `bytes` up to the end of a response. `position` and `progress` are what the
/// connection keeps.
///
/// # Errors
/// [`Malformed`] when it is no HTTP/1; nothing more can be read from the connection.
pub fn read(
    position: &mut Position,
    progress: &mut Progress,
    bytes: &[u8],
    expectations: &Expectations,
    counts: &mut ResponseCounts,
) -> Result<Parsed, Malformed> {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let is_whole = match position {
            Position::Head => {
                let Some(head) = parse_response(rest, expectations.was_head, &expectations.limits)?
                else {
                    break;
                };
                at += head.length;
                if head.status == 101 {
                    return Err(Malformed::UnexpectedUpgrade);
                }
                if head.status < 200 {
                    continue;
                }
                counts.statuses[usize::from(head.status)] += 1;
                counts.add_oddities(head.oddities);
                *progress =
                    Progress::of_head(expectations.statuses.has(head.status), !head.keep_alive);
                if head.status == 408 {
                    progress.0 |= REQUEST_TIMEOUT;
                }
                match head.body {
                    Body::None => true,
                    Body::Length(length) => {
                        *position = Position::Length(length);
                        false
                    }
                    Body::Chunked => {
                        *position = Position::Chunked(Chunked::tolerant());
                        false
                    }
                    Body::UntilClose => {
                        *position = Position::UntilClose;
                        false
                    }
                }
            }
            Position::Length(left) => {
                let run = (*left).min(rest.len() as u64);
                *left -= run;
                let is_whole = *left == 0;
                progress.compare(&rest[..run as usize], expectations);
                at += run as usize;
                is_whole
            }
            Position::Chunked(chunks) => {
                let step = chunks.step(rest)?;
                progress.compare(&rest[step.data], expectations);
                at += step.used;
                if step.is_done {
                    counts.add_oddities(chunks.oddities());
                }
                step.is_done
            }
            Position::UntilClose => {
                progress.compare(rest, expectations);
                at = bytes.len();
                false
            }
        };
        if is_whole {
            *position = Position::Head;
            return Ok(Parsed::Complete {
                used: at,
                verdict: progress.verdict(expectations),
                is_last: progress.0 & LAST != 0,
            });
        }
    }
    Ok(Parsed::Partial(at))
}

/// The server closed the connection: the verdict of the response that ends with it, if one does.
pub fn end(position: Position, progress: Progress, expectations: &Expectations) -> Option<Verdict> {
    (position == Position::UntilClose).then(|| progress.verdict(expectations))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2xx: 200 is bit 8 of word 3, 300 is bit 44 of word 4.
    const SUCCESS: Statuses = {
        let mut words = [0; 16];
        (words[3], words[4]) = (u64::MAX << 8, (1 << 44) - 1);
        Statuses(words)
    };

    const RULES: Expectations = Expectations {
        was_head: false,
        limits: Limits {
            head_bytes_max: 16 << 10,
            target_bytes_max: 0,
            header_count_max: 64,
            body_bytes_max: 0,
        },
        statuses: SUCCESS,
        body: Some(b"hello"),
    };

    /// What is found when `bytes` come in pieces of `size`, unused ones again with the next piece;
    /// `None` for malformed ones.
    fn found(
        bytes: &[u8],
        size: usize,
        expectations: &Expectations,
    ) -> Option<Vec<(Verdict, bool)>> {
        let (mut position, mut progress) = (Position::default(), Progress::default());
        let (mut carried, mut all) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            carried.extend_from_slice(piece);
            let mut at = 0;
            loop {
                let counts = &mut ResponseCounts::default();
                match read(
                    &mut position,
                    &mut progress,
                    &carried[at..],
                    expectations,
                    counts,
                )
                .ok()?
                {
                    Parsed::Partial(used) => break at += used,
                    Parsed::Complete {
                        used,
                        verdict,
                        is_last,
                    } => {
                        at += used;
                        all.push((verdict, is_last));
                    }
                }
            }
            carried.drain(..at);
        }
        all.extend(end(position, progress, expectations).map(|verdict| (verdict, true)));
        Some(all)
    }

    #[test]
    fn every_framing_cut_anywhere_is_the_same() {
        let ok = (Verdict::Expected, false);
        for (bytes, expected) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], vec![ok]),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", vec![ok]),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: v\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", vec![ok, ok]),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", vec![(Verdict::Expected, true)]),
            (b"HTTP/1.1 200 OK\r\n\r\nhell", vec![(Verdict::WrongBody, true)]),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nhello!", vec![(Verdict::WrongBody, true)]),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhullo", vec![(Verdict::WrongBody, false)]),
            (b"HTTP/1.1 404 Not Parsed\r\nContent-Length: 5\r\n\r\nhello", vec![(Verdict::WrongStatus, false)]),
            (b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", vec![(Verdict::WrongBody, false), (Verdict::WrongStatus, false)]),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", vec![]),
        ] {
            for size in 1..=bytes.len() {
                let text = String::from_utf8_lossy(bytes);
                assert_eq!(found(bytes, size, &RULES).as_ref(), Some(&expected), "{size}: {text}");
            }
        }
    }

    #[test]
    fn non_http_bytes_are_malformed_however_split() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.9\r\n"[..],
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        ] {
            for size in 1..=bytes.len() {
                assert_eq!(found(bytes, size, &RULES), None, "{size}");
            }
        }
    }

    #[test]
    fn a_response_to_head_has_no_body() {
        let expectations = Expectations {
            was_head: true,
            body: None,
            ..RULES
        };
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".repeat(2);
        let two = vec![(Verdict::Expected, false); 2];
        assert_eq!(found(&bytes, 7, &expectations), Some(two));
    }

    #[test]
    fn codes_and_classes() {
        assert_eq!(parse_statuses("2xx"), Ok(SUCCESS));
        let statuses = parse_statuses("2xx, 304").unwrap();
        let right: Vec<u16> = (100..=999).filter(|s| statuses.has(*s)).collect();
        assert_eq!(right.len(), 101);
        assert!(statuses.has(200) && statuses.has(299) && statuses.has(304));
        for text in [
            "", "2x", "xx", "100", "1xx", "1000", "20", "2xx,", "+20", "200-204",
        ] {
            assert!(parse_statuses(text).is_err(), "{text:?}");
        }
    }
}
