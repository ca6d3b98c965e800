//! PROXY headers: examples of proxy-protocol.txt, broken ones, and random ones read by another
//! implementation (`ppp`), each cut everywhere.
//!
//! Must not depend on: how the parser works.
#![forbid(unsafe_code)]

mod common;

use std::net::{IpAddr, SocketAddr};

use common::{Random, read_cut};
use holdfast_l4::ParseError;
use holdfast_l4::proxy::{
    Addresses, BufferTooSmall, Command, HEADER_BYTES_MAX, HeaderError, Parsed, TCP_BYTES_MAX, Tlv,
    Transport, V1_BYTES_MAX, V2_SIGNATURE, Version, parse, tlv_type, write_v1, write_v2,
};

/// Reads `bytes` cut everywhere.
fn read(bytes: &[u8]) -> Result<Parsed<'_>, ParseError<HeaderError>> {
    read_cut(bytes, parse)
}

fn tcp(source: &str, destination: &str) -> Addresses<'static> {
    Addresses::tcp(source.parse().unwrap(), destination.parse().unwrap())
}

/// A binary header with these bytes behind the signature, its length filled in.
fn binary(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = V2_SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend((content.len() as u16).to_be_bytes());
    bytes.extend(content);
    bytes
}

#[test]
fn lines_of_the_specification() {
    let lines: &[(&str, Addresses)] = &[
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            tcp("192.168.0.1:56324", "192.168.0.11:443"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            tcp("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            tcp(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
        ),
        (
            "PROXY TCP6 ::1 2001:db8::2 0 80\r\n",
            tcp("[::1]:0", "[2001:db8::2]:80"),
        ),
        ("PROXY UNKNOWN\r\n", Addresses::Unspecified),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Addresses::Unspecified,
        ),
    ];
    for (line, addresses) in lines {
        let bytes = [line.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
        let parsed = read(&bytes).expect(line);
        assert_eq!(parsed.length, line.len());
        assert_eq!(parsed.header.version, Version::V1);
        assert_eq!(parsed.header.command, Command::Proxy);
        assert_eq!(parsed.header.addresses, *addresses, "{line}");
        assert_eq!(parsed.header.tlvs.count(), 0);
    }
    assert_eq!(lines[5].0.len(), V1_BYTES_MAX);
}

#[test]
fn malformed_lines_are_refused() {
    use HeaderError::{Address, Line, Signature, TooLong};
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    let lines: &[(&str, HeaderError)] = &[
        ("GET / HTTP/1.1\r\n", Signature),
        ("proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Signature),
        ("PROXYTCP4 1.1.1.1 2.2.2.2 1 2\r\n", Signature),
        ("PROXY\tTCP4 1.1.1.1 2.2.2.2 1 2\r\n", Signature),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", Line),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", Line),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", Line),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", Line),
        ("PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Line),
        ("PROXY TCP4 1.1.1.1 2.2.2.2  1 2\r\n", Line),
        ("PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", Line),
        ("PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", Line),
        ("PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n", Line),
        ("PROXY \r\n", Line),
        ("PROXY UNKNOWNS\r\n", Line),
        ("PROXY UNKNOWN\n", Line),
        ("PROXY TCP4 \u{e9} 2.2.2.2 1 2\r\n", Address),
        ("PROXY TCP4 ::1 ::2 1 2\r\n", Address),
        ("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", Address),
        ("PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n", Address),
        ("PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n", Address),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", Address),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n", Address),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", Address),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\r\n", Address),
        (&long, TooLong),
    ];
    for (line, error) in lines {
        assert_eq!(read(line.as_bytes()), Err((*error).into()), "{line}");
    }
    let endless = b"PROXY UNKNOWN".repeat(100);
    assert_eq!(
        parse(&endless[..V1_BYTES_MAX - 1]),
        Err(ParseError::Incomplete)
    );
    assert_eq!(parse(&endless), Err(TooLong.into()));
}

