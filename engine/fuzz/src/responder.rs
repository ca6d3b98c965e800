//! The server's responder, called as the engine calls it: any bytes in any pieces get the answers
//! that the reference expects.

use holdfast_engine::{Conn, Handler, Recorder};
use holdfast_http1::{Body, EMPTY_LINES_MAX, Limits};
use holdfast_server::http::responder::{HttpConn, REFUSALS, Responder, ResponderReport, Timeouts};
use holdfast_server::http::response::{Responses, Template, WallClock};

use crate::input::{options, pieces};
use crate::reference::{self, End, Said};
use crate::requests::SMALL;

/// A static body, large enough to fill the queue of a connection soon.
static LARGE: [u8; 5_000] = [b'l'; 5_000];
/// With more bytes queued than this, the responder waits for the kernel.
const QUEUE_BYTES_MAX: usize = 32 * 1024;

/// An answer: its status, whether it says that the connection ends, and the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    status: u16,
    is_last: bool,
    has_body: bool,
}

/// What the reference expects: for each request served its answer; and at most how many 100s.
#[derive(Debug, Default)]
struct Expected {
    all: Vec<Answer>,
    /// For each request whose head is whole: whether it is HEAD.
    are_head: Vec<bool>,
    continue_count_max: usize,
    /// The statuses that the last answer, a refusal, may have.
    last: Vec<u16>,
    /// Where the reference stopped; the responder may have refused more.
    is_open: bool,
}

/// By hand: the request begins with this method, after the empty lines that are allowed.
fn has_method(mut bytes: &[u8], method: &[u8]) -> bool {
    let mut empty_lines = 0;
    while bytes.starts_with(b"\r\n") && empty_lines < EMPTY_LINES_MAX {
        bytes = &bytes[2..];
        empty_lines += 1;
    }
    bytes.starts_with(method)
}

fn expected(bytes: &[u8], limits: &Limits) -> Expected {
    let mut expected = Expected::default();
    let mut at = 0;
    while at < bytes.len() {
        let head = match reference::request(&bytes[at..], limits) {
            Said::Sound(head) => head,
            Said::Open => {
                expected.are_head.push(has_method(&bytes[at..], b"HEAD "));
                expected.is_open = true;
                break;
            }
            Said::Wrong(statuses) => {
                expected.are_head.push(has_method(&bytes[at..], b"HEAD "));
                expected.last = statuses;
                break;
            }
        };
        if has_method(&bytes[at..], b"CONNECT ") {
            expected.last = vec![501];
            break;
        }
        at += head.length;
        expected.are_head.push(head.is_head);
        expected.continue_count_max += usize::from(head.expects_continue);
        let rest = &bytes[at..];
        let used = match head.body {
            Body::None | Body::UntilClose => Some(0),
            Body::Length(length) => usize::try_from(length).ok().filter(|l| *l <= rest.len()),
            Body::Chunked => {
                let bytes_max = limits.body_bytes_max as usize;
                match reference::chunked(rest).1 {
                    End::At(used) if used <= bytes_max => Some(used),
                    End::Wrong(wrong_at) if wrong_at < bytes_max => {
                        expected.last = vec![400];
                        break;
                    }
                    End::Open if rest.len() <= bytes_max => None,
                    End::Within(end) if end <= bytes_max as u64 => None,
                    _ => {
                        expected.last = vec![413];
                        break;
                    }
                }
            }
        };
        let Some(used) = used else { break };
        at += used;
        let answer = Answer {
            status: 200,
            is_last: !head.keep_alive,
            has_body: !head.is_head,
        };
        expected.all.push(answer);
        if !head.keep_alive {
            break;
        }
    }
    expected
}

/// One connection to a responder.
struct Connection<'r> {
    responder: &'r mut Responder,
    talk: HttpConn,
    carried: Vec<u8>,
    heard: Vec<u8>,
}

impl Connection<'_> {
    fn note(&mut self, piece: &[u8]) {
        self.carried.extend_from_slice(piece);
        let mut recorder = Recorder::default();
        loop {
            let mut conn = Conn::new(&mut self.talk, 0, false, &mut recorder);
            let used = self.responder.on_bytes(&mut conn, &self.carried);
            let is_paused = conn.sent_bytes() > QUEUE_BYTES_MAX;
            // What was static is copied behind the rest.
            conn.send_copy(b"");
            self.heard.extend_from_slice(&recorder.take_sent());
            self.carried.drain(..used);
            if !is_paused || self.carried.is_empty() {
                break;
            }
        }
    }
}

