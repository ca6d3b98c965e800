//! Chunked bodies: whole, in two pieces cut anywhere, byte by byte, and spoilt.
//!
//! Expected values come from RFC 9112, 7.1. Must not depend on: how the decoder works.
#![forbid(unsafe_code)]

mod common;

use common::Random;
use holdfast_http1::{
    CHUNK_LINE_BYTES_MAX, Chunked, Malformed, Oddities, Oddity, TRAILER_BYTES_MAX,
};

/// The payload, how many bytes the body took, and whether it ended.
type Reading = Result<(Vec<u8>, usize, bool), Malformed>;

/// Reads `pieces` strictly.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    read_with(&mut Chunked::strict(), pieces)
}

/// Reads `pieces` one after another as the documentation of [`Chunked::step`] says.
fn read_with<'a>(chunked: &mut Chunked, pieces: impl IntoIterator<Item = &'a [u8]>) -> Reading {
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
    read_cut_with(Chunked::strict(), bytes).0
}

fn read_cut_with(fresh: Chunked, bytes: &[u8]) -> (Reading, Oddities) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut chunked = fresh;
        let reading = read_with(&mut chunked, pieces);
        (reading, chunked.oddities())
    };
    let whole = read(&mut [bytes].into_iter());
    for at in 0..=bytes.len() {
        let (before, after) = bytes.split_at(at);
        let cut = read(&mut [before, after].into_iter());
        assert_eq!(cut, whole, "{} cut at {at}", bytes.escape_ascii());
    }
    let by_byte = read(&mut bytes.chunks(1));
    assert_eq!(by_byte, whole, "{} byte by byte", bytes.escape_ascii());
    whole
}

