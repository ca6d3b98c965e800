//! Server names: messages built by hand, cut into records and pieces everywhere, and random ones
//! read by another implementation (`tls-parser`).
//!
//! Must not depend on: how the parser works.
#![forbid(unsafe_code)]

mod common;

use common::{Random, read_cut};
use holdfast_l4::ParseError;
use holdfast_l4::client_hello::{BYTES_MAX, HelloError, ServerName, server_name};

type Reading = Result<Option<String>, ParseError<HelloError>>;

fn text(name: Result<Option<ServerName>, ParseError<HelloError>>) -> Reading {
    name.map(|name| name.map(|name| name.to_string()))
}

/// Reads `bytes` cut everywhere.
fn read(bytes: &[u8]) -> Reading {
    text(read_cut(bytes, server_name))
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(data)].concat()
}

/// An extension server_name with one host name.
fn host(name: &[u8]) -> Vec<u8> {
    extension(0, &vector(&[&[0][..], &vector(name)].concat()))
}

/// A ClientHello, without a record around it.
fn hello(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([&[32][..], &[9; 32]].concat());
    body.extend(vector(&[0x0a, 0x0a, 0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(extensions.map(vector).unwrap_or_default());
    message(&body)
}

fn message(body: &[u8]) -> Vec<u8> {
    [&[1][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// Records with these lengths, the last one with the rest.
fn records(message: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = message;
    for length in lengths.iter().copied().chain([usize::MAX]) {
        let (payload, after) = rest.split_at(length.min(rest.len()));
        if !payload.is_empty() {
            bytes.extend([22, 3, 1]);
            bytes.extend(vector(payload));
        }
        rest = after;
    }
    bytes
}

fn whole(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&hello(Some(&extensions.concat())), &[])
}

fn grease() -> Vec<u8> {
    extension(0x1a1a, &[0])
}

#[test]
fn names_are_found() {
    let padding = extension(21, &[0; 200]);
    for (extensions, expected) in [
        (vec![host(b"example.org")], Some("example.org")),
        (
            vec![grease(), host(b"Example.ORG"), padding],
            Some("example.org"),
        ),
        (
            vec![
                grease(),
                extension(0xfe0d, &[0; 120]),
                host(b"public.example"),
            ],
            Some("public.example"),
        ),
        (vec![host(b"_a-b.c1.example.")], Some("_a-b.c1.example.")),
        (vec![host(&[b'a'; 255])], Some(&*"a".repeat(255))),
        (vec![grease()], None),
        (vec![], None),
        (vec![host(b"192.0.2.1")], None),
        (vec![host(b"2001:db8::1")], None),
        (vec![host(b"1.example")], Some("1.example")),
    ] {
        let bytes = [whole(&extensions), b"early data".to_vec()].concat();
        assert_eq!(read(&bytes), Ok(expected.map(String::from)));
    }
    assert_eq!(
        read(&records(&hello(None), &[])),
        Ok(None),
        "no extensions at all"
    );
}

/// A name of a type that is yet to be defined is passed over.
#[test]
fn other_types_of_names_are_ignored() {
    let other = [&[5][..], &vector(b"\0\xff")].concat();
    let name = [&[0][..], &vector(b"example.org")].concat();
    let both = extension(0, &vector(&[other.clone(), name].concat()));
    assert_eq!(read(&whole(&[both])), Ok(Some("example.org".into())));
    let only = extension(0, &vector(&other));
    assert_eq!(read(&whole(&[only])), Ok(None));
}

#[test]
fn records_may_cut_the_message_anywhere() {
    let message = hello(Some(&[grease(), host(b"example.org"), grease()].concat()));
    let expected = Ok(Some("example.org".into()));
    for first in 1..message.len() {
        assert_eq!(read(&records(&message, &[first])), expected, "{first}");
        let bytes = records(&message, &[first, 1]);
        assert_eq!(text(server_name(&bytes)), expected, "{first} and 1");
    }
    let single = vec![1; message.len()];
    assert_eq!(read(&records(&message, &single)), expected, "byte by byte");
}

#[test]
fn names_that_no_host_has_are_refused() {
    for name in [
        &b""[..],
        b"a b",
        b"a\0b",
        b"\xff",
        b"a/b",
        b"*.example.org",
        &[b'a'; 256],
    ] {
        let bytes = whole(&[host(name)]);
        assert_eq!(read(&bytes), Err(HelloError::ServerName.into()), "{name:?}");
    }
    let name = [&[0][..], &vector(b"example.org")].concat();
    for (data, what) in [
        (vec![], "empty extension"),
        (vector(&[]), "empty list"),
        (
            vector(&[name.clone(), name.clone()].concat()),
            "two host names",
        ),
        ([vector(&name), vec![0]].concat(), "bytes behind the list"),
        (
            vector(&name[..name.len() - 1]),
            "a name longer than the list",
        ),
        (vector(&[&name[..], &[0]].concat()), "half an entry"),
    ] {
        let bytes = whole(&[extension(0, &data)]);
        assert_eq!(read(&bytes), Err(HelloError::ServerName.into()), "{what}");
    }
    let twice = whole(&[host(b"a"), host(b"a")]);
    assert_eq!(
        read(&twice),
        Err(HelloError::ServerName.into()),
        "two extensions"
    );
}

#[test]
fn what_is_no_client_hello_is_refused_at_once() {
    for (bytes, error) in [
        (&b"GET / HTTP/1.1\r\n"[..], HelloError::NotTls),
        (b"SSH-2.0-OpenSSH", HelloError::NotTls),
        (b"\x80\x2e\x01\x03\x01", HelloError::NotTls), // SSL 2.0
        (b"\x15\x03\x01\x00\x02\x01\x00", HelloError::NotTls),
        (b"\x16\x02\x00", HelloError::NotTls),
        (b"\x16\x03\x01\x00\x00", HelloError::Record),
        (b"\x16\x03\x01\x40\x01", HelloError::Record),
        (b"\x16\x03\x01\x00\x04\x02", HelloError::NotClientHello),
        (b"\x16\x03\x01\x00\x04\x01\x00\x40\x00", HelloError::TooLong),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", HelloError::TooLong),
        (b"\x16\x03\x01\x00\x01\x01\x14\x03", HelloError::Record),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", HelloError::Message),
    ] {
        assert_eq!(read(bytes), Err(error.into()), "{bytes:x?}");
        if error != HelloError::Message {
            assert_eq!(text(server_name(&bytes[..0])), Err(ParseError::Incomplete));
        }
    }
}

#[test]
fn malformed_messages_are_refused() {
    let good = hello(Some(&host(b"a.example")));
    let body = &good[4..];
    // Lengths: session id, cipher suites, compression methods, extensions.
    for (at, value) in [
        (34, 33),
        (34, 255),
        (68, 3),
        (68, 0),
        (73, 0),
        (73, 9),
        (76, 0),
        (76, 255),
    ] {
        let mut body = body.to_vec();
        body[at] = value;
        let bytes = records(&message(&body), &[]);
        assert_eq!(
            read(&bytes),
            Err(HelloError::Message.into()),
            "{at}: {value}"
        );
    }
    for length in 0..body.len() {
        let result = read(&records(&message(&body[..length]), &[]));
        // Without extensions it is a ClientHello of old.
        match length == body.len() - vector(&host(b"a.example")).len() {
            true => assert_eq!(result, Ok(None)),
            false => assert_eq!(result, Err(HelloError::Message.into()), "{length}"),
        }
    }
    let longer = [body, b"x"].concat();
    let bytes = records(&message(&longer), &[]);
    assert_eq!(read(&bytes), Err(HelloError::Message.into()));
}

/// Record headers count too: a message in records of one byte may not take six times the limit.
#[test]
fn size_is_bounded() {
    let filler = |length: usize| [host(b"a.example"), extension(21, &vec![0; length])].concat();
    let longest = hello(Some(&filler(BYTES_MAX - 200)));
    assert_eq!(
        text(server_name(&records(&longest, &[]))),
        Ok(Some("a.example".into()))
    );
    let cut = records(&longest, &vec![1; longest.len()]);
    assert_eq!(text(server_name(&cut)), Err(HelloError::TooLong.into()));
    assert_eq!(
        text(server_name(&cut[..BYTES_MAX])),
        Err(HelloError::TooLong.into())
    );
    assert_eq!(
        text(server_name(&cut[..BYTES_MAX - 1])),
        Err(ParseError::Incomplete)
    );
}

/// Host names that `tls-parser` finds in a message.
fn by_tls_parser(message: &[u8]) -> Option<Vec<String>> {
    use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};
    let (_, parsed) = tls_parser::parse_tls_message_handshake(message).ok()?;
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = parsed else {
        return None;
    };
    let (_, extensions) = tls_parser::parse_tls_extensions(hello.ext.unwrap_or_default()).ok()?;
    let names = extensions
        .into_iter()
        .filter_map(|extension| match extension {
            TlsExtension::SNI(names) => Some(names),
            _ => None,
        });
    let hosts = names.flatten().filter(|(kind, _)| kind.0 == 0);
    Some(
        hosts
            .map(|(_, name)| String::from_utf8_lossy(name).to_ascii_lowercase())
            .collect(),
    )
}

#[test]
fn random_messages_are_read_as_by_tls_parser() {
    let mut random = Random::new(0x7365_7276_6572);
    let mut found = 0;
    for _ in 0..4_000 {
        let name: Vec<u8> = (0..1 + random.below(30))
            .map(|_| *random.choose(b"abcXYZ019-_."))
            .collect();
        let mut extensions = vec![
            grease(),
            extension(43, &[2, 3, 4]),
            extension(21, &vec![0; random.below(30)]),
        ];
        extensions.insert(random.below(4), host(&name));
        let message = hello(Some(&extensions.concat()));
        let message = match random.below(3) {
            0 => random.spoil(&message),
            _ => message,
        };
        let lengths: Vec<usize> = (0..random.below(4)).map(|_| 1 + random.below(60)).collect();
        let bytes = records(&message, &lengths);
        if let Ok(name) = read(&bytes) {
            let names = by_tls_parser(&message).expect("valid too");
            match name {
                Some(name) => {
                    assert_eq!(names, [name]);
                    found += 1;
                }
                None => assert!(
                    names.iter().all(
                        |name| name.contains(':') || name.parse::<std::net::Ipv4Addr>().is_ok()
                    ),
                    "{names:?}"
                ),
            }
        }
    }
    assert!(found > 2_000, "{found}");
}
