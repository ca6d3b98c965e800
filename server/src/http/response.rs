//! The response, rendered.
//!
//! It is the same for every request except for the Date (rendered once a second), the body (not for
//! HEAD) and the Connection header. So each variant is rendered in advance, and answering is
//! copying.
//! Invariants: a rendered response is complete and correctly framed; its date is at most a second
//! old while the control plane runs.
//! Must not depend on: connections, requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_http1::status_reason;

/// Bodies up to this length are rendered with their head, larger ones are sent without copying;
/// bytes.
const INLINE_BYTES_MAX: usize = 4_096;

/// The response to every request.
#[derive(Debug, Clone)]
pub struct Template {
    /// Status code.
    pub status: u16,
    /// Header lines besides those rendered here, each with its CRLF.
    pub headers: String,
    /// The body.
    pub body: &'static [u8],
}

/// What the connection is told about its persistence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Persistence {
    /// It persists: the default of HTTP/1.1, without a header.
    #[default]
    KeepAlive,
    /// It persists, with the header that HTTP/1.0 needs.
    ExplicitKeepAlive,
    /// It closes.
    Close,
}

const CONNECTION_LINES: [(Persistence, &str); 3] = [
    (Persistence::KeepAlive, ""),
    (Persistence::ExplicitKeepAlive, "Connection: keep-alive\r\n"),
    (Persistence::Close, "Connection: close\r\n"),
];

/// Unix time of engine time 0, microseconds: the control plane keeps it right when the clock is
/// stepped.
#[derive(Debug, Clone, Default)]
pub struct WallClock(Arc<AtomicI64>);

impl WallClock {
    /// Sets the offset: it is now `now_us` of engine time.
    #[expect(
        clippy::disallowed_methods,
        reason = "the Date header says what the wall clock says"
    )]
    pub fn set(&self, now_us: u64) {
        let unix_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_micros() as i64);
        self.0.store(unix_us - now_us as i64, Ordering::Relaxed);
    }

    /// The Unix time at `now_us` of engine time, seconds.
    fn unix_seconds(&self, now_us: u64) -> u64 {
        let unix_us = self.0.load(Ordering::Relaxed) + now_us as i64;
        (unix_us.max(0) / 1_000_000) as u64
    }
}

/// Rendered responses of one thread.
pub struct Responses {
    template: Template,
    clock: WallClock,
    /// With the body inside, if it is small; by [`Persistence`].
    whole: [Vec<u8>; 3],
    /// Where the body begins in each.
    head_bytes: [usize; 3],
    /// The body where it is not inside.
    tail: &'static [u8],
    date: String,
    second: u64,
    /// Engine time until which the date holds.
    fresh_until_us: u64,
}

impl Responses {
    /// Responses that will be rendered at the first use.
    pub fn new(template: Template, clock: WallClock) -> Self {
        let has_body = has_body(template.status);
        let is_inline = template.body.len() <= INLINE_BYTES_MAX;
        Responses {
            tail: if has_body && !is_inline {
                template.body
            } else {
                &[]
            },
            template,
            clock,
            whole: Default::default(),
            head_bytes: [0; 3],
            date: String::new(),
            second: u64::MAX,
            fresh_until_us: 0,
        }
    }

    /// Brings the date up to now. Cheap while the second is the same.
    #[inline]
    pub fn refresh(&mut self, now_us: u64) {
        if now_us >= self.fresh_until_us {
            self.render(now_us);
        }
    }

    fn render(&mut self, now_us: u64) {
        // Ten times a second, because seconds of engine time and of the wall clock begin at
        // different times.
        self.fresh_until_us = now_us + 100_000;
        let second = self.clock.unix_seconds(now_us);
        if second == self.second {
            return;
        }
        self.second = second;
        self.date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
        for (number, (_, line)) in CONNECTION_LINES.iter().enumerate() {
            let whole = &mut self.whole[number];
            whole.clear();
            push_head(
                whole,
                self.template.status,
                &self.date,
                line,
                &self.template.headers,
                self.template.body.len(),
            );
            self.head_bytes[number] = whole.len();
            if has_body(self.template.status) && self.tail.is_empty() {
                whole.extend_from_slice(self.template.body);
            }
        }
    }

