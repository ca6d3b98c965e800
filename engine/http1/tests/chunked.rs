//! Chunked bodies: whole, in two pieces cut anywhere, byte by byte, and spoilt.
//!
//! Expected values come from RFC 9112, 7.1. Must not know: how the decoder works.
#![forbid(unsafe_code)]

mod common;

use common::Random;
use holdfast_http1::{CHUNK_LINE_BYTES_MAX, Chunked, Malformed, TRAILER_BYTES_MAX};

/// The payload, how many bytes the body took, and whether it ended.
type Reading = Result<(Vec<u8>, usize, bool), Malformed>;

/// Reads `pieces` one after another as the header of [`Chunked::step`] says.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    let mut chunked = Chunked::default();
    let (mut payload, mut used, mut is_done) = (Vec::new(), 0, false);
    for piece in pieces {
        let mut rest = piece;
        loop {
            let step = chunked.step(rest)?;
            assert!(step.used <= rest.len() && step.data.end <= step.used);
            assert!(
                step.is_done || step.used > 0 || rest.is_empty(),
                "no progress"
            );
            payload.extend(&rest[step.data]);
            used += step.used;
            is_done = step.is_done;
            rest = &rest[step.used..];
            if step.used == 0 || is_done {
                break;
            }
        }
    }
    Ok((payload, used, is_done))
}

/// Reads `bytes` whole, cut in two everywhere, and byte by byte, which has to make no difference.
fn read_cut(bytes: &[u8]) -> Reading {
    let whole = read([bytes]);
    for at in 0..=bytes.len() {
        let (before, after) = bytes.split_at(at);
        assert_eq!(
            read([before, after]),
            whole,
            "{} cut at {at}",
            bytes.escape_ascii()
        );
    }
    assert_eq!(
        read(bytes.chunks(1)),
        whole,
        "{} byte by byte",
        bytes.escape_ascii()
    );
    whole
}