#[test]
fn binary_headers_of_each_family() {
    let inet4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
    let mut inet6 = [0; 36];
    inet6[15] = 1;
    inet6[31] = 2;
    inet6[32..].copy_from_slice(&[0, 80, 1, 187]);
    let mut unix = [0; 216];
    unix[..4].copy_from_slice(b"/run");
    unix[108..112].copy_from_slice(b"/var");
    for (transport, low) in [(Transport::Stream, 1), (Transport::Datagram, 2)] {
        let inet = |source: &str, destination: &str| Addresses::Inet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            transport,
        };
        let paths = Addresses::Unix {
            source: unix[..108].try_into().unwrap(),
            destination: unix[108..].try_into().unwrap(),
            transport,
        };
        let families: [(u8, &[u8], Addresses); 3] = [
            (0x10, &inet4, inet("192.0.2.1:56324", "198.51.100.2:443")),
            (0x20, &inet6, inet("[::1]:80", "[::2]:187")),
            (0x30, &unix, paths),
        ];
        for (family, content, addresses) in families {
            let header = binary(0x21, family | low, content);
            let mut bytes = header.clone();
            bytes.extend(b"data");
            let parsed = read(&bytes).expect("valid");
            let addresses = match addresses {
                Addresses::Inet {
                    source,
                    destination,
                    ..
                } if family == 0x20 => Addresses::Inet {
                    source,
                    destination: SocketAddr::new(destination.ip(), 443),
                    transport,
                },
                addresses => addresses,
            };
            assert_eq!(parsed.length, header.len());
            assert_eq!(parsed.header.command, Command::Proxy);
            assert_eq!(parsed.header.addresses, addresses, "{family:x}");

            let short = binary(0x21, family | low, &content[..content.len() - 1]);
            assert_eq!(read(&short), Err(HeaderError::Length.into()));
        }
    }
}

/// Behind LOCAL and UNSPEC whatever else the header has is skipped, not read.
#[test]
fn local_and_unspecified_tell_no_address() {
    let garbage = [0xff; 50];
    for (command, family, meant) in [
        (0x20, 0x00, Command::Local),
        (0x20, 0x11, Command::Local),
        (0x20, 0xff, Command::Local),
        (0x21, 0x00, Command::Proxy),
    ] {
        for content in [&garbage[..], &[]] {
            let bytes = binary(command, family, content);
            let parsed = read(&bytes).expect("valid");
            assert_eq!(parsed.length, bytes.len());
            assert_eq!(parsed.header.command, meant);
            assert_eq!(parsed.header.addresses, Addresses::Unspecified);
            assert_eq!(parsed.header.tlvs.count(), 0);
        }
    }
}

#[test]
fn malformed_binary_headers_are_refused() {
    let content = [1; 12];
    for (command, family, error) in [
        (0x11, 0x11, HeaderError::Version),
        (0x31, 0x11, HeaderError::Version),
        (0x01, 0x11, HeaderError::Version),
        (0x22, 0x11, HeaderError::Command),
        (0x2f, 0x11, HeaderError::Command),
        (0x21, 0x01, HeaderError::Family),
        (0x21, 0x10, HeaderError::Family),
        (0x21, 0x13, HeaderError::Family),
        (0x21, 0x41, HeaderError::Family),
    ] {
        let bytes = binary(command, family, &content);
        assert_eq!(read(&bytes), Err(error.into()), "{command:x} {family:x}");
    }
    let mut bytes = binary(0x21, 0x11, &content);
    bytes[11] = b'\r';
    assert_eq!(read(&bytes), Err(HeaderError::Signature.into()));
    // Refused when its length is known, before as many bytes were kept.
    let long = binary(0x21, 0x11, &[0; HEADER_BYTES_MAX - 15]);
    assert_eq!(parse(&long[..16]), Err(HeaderError::TooLong.into()));
    let longest = binary(0x20, 0x00, &[0; HEADER_BYTES_MAX - 16]);
    assert_eq!(read(&longest).expect("valid").length, HEADER_BYTES_MAX);
}