    /// The response: bytes to copy, and static bytes behind them. After a [`Responses::refresh`].
    #[inline]
    pub fn rendered(&self, persistence: Persistence, is_head: bool) -> (&[u8], &'static [u8]) {
        let number = persistence as usize;
        if is_head {
            return (&self.whole[number][..self.head_bytes[number]], &[]);
        }
        (&self.whole[number], self.tail)
    }

    /// A refusal: status, `Connection: close`, and a body that states the reason, unless the
    /// request is HEAD.
    pub fn refusal(&self, status: u16, why: &str, is_head: bool) -> Vec<u8> {
        let body = format!("{status} {}: {why}\n", status_reason(status));
        let mut bytes = Vec::new();
        let headers = "Content-Type: text/plain; charset=utf-8\r\n";
        push_head(
            &mut bytes,
            status,
            &self.date,
            CONNECTION_LINES[Persistence::Close as usize].1,
            headers,
            body.len(),
        );
        if !is_head {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

/// True if responses with this status have content (RFC 9110, 6.4.1 and 15.3.6).
pub fn has_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 205 | 304)
}

fn push_head(
    into: &mut Vec<u8>,
    status: u16,
    date: &str,
    connection: &str,
    headers: &str,
    body_bytes: usize,
) {
    let reason = status_reason(status);
    let mut head = format!("HTTP/1.1 {status} {reason}\r\nDate: {date}\r\n{connection}{headers}");
    if has_body(status) {
        head += &format!("Content-Length: {body_bytes}\r\n");
    } else if status == 205 {
        // Unlike the others, it is not known to be empty by its status alone.
        head += "Content-Length: 0\r\n";
    }
    head += "\r\n";
    into.extend_from_slice(head.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn responses(status: u16, body: &'static [u8]) -> Responses {
        let clock = WallClock::default();
        clock.0.store(784_111_777_000_000, Ordering::Relaxed);
        let headers = "X-A: b\r\n".to_owned();
        let template = Template {
            status,
            headers,
            body,
        };
        let mut responses = Responses::new(template, clock);
        responses.refresh(0);
        responses
    }

    #[test]
    fn every_variant_is_framed_by_its_length() {
        let responses = responses(200, b"ok");
        let text = |persistence, is_head| {
            let (head, tail) = responses.rendered(persistence, is_head);
            String::from_utf8([head, tail].concat()).unwrap()
        };
        let head = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-A: b\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(text(Persistence::KeepAlive, false), format!("{head}ok"));
        assert_eq!(text(Persistence::KeepAlive, true), head);
        assert!(
            text(Persistence::ExplicitKeepAlive, false).contains("\r\nConnection: keep-alive\r\n")
        );
        assert!(text(Persistence::Close, false).contains("\r\nConnection: close\r\n"));
    }

    #[test]
    fn reset_content_has_content_length_zero() {
        let responses = responses(205, b"ok");
        let (head, tail) = responses.rendered(Persistence::KeepAlive, false);
        assert!(head.ends_with(b"\r\nContent-Length: 0\r\n\r\n") && tail.is_empty());
    }

    #[test]
    fn a_status_without_body_has_neither_body_nor_length() {
        let responses = responses(204, b"ok");
        let (head, tail) = responses.rendered(Persistence::KeepAlive, false);
        assert!(head.ends_with(b"X-A: b\r\n\r\n") && tail.is_empty());
    }

    #[test]
    fn a_large_body_is_sent_without_copying() {
        let body: &'static [u8] = Box::leak(vec![7; INLINE_BYTES_MAX + 1].into_boxed_slice());
        let responses = responses(200, body);
        assert!(std::ptr::eq(
            responses.rendered(Persistence::KeepAlive, false).1,
            body
        ));
        assert!(
            responses
                .rendered(Persistence::KeepAlive, true)
                .1
                .is_empty()
        );
    }

    #[test]
    fn date_header_follows_the_second() {
        let mut responses = responses(200, b"");
        responses.refresh(1_500_000);
        assert!(responses.date.contains("08:49:38"));
    }
}