/// A body, its payload, and how many bytes follow it.
#[rustfmt::skip]
const SOUND: &[(&[u8], &[u8], usize)] = &[
    (b"0\r\n\r\n", b"", 0),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", 0),
    (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /", b"hello world", 5),
    (b"0000000000000005\r\nhello\r\n000\r\n\r\n", b"hello", 0),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", 0),
    (b"10\r\n0123456789abcdef\r\n0\r\n\r\n", b"0123456789abcdef", 0),
    (b"4\r\n\r\n\r\n\r\n0\r\n\r\n\r\n", b"\r\n\r\n", 2),
    (b"5;a\r\nhello\r\n0;b=\"c d\"\r\n\r\n", b"hello", 0),
    (b"5 \t; a = b;c\r\nhello\r\n0\r\n\r\n", b"hello", 0),
    (b"5;\xff\r\nhello\r\n0\r\n\r\n", b"hello", 0),
    (b"0\r\nA: b\r\nC-d:\r\nContent-Length: 9\r\n\r\nxyz", b"", 3),
    (b"1\r\nx\r\n0\r\nA: \tb\xff \r\n\r\n", b"x", 0),
];

#[rustfmt::skip]
const MALFORMED: &[&[u8]] = &[
    b"\r\n", b"\n", b" 5\r\n", b";a\r\n", b"g\r\n", b"-1\r\n", b"+1\r\n", b"0x5\r\n", b"5g\r\n", b"5,5\r\n", b"5.\r\n",
    b"5 \r\n", b"5 5\r\n", b"5\n", b"5\rhello", b"5\r\r\n", b"5\0\r\n",
    b"10000000000000000\r\n", b"00000000000000005\r\n",
    b"5;a\nhello", b"5;a\rhello", b"5;\0\r\n", b"5;\x7f\r\n",
    b"5\r\nhello0\r\n", b"5\r\nhello!\r\n", b"5\r\nhello\n0\r\n", b"5\r\nhello\r0\r\n", b"5\r\nhello\r\r\n",
    b"5\r\nhello\r\n\r\n",
    b"0\r\n\n", b"0\r\n\rx", b"0\n\r\n", b"0\r\n0\r\n\r\n", b"0\r\n: a\r\n", b"0\r\n a: b\r\n", b"0\r\na : b\r\n",
    b"0\r\na: b\r\n c\r\n", b"0\r\na: b\n", b"0\r\na: b\rc", b"0\r\na: \0\r\n", b"0\r\na: \x7f\r\n", b"0\r\na\r\n",
    b"0\r\na: b\r\n\n",
];

#[test]
fn payload_is_found_however_the_body_is_cut() {
    for (bytes, payload, rest) in SOUND {
        let (found, used, is_done) = read_cut(bytes).unwrap();
        assert_eq!(found, *payload, "{}", bytes.escape_ascii());
        assert_eq!(used, bytes.len() - rest, "{}", bytes.escape_ascii());
        assert!(is_done);
        // None of its beginnings is done, or wrong.
        for end in 0..used {
            assert!(
                !read([&bytes[..end]]).unwrap().2,
                "{} cut at {end}",
                bytes.escape_ascii()
            );
        }
    }
}

#[test]
fn what_is_malformed_is_seen_however_it_is_cut() {
    for bytes in MALFORMED {
        assert!(read_cut(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn nothing_follows_the_end_or_a_mistake() {
    let mut chunked = Chunked::default();
    assert!(chunked.step(b"0\r\n\r\n").unwrap().is_done);
    let after = chunked.step(b"5\r\nhello").unwrap();
    assert_eq!((after.used, after.data, after.is_done), (0, 0..0, true));

    let mut chunked = Chunked::default();
    assert!(chunked.step(b"x").is_err());
    assert!(chunked.step(b"0\r\n\r\n").is_err());
}

#[test]
fn a_step_finds_one_run_of_payload() {
    let mut chunked = Chunked::default();
    let bytes = b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n";
    let first = chunked.step(bytes).unwrap();
    assert_eq!((first.used, first.data, first.is_done), (10, 3..5, false));
    let second = chunked.step(&bytes[10..]).unwrap();
    assert_eq!((second.used, second.data, second.is_done), (10, 0..3, true));
}

#[test]
fn the_largest_size_is_counted_down() {
    let mut chunked = Chunked::default();
    assert_eq!(chunked.step(b"ffffffffffffffff\r\n").unwrap().used, 18);
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        let step = chunked.step(&piece).unwrap();
        assert_eq!((step.used, step.data), (piece.len(), 0..piece.len()));
    }
}

#[test]
fn lines_between_payload_are_bounded() {
    let line = |bytes: usize| {
        let mut body = b"1;".to_vec();
        body.resize(bytes, b'a');
        body.extend(b"\r\nx\r\n0\r\n\r\n");
        read([&body[..]])
    };
    let line_bytes_max = usize::from(CHUNK_LINE_BYTES_MAX);
    assert!(line(line_bytes_max).unwrap().2);
    assert!(line(line_bytes_max + 1).is_err());

    // One long trailer, and many short ones.
    let trailers = |section: &[u8]| read([&[b"0\r\n", section, b"\r\n"].concat()[..]]);
    let one = |bytes: usize| [&b"a:"[..], &vec![b'b'; bytes - 4], b"\r\n"].concat();
    let trailer_bytes_max = usize::from(TRAILER_BYTES_MAX);
    assert!(trailers(&one(trailer_bytes_max)).unwrap().2);
    assert!(trailers(&one(trailer_bytes_max + 1)).is_err());
    assert!(
        trailers(&b"a:b\r\n".repeat(trailer_bytes_max / 5))
            .unwrap()
            .2
    );
    assert!(trailers(&b"a:b\r\n".repeat(trailer_bytes_max / 5 + 1)).is_err());
    // A line that never ends is refused all the same, and each chunk's line starts anew.
    assert!(
        read(std::iter::once(&b"1;"[..]).chain(std::iter::repeat_n(&b"a"[..], line_bytes_max)))
            .is_err()
    );
    let many = b"1;aaaaaaaaaaaaaaa\r\nx\r\n".repeat(1_000);
    assert_eq!(read([&many[..]]).unwrap().0.len(), 1_000);
}

#[test]
fn what_is_encoded_is_decoded_however_it_is_cut() {
    let mut random = Random::new(0x6368_756e_6b65_6421);
    for _ in 0..500 {
        let (mut body, mut payload) = (Vec::new(), Vec::new());
        for _ in 0..random.below(6) {
            let chunk: Vec<u8> = (0..=random.below(40))
                .map(|_| random.next() as u8)
                .collect();
            body.extend(format!("{:x}\r\n", chunk.len()).bytes());
            body.extend(&chunk);
            body.extend(b"\r\n");
            payload.extend(chunk);
        }
        body.extend(b"0\r\n\r\n");
        let length = body.len();
        body.extend(b"next");
        assert_eq!(read_cut(&body), Ok((payload, length, true)));
    }
}

#[test]
fn no_bytes_make_it_panic_or_depend_on_how_they_were_cut() {
    let mut random = Random::new(0x7370_6f69_6c74_2121);
    for _ in 0..6_000 {
        let row = match random.below(3) {
            0 => random.choose(MALFORMED),
            _ => random.choose(SOUND).0,
        };
        let bytes = random.spoil(row);
        if let Ok((payload, used, _)) = read_cut(&bytes) {
            assert!(payload.len() <= used && used <= bytes.len());
        }
    }
}
