//! Responses as the client reads them: heads and bodies, one after another, in pieces against
//! whole, and against the reference.

use holdfast_client::http::response::{
    self, Expectations, Parsed, Position, Progress, ResponseCounts, STATUS_COUNT, Verdict,
    parse_statuses,
};
use holdfast_http1::{Body, Limits};

use crate::input::{options, pieces};
use crate::reference::{self, End, Said};

/// The verdict of each complete response, and how reading ended.
#[derive(Debug, PartialEq)]
struct Story {
    all: Vec<(Verdict, bool)>,
    is_malformed: bool,
    counts: Vec<u64>,
}

impl Default for Story {
    fn default() -> Self {
        Story {
            all: Vec::new(),
            is_malformed: false,
            counts: vec![0; STATUS_COUNT],
        }
    }
}

/// Reads as a user does: unused bytes are presented again with the next ones; nothing is read after
/// the last response.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, expectations: &Expectations) -> Story {
    let (mut position, mut progress) = (Position::default(), Progress::default());
    let mut story = Story::default();
    let mut counts = ResponseCounts::default();
    let mut carried = Vec::new();
    'connection: for piece in pieces {
        carried.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match response::read(
                &mut position,
                &mut progress,
                &carried[at..],
                expectations,
                &mut counts,
            ) {
                Err(_) => {
                    story.is_malformed = true;
                    break 'connection;
                }
                Ok(Parsed::Partial(used)) => {
                    at += used;
                    assert!(at <= carried.len());
                    break;
                }
                Ok(Parsed::Complete {
                    used,
                    verdict,
                    is_last,
                }) => {
                    assert!(0 < used && used <= carried.len() - at);
                    at += used;
                    story.all.push((verdict, is_last));
                    if is_last {
                        break 'connection;
                    }
                }
            }
        }
        carried.drain(..at);
    }
    if !story.is_malformed && !story.all.iter().any(|(_, is_last)| *is_last) {
        let last = response::end(position, progress, expectations);
        story.all.extend(last.map(|verdict| (verdict, true)));
    }
    story.counts.copy_from_slice(&*counts.statuses);
    story
}

/// The same from the reference, over all bytes at once.
fn expected(bytes: &[u8], expectations: &Expectations) -> Option<Story> {
    let mut story = Story::default();
    let mut at = 0;
    loop {
        let head =
            match reference::response(&bytes[at..], expectations.was_head, &expectations.limits) {
                Said::Sound(head) => head,
                Said::Wrong(_) => {
                    story.is_malformed = true;
                    break;
                }
                // The parser may report more here than the reference.
                Said::Open if at < bytes.len() => return None,
                Said::Open => break,
            };
        at += head.length;
        if head.status == 101 {
            story.is_malformed = true;
            break;
        }
        if head.status < 200 {
            continue;
        }
        story.counts[usize::from(head.status)] += 1;
        let rest = &bytes[at..];
        let (payload, used) = match head.body {
            Body::None => (Vec::new(), Some(0)),
            Body::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= rest.len() => (rest[..length].to_vec(), Some(length)),
                _ => (Vec::new(), None),
            },
            Body::UntilClose => (rest.to_vec(), Some(rest.len())),
            Body::Chunked => match reference::lenient_chunked(rest) {
                (payload, End::At(used), _) => (payload, Some(used)),
                (_, End::Open | End::Within(_), _) => (Vec::new(), None),
                (_, End::Wrong(_), _) => {
                    story.is_malformed = true;
                    break;
                }
            },
        };
        let Some(used) = used else { break };
        at += used;
        let verdict = if !expectations.statuses.has(head.status) {
            Verdict::WrongStatus
        } else if expectations.body.is_some_and(|body| body != payload) {
            Verdict::WrongBody
        } else {
            Verdict::Expected
        };
        story.all.push((verdict, !head.keep_alive));
        if !head.keep_alive {
            break;
        }
    }
    Some(story)
}

/// Responses of a connection, as the client judges them.
pub fn http_reply(data: &[u8]) {
    let Some((option, bytes)) = options(data) else {
        return;
    };
    let Ok(statuses) = parse_statuses("2xx") else {
        unreachable!("a class of statuses");
    };
    let expectations = Expectations {
        was_head: option & 2 != 0,
        limits: Limits {
            head_bytes_max: 400,
            header_count_max: 6,
            ..Limits::default()
        },
        statuses,
        body: (option & 1 == 0).then_some(b"hello"),
    };
    let whole = read(pieces(&bytes, 0), &expectations);
    for seed in [1, option | 2] {
        assert_eq!(
            read(pieces(&bytes, seed), &expectations),
            whole,
            "cut by {seed}"
        );
    }
    if let Some(expected) = expected(&bytes, &expectations) {
        assert_eq!(whole, expected, "the reference");
    }
}