/// The answers in what was heard, those with 100 apart. Each has to be framed as its request has
/// it.
fn answers(mut heard: &[u8], are_head: &[bool], body_bytes: usize) -> (Vec<Answer>, usize) {
    let mut all = Vec::new();
    let mut continue_count = 0;
    while !heard.is_empty() {
        let is_head = are_head.get(all.len()).copied().unwrap_or(false);
        let limits = Limits::default();
        let Said::Sound(head) = reference::response(heard, is_head, &limits) else {
            panic!("an answer that is none: {}", heard.escape_ascii());
        };
        heard = &heard[head.length..];
        if head.status == 100 {
            continue_count += 1;
            continue;
        }
        let length = match head.body {
            Body::None => 0,
            Body::Length(length) => length as usize,
            body => panic!("an answer with {body:?}"),
        };
        assert!(length <= heard.len(), "the whole body is sent");
        assert!(head.status != 200 || is_head || length == body_bytes);
        heard = &heard[length..];
        all.push(Answer {
            status: head.status,
            is_last: !head.keep_alive,
            has_body: length > 0,
        });
    }
    (all, continue_count)
}

/// Requests of a connection, as the server answers them.
pub fn http_responder(data: &[u8]) {
    let Some((option, bytes)) = options(data) else {
        return;
    };
    let body: &'static [u8] = match option & 1 {
        0 => b"ok",
        _ => &LARGE,
    };
    let template = Template {
        status: 200,
        headers: String::new(),
        body,
    };
    let milliseconds = 1_000;
    let timeouts = Timeouts {
        header_ms: milliseconds,
        read_ms: milliseconds,
        write_ms: milliseconds,
        idle_ms: milliseconds,
    };
    let responses = Responses::new(template, WallClock::default());
    let mut responder = Responder::new(responses, SMALL, timeouts);
    let expected = expected(&bytes, &SMALL);
    let mut earlier = ResponderReport::default();
    let mut first: Option<(Vec<u8>, Vec<Answer>)> = None;
    // The same responder each time: what it remembers of heads must not change what it answers.
    for seed in [0, 1, option | 2] {
        let mut connection = Connection {
            responder: &mut responder,
            talk: HttpConn::default(),
            carried: Vec::new(),
            heard: Vec::new(),
        };
        for piece in pieces(&bytes, seed) {
            connection.note(piece);
        }
        let heard = std::mem::take(&mut connection.heard);
        // Mostly the very same bytes are heard, which need not be read once more.
        let (all, continue_count) = match &first {
            Some((bytes, all)) if *bytes == heard => (all.clone(), 0),
            _ => answers(&heard, &expected.are_head, body.len()),
        };
        let is_ended = all.last().is_some_and(|answer| answer.is_last);
        if is_ended {
            connection.note(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(connection.heard.is_empty(), "an answer after the last one");
        }
        let now = report(&mut responder);
        check(&all, continue_count, &expected);
        check_books(&all, &earlier, &now);
        earlier = now;
        let (_, at_once) = first.get_or_insert_with(|| (heard, all.clone()));
        assert_eq!(at_once, &all, "cut by {seed}");
    }
}

fn report(responder: &mut Responder) -> ResponderReport {
    let mut report = ResponderReport::default();
    responder.report(&mut report);
    report
}

fn check(all: &[Answer], continue_count: usize, expected: &Expected) {
    assert!(continue_count <= expected.continue_count_max, "100s");
    let (mine, rest) = all.split_at(expected.all.len().min(all.len()));
    assert_eq!(mine, expected.all, "the reference");
    match rest {
        [] => assert!(expected.last.is_empty(), "not refused: {:?}", expected.last),
        [refusal] => {
            assert!(refusal.is_last && refusal.status != 200);
            // A request whose end the reference does not see may be refused before it; empty lines
            // are judged first of all.
            let is_right = expected.is_open
                || expected.last.contains(&refusal.status)
                || refusal.status == 400 && !expected.last.is_empty();
            assert!(is_right, "{refusal:?}, not {:?}", expected.last);
        }
        _ => panic!("more answers than requests"),
    }
}

/// The counters equal the responses sent.
fn check_books(all: &[Answer], earlier: &ResponderReport, now: &ResponderReport) {
    let count = |status: u16| all.iter().filter(|a| a.status == status).count() as u64;
    assert_eq!(now.answered - earlier.answered, count(200));
    for (place, status) in REFUSALS.iter().enumerate() {
        assert_eq!(now.refused[place] - earlier.refused[place], count(*status));
    }
}