#[test]
fn tlvs_and_checksums() {
    let addresses = tcp("192.0.2.1:1", "192.0.2.2:2");
    let tlvs = [
        Tlv {
            kind: 0x01,
            value: b"h2",
        },
        Tlv {
            kind: 0x02,
            value: b"example.org",
        },
        Tlv {
            kind: tlv_type::CRC32C,
            value: &[1, 2, 3, 4],
        },
        Tlv {
            kind: tlv_type::NOOP,
            value: b"",
        },
        Tlv {
            kind: 0xea,
            value: &[0; 300],
        },
    ];
    let mut buffer = [0; HEADER_BYTES_MAX];
    for with_checksum in [false, true] {
        let length = write_v2(&mut buffer, Command::Proxy, &addresses, tlvs, with_checksum);
        let bytes = buffer[..length.expect("room")].to_vec();
        let parsed = read(&bytes).expect("valid");
        assert_eq!(parsed.header.addresses, addresses);
        // The old checksum held for another header.
        let kept: Vec<Tlv> = tlvs
            .into_iter()
            .filter(|tlv| tlv.kind != tlv_type::CRC32C)
            .collect();
        let read_back: Vec<Tlv> = parsed.header.tlvs.collect();
        assert_eq!(read_back[..kept.len()], kept);
        assert_eq!(read_back.len() - kept.len(), usize::from(with_checksum));
        // Passed on once more, the header stays as it is.
        let mut again = [0; HEADER_BYTES_MAX];
        let length = write_v2(
            &mut again,
            Command::Proxy,
            &addresses,
            parsed.header.tlvs,
            with_checksum,
        );
        assert_eq!(&again[..length.unwrap()], bytes);

        if with_checksum {
            for at in 16..bytes.len() {
                let mut wrong = bytes.clone();
                wrong[at] ^= 0x40;
                let result = parse(&wrong);
                assert!(
                    result != Ok(parsed)
                        && !matches!(result, Ok(p) if p.header.tlvs.last().is_some_and(|tlv| tlv.kind == tlv_type::CRC32C)),
                    "byte {at} is not covered"
                );
            }
        }
    }
}

#[test]
fn malformed_tlvs_are_refused() {
    let with = |tlvs: &[u8]| binary(0x21, 0x11, &[&[1; 12], tlvs].concat());
    for (tlvs, error) in [
        (&[4][..], HeaderError::Tlv),
        (&[4, 0], HeaderError::Tlv),
        (&[4, 0, 1], HeaderError::Tlv),
        (&[4, 0, 1, 9, 4], HeaderError::Tlv),
        (&[4, 255, 255, 0], HeaderError::Tlv),
        (&[3, 0, 4, 0, 0, 0, 0], HeaderError::Checksum),
        (&[3, 0, 0], HeaderError::Checksum),
        (&[3, 0, 5, 0, 0, 0, 0, 0], HeaderError::Checksum),
    ] {
        assert_eq!(read(&with(tlvs)), Err(error.into()), "{tlvs:x?}");
    }
    assert!(read(&with(&[4, 0, 0, 4, 0, 1, 0])).is_ok());
}