/// A body, its payload, and how many bytes follow it.
#[rustfmt::skip]
const VALID: &[(&[u8], &[u8], usize)] = &[
    (b"0\r\n\r\n", b"", 0),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", 0),
    (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /", b"hello world", 5),
    (b"0000000000000005\r\nhello\r\n000\r\n\r\n", b"hello", 0),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", 0),
    (b"10\r\n0123456789abcdef\r\n0\r\n\r\n", b"0123456789abcdef", 0),
    (b"4\r\n\r\n\r\n\r\n0\r\n\r\n\r\n", b"\r\n\r\n", 2),
    (b"5;a\r\nhello\r\n0;b=\"c d\"\r\n\r\n", b"hello", 0),
    (b"5 \t; a = b;c\r\nhello\r\n0\r\n\r\n", b"hello", 0),
    (b"5;a=\"b;c\\\"\\\\\xff\t\";d\r\nhello\r\n0;a=b;c\r\n\r\n", b"hello", 0),
    (b"5;a\t;b =\t\"\" ; c=d\r\nhello\r\n0\r\n\r\n", b"hello", 0),
    (b"00000000000000000000000000000000000005\r\nhello\r\n00000000000000000000\r\n\r\n", b"hello", 0),
    (b"0\r\nA: b\r\nC-d:\r\nContent-Length: 9\r\n\r\nxyz", b"", 3),
    (b"1\r\nx\r\n0\r\nA: \tb\xff \r\n\r\n", b"x", 0),
];

#[rustfmt::skip]
const MALFORMED: &[(Malformed, &[&[u8]])] = &[
    (Malformed::ChunkSize, &[
        b"\r\n", b"\n", b" 5\r\n", b";a\r\n", b"g\r\n", b"-1\r\n", b"+1\r\n", b"0x5\r\n", b"5g\r\n", b"5,5\r\n", b"5.\r\n",
        b"5\n", b"5\0\r\n", b"10000000000000000\r\n", b"00010000000000000000\r\n", b"5\r\nhello\r\n\r\n",
    ]),
    (Malformed::ChunkExtension, &[
        b"5 \r\n", b"5 5\r\n", b"5;a\nhello", b"5;\0\r\n", b"5;\x7f\r\n", b"5;\xff\r\n", b"5;\r\n", b"5;;\r\n", b"5; \r\n", b"5;a;\r\n",
        b"5;=x\r\n", b"5;a=\r\n", b"5;a=;b\r\n", b"5;bad[=x\r\n", b"5;a=b[\r\n", b"5;a=b=c\r\n", b"5;a b\r\n", b"5;a=b c\r\n",
        b"5;a \r\n", b"5;a=b \r\n", b"5;a=\"b\r\n", b"5;a=\"b\\\r\n", b"5;a=\"b\"c\r\n", b"5;a=\"b\" \r\n", b"5;a=\"\x01\"\r\n",
        b"5;a=\"\n\"\r\n", b"5;\"a\"\r\n",
    ]),
    (Malformed::LineEnd, &[b"5\rhello", b"5\r\r\n", b"5;a\rhello"]),
    (Malformed::ChunkEnd, &[
        b"5\r\nhello0\r\n", b"5\r\nhello!\r\n", b"5\r\nhello\n0\r\n", b"5\r\nhello\r0\r\n", b"5\r\nhello\r\r\n",
    ]),
    (Malformed::Trailer, &[
        b"0\r\n\n", b"0\r\n\rx", b"0\r\n0\r\n\r\n", b"0\r\n: a\r\n", b"0\r\n a: b\r\n", b"0\r\na : b\r\n", b"0\r\na: b\r\n c\r\n",
        b"0\r\na: b\n", b"0\r\na: b\rc", b"0\r\na: \0\r\n", b"0\r\na: \x7f\r\n", b"0\r\na\r\n", b"0\r\na: b\r\n\n",
    ]),
];

/// What user agents tolerate: a body, its payload, and what is odd about it.
#[rustfmt::skip]
const ODD: &[(&[u8], &[u8], &[Oddity])] = &[
    (b" 5\r\nhello\r\n\t0\r\n\r\n", b"hello", &[Oddity::ChunkWhitespace]),
    (b"5 \r\nhello\r\n0\t \r\n\r\n", b"hello", &[Oddity::ChunkWhitespace]),
    (b"5 ;a\r\nhello\r\n0\r\n\r\n", b"hello", &[]),
    (b"5;\r\nhello\r\n0;bad[=\"\r\n\r\n", b"hello", &[]),
    (b"5\nhello\r\n0\r\n\r\n", b"hello", &[Oddity::BareLf]),
    (b"5;a\nhello\r\n0\r\n\r\n", b"hello", &[Oddity::BareLf]),
    (b"5\r\nhello\n0\r\n\r\n", b"hello", &[Oddity::BareLf]),
    (b"5\r\nhello\r\n0\n\r\n", b"hello", &[Oddity::BareLf]),
    (b"5\r\nhello\r\n0\r\n\n", b"hello", &[Oddity::BareLf]),
    (b"5\nhello\n0\nA: b\n\n", b"hello", &[Oddity::BareLf]),
    (b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n", b"hello", &[Oddity::FoldedLine]),
    (b"05\r\nhello\r\n0\r\n\r\n", b"hello", &[Oddity::LeadingZeros]),
    (b"5\r\nhello\r\n00\r\n\r\n", b"hello", &[Oddity::LeadingZeros]),
    (b" 05 \nhello\n0\n\n", b"hello", &[Oddity::BareLf, Oddity::ChunkWhitespace, Oddity::LeadingZeros]),
];

/// What user agents do not tolerate either.
#[rustfmt::skip]
const MALFORMED_FOR_ALL: &[&[u8]] = &[
    b"\r\n", b"\n", b";a\r\n", b"g\r\n", b"5g\r\n", b"5 5\r\n", b"5\rhello", b"5;\0\r\n", b"10000000000000000\r\n",
    b"5\r\nhello0\r\n", b"5\r\nhello\r0\r\n", b"5\r\nhello \r\n", b"0\r\n a: b\r\n", b"0\r\n\rx", b"0\r\na: b\rc", b"0\r\na\r\n",
];

#[test]
fn valid_bodies_are_read_however_cut() {
    for (bytes, payload, rest) in VALID {
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
fn malformed_bodies_are_refused_with_their_rule_however_cut() {
    for (rule, bodies) in MALFORMED {
        for bytes in *bodies {
            assert_eq!(read_cut(bytes), Err(*rule), "{}", bytes.escape_ascii());
        }
    }
    for bytes in MALFORMED_FOR_ALL {
        let (reading, _) = read_cut_with(Chunked::tolerant(), bytes);
        assert!(reading.is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn odd_bodies_are_read_and_their_oddities_noted() {
    for (bytes, payload, odd) in ODD {
        let (reading, oddities) = read_cut_with(Chunked::tolerant(), bytes);
        let text = bytes.escape_ascii();
        assert_eq!(reading, Ok((payload.to_vec(), bytes.len(), true)), "{text}");
        assert!(
            oddities.iter().eq(odd.iter().copied()),
            "{text}: {oddities:?}"
        );
        let is_grammatical = odd.iter().all(|oddity| *oddity == Oddity::LeadingZeros);
        if !is_grammatical {
            assert!(read_cut(bytes).is_err(), "{text}");
        }
    }
    // Whatever is valid is read alike, and is not odd but for leading zeros.
    for (bytes, payload, rest) in VALID {
        let (reading, oddities) = read_cut_with(Chunked::tolerant(), bytes);
        assert_eq!(reading, Ok((payload.to_vec(), bytes.len() - rest, true)));
        assert!(oddities.iter().all(|oddity| oddity == Oddity::LeadingZeros));
    }
}

#[test]
fn nothing_follows_the_end_or_an_error() {
    let mut chunked = Chunked::default();
    assert!(chunked.step(b"0\r\n\r\n").unwrap().is_done);
    let after = chunked.step(b"5\r\nhello").unwrap();
    assert_eq!((after.used, after.data, after.is_done), (0, 0..0, true));

    let mut chunked = Chunked::default();
    assert_eq!(chunked.step(b"x"), Err(Malformed::ChunkSize));
    assert_eq!(chunked.step(b"0\r\n\r\n"), Err(Malformed::ChunkSize));
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
    assert_eq!(chunked.step(b"ffffffffffffffff").unwrap().used, 16);
    assert_eq!(chunked.chunk_bytes_left(), 0);
    assert_eq!(chunked.step(b"\r\n").unwrap().used, 2);
    assert_eq!(chunked.chunk_bytes_left(), u64::MAX);
    let piece = vec![b'x'; 1 << 20];
    for count in 1..=100 {
        let step = chunked.step(&piece).unwrap();
        assert_eq!((step.used, step.data), (piece.len(), 0..piece.len()));
        assert_eq!(chunked.chunk_bytes_left(), u64::MAX - (count << 20));
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
    let zeros = |bytes: usize| read([&[&vec![b'0'; bytes][..], b"\r\n\r\n"].concat()[..]]);
    assert!(zeros(line_bytes_max).unwrap().2);
    assert_eq!(zeros(line_bytes_max + 1), Err(Malformed::ChunkLine));
    let gap = [&b"5"[..], &vec![b' '; line_bytes_max], b"\r\nhello\r\n"].concat();
    let mut tolerant = Chunked::tolerant();
    assert_eq!(tolerant.step(&gap), Err(Malformed::ChunkLine));
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
fn encoded_payload_is_decoded_however_cut() {
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
fn random_bytes_never_panic_nor_depend_on_cuts() {
    let mut random = Random::new(0x7370_6f69_6c74_2121);
    for _ in 0..6_000 {
        let row = match random.below(4) {
            0 => {
                let rows = random.choose(MALFORMED).1;
                random.choose(rows)
            }
            1 => random.choose(ODD).0,
            _ => random.choose(VALID).0,
        };
        let bytes = random.spoil(row);
        let strict = read_cut(&bytes);
        let (tolerant, _) = read_cut_with(Chunked::tolerant(), &bytes);
        if let Ok((payload, used, _)) = &strict {
            assert!(payload.len() <= *used && *used <= bytes.len());
            assert_eq!(tolerant, strict, "valid is read alike");
        }
    }
}