#[test]
fn written_headers_fit_and_are_exact() {
    let mut buffer = [0; TCP_BYTES_MAX];
    let line = |addresses: &Addresses| {
        let mut buffer = [0; V1_BYTES_MAX];
        let length = write_v1(&mut buffer, addresses).expect("room");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(
        line(&tcp("192.0.2.1:56324", "198.51.100.2:443")),
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
    );
    assert_eq!(
        line(&tcp("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")),
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    );
    assert_eq!(
        line(&tcp("192.0.2.1:1", "[2001:db8::1]:2")),
        "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n"
    );
    assert_eq!(line(&Addresses::Unspecified), "PROXY UNKNOWN\r\n");

    let local = write_v2(
        &mut buffer,
        Command::Local,
        &tcp("192.0.2.1:1", "192.0.2.2:2"),
        [],
        true,
    );
    assert_eq!(buffer[..local.unwrap()], binary(0x20, 0, &[]));
    let inet4 = write_v2(
        &mut buffer,
        Command::Proxy,
        &tcp("192.0.2.1:1", "192.0.2.2:258"),
        [],
        false,
    );
    assert_eq!(
        buffer[..inet4.unwrap()],
        binary(0x21, 0x11, &[192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 1, 2])
    );
    let widest = tcp(
        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        "[ffff::ffff]:65535",
    );
    let inet6 = write_v2(&mut buffer, Command::Proxy, &widest, [], true).expect("room");
    assert_eq!(inet6, 16 + 36 + 7);
    for room in 0..inet6 {
        let result = write_v2(&mut buffer[..room], Command::Proxy, &widest, [], true);
        assert_eq!(result, Err(BufferTooSmall));
    }
    let tlv = Tlv {
        kind: 0xe0,
        value: &[0; HEADER_BYTES_MAX],
    };
    let mut large = [0; 2 * HEADER_BYTES_MAX];
    let result = write_v2(&mut large, Command::Proxy, &widest, [tlv], false);
    assert_eq!(result, Err(BufferTooSmall));
}

fn random_address(random: &mut Random, is_ipv4: bool) -> SocketAddr {
    let mut octets = [0; 16];
    // Few bits are set in some, so that text is shortened in all ways.
    let mask = random.next() as u8;
    octets.fill_with(|| random.next() as u8 & mask & random.next() as u8);
    let ip: IpAddr = match is_ipv4 {
        true => <[u8; 4]>::try_from(&octets[..4]).unwrap().into(),
        false => octets.into(),
    };
    SocketAddr::new(ip, random.next() as u16)
}

/// Addresses as `ppp` reads them from a header that this crate accepted.
fn by_ppp(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    use ppp::{HeaderResult, v1, v2};
    let of = |source: IpAddr, destination: IpAddr, ports: (u16, u16)| {
        Some((
            SocketAddr::new(source, ports.0),
            SocketAddr::new(destination, ports.1),
        ))
    };
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(header) => match header.expect("valid too").addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(a) => of(
                a.source_address.into(),
                a.destination_address.into(),
                (a.source_port, a.destination_port),
            ),
            v1::Addresses::Tcp6(a) => of(
                a.source_address.into(),
                a.destination_address.into(),
                (a.source_port, a.destination_port),
            ),
        },
        HeaderResult::V2(header) => match header.expect("valid too").addresses {
            v2::Addresses::IPv4(a) => of(
                a.source_address.into(),
                a.destination_address.into(),
                (a.source_port, a.destination_port),
            ),
            v2::Addresses::IPv6(a) => of(
                a.source_address.into(),
                a.destination_address.into(),
                (a.source_port, a.destination_port),
            ),
            _ => None,
        },
    }
}

#[test]
fn random_headers_are_read_as_by_ppp() {
    let mut random = Random::new(0x0070_726f_7879);
    for round in 0..3_000 {
        let is_ipv4 = round % 2 == 0;
        let source = random_address(&mut random, is_ipv4);
        let destination = random_address(&mut random, is_ipv4);
        // Not `tcp`: mapped addresses stay as they are.
        let addresses = Addresses::Inet {
            source,
            destination,
            transport: Transport::Stream,
        };
        let canonical = Addresses::tcp(source, destination);
        let mut buffer = [0; HEADER_BYTES_MAX];
        let tlv = Tlv {
            kind: 0xe0 + random.below(8) as u8,
            value: &[7; 40][..random.below(40)],
        };
        let length = match round % 4 / 2 {
            0 => write_v1(&mut buffer, &addresses),
            _ => write_v2(
                &mut buffer,
                Command::Proxy,
                &addresses,
                [tlv],
                round % 3 == 0,
            ),
        };
        let bytes = &buffer[..length.expect("room")];
        let parsed = read(bytes).expect("valid");
        assert_eq!(parsed.header.addresses, canonical);
        assert_eq!(parsed.length, bytes.len());
        let Addresses::Inet {
            source,
            destination,
            ..
        } = canonical
        else {
            unreachable!()
        };
        assert_eq!(
            by_ppp(bytes),
            Some((source, destination)),
            "{}",
            bytes.escape_ascii()
        );

        let spoilt = random.spoil(bytes);
        if let Ok(parsed) = read(&spoilt) {
            let told = match (parsed.header.command, parsed.header.addresses) {
                (
                    Command::Proxy,
                    Addresses::Inet {
                        source,
                        destination,
                        ..
                    },
                ) => Some((source, destination)),
                _ => continue,
            };
            assert_eq!(by_ppp(&spoilt), told, "{}", spoilt.escape_ascii());
        }
    }
}
