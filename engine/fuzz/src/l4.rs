//! What a relay reads before it knows where to: PROXY headers and ClientHellos; cut anywhere, and
//! as other implementations (`ppp`, `tls-parser`) read them.
//!
//! These are more tolerant: what they accept and we refuse says nothing.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use holdfast_l4::ParseError;
use holdfast_l4::client_hello::{HelloError, ServerName, server_name};
use holdfast_l4::proxy::{
    self, Addresses, Command, HEADER_BYTES_MAX, Header, Tlv, Transport, Version, tlv_type,
    write_v1, write_v2,
};

use crate::input::{options, pieces, read_cut};

fn read<T: PartialEq + Debug, E: PartialEq + Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, ParseError<E>>,
) -> Result<T, ParseError<E>> {
    read_cut(bytes, parse, |said| *said == Err(ParseError::Incomplete))
}

/// PROXY headers of both versions: what is read is written, and read back equal.
pub fn proxy(data: &[u8]) {
    let Some((option, bytes)) = options(data) else {
        return;
    };
    // Borrowed addresses differ with the cut, so the header's text is compared.
    let said = read(&bytes, |bytes| {
        proxy::parse(bytes).map(|parsed| (format!("{:?}", parsed.header), parsed.length))
    });
    let Ok((_, length)) = said else {
        return;
    };
    let header = proxy::parse(&bytes).expect("read before").header;
    assert!(length <= HEADER_BYTES_MAX && length <= bytes.len());
    check_ppp(&bytes[..length], &header);
    check_written(&header, option & 1 == 1);
}

fn check_ppp(bytes: &[u8], header: &Header) {
    let told = match header.addresses {
        Addresses::Inet {
            source,
            destination,
            ..
        } => Some((source, destination)),
        Addresses::Unspecified | Addresses::Unix { .. } => None,
    };
    let of = |source: IpAddr, destination: IpAddr, ports: (u16, u16)| {
        let source = SocketAddr::new(source, ports.0);
        Some((source, SocketAddr::new(destination, ports.1)))
    };
    let by_ppp = match header.version {
        // What follows UNKNOWN need not be text, which `ppp` wants.
        Version::V1 if told.is_none() => None,
        Version::V1 => {
            match ppp::v1::Header::try_from(bytes)
                .expect("valid too")
                .addresses
            {
                ppp::v1::Addresses::Unknown => None,
                ppp::v1::Addresses::Tcp4(a) => of(
                    a.source_address.into(),
                    a.destination_address.into(),
                    (a.source_port, a.destination_port),
                ),
                ppp::v1::Addresses::Tcp6(a) => of(
                    a.source_address.into(),
                    a.destination_address.into(),
                    (a.source_port, a.destination_port),
                ),
            }
        }
        // Behind LOCAL `ppp` wants a family, which the specification says is ignored.
        Version::V2 if header.command == Command::Local => None,
        Version::V2 => {
            let by_ppp = ppp::v2::Header::try_from(bytes).expect("valid too");
            assert_eq!(by_ppp.len(), bytes.len());
            if header.addresses != Addresses::Unspecified {
                let theirs: Vec<_> = by_ppp
                    .tlvs()
                    .map(|tlv| tlv.expect("valid too"))
                    .map(|tlv| (tlv.kind, tlv.value.into_owned()))
                    .collect();
                let ours: Vec<_> = header
                    .tlvs
                    .map(|tlv| (tlv.kind, tlv.value.to_vec()))
                    .collect();
                assert_eq!(ours, theirs);
            }
            match by_ppp.addresses {
                ppp::v2::Addresses::IPv4(a) => of(
                    a.source_address.into(),
                    a.destination_address.into(),
                    (a.source_port, a.destination_port),
                ),
                ppp::v2::Addresses::IPv6(a) => of(
                    a.source_address.into(),
                    a.destination_address.into(),
                    (a.source_port, a.destination_port),
                ),
                _ => None,
            }
        }
    };
    assert_eq!(told, by_ppp);
}

fn check_written(header: &Header, with_checksum: bool) {
    let mut buffer = [0; HEADER_BYTES_MAX];
    let (is_stream, canonical) = match header.addresses {
        Addresses::Inet {
            source,
            destination,
            transport,
        } => (
            transport == Transport::Stream,
            match Addresses::tcp(source, destination) {
                Addresses::Inet {
                    source,
                    destination,
                    ..
                } => Addresses::Inet {
                    source,
                    destination,
                    transport,
                },
                other => other,
            },
        ),
        other => (false, other),
    };
    let length = write_v1(&mut buffer, &header.addresses).expect("room");
    let line = proxy::parse(&buffer[..length]).expect("what was written");
    assert_eq!(line.length, length);
    assert_eq!(
        line.header.addresses,
        match is_stream {
            true => canonical,
            false => Addresses::Unspecified,
        }
    );

    let result = write_v2(
        &mut buffer,
        header.command,
        &header.addresses,
        header.tlvs,
        with_checksum,
    );
    // A checksum may not fit any more.
    let Ok(length) = result else {
        return;
    };
    let written = proxy::parse(&buffer[..length]).expect("what was written");
    assert_eq!(written.length, length);
    assert_eq!(written.header.command, header.command);
    assert_eq!(written.header.addresses, canonical);
    let others = |header: &Header| -> Vec<(u8, Vec<u8>)> {
        let is_kept = |tlv: &Tlv| tlv.kind != tlv_type::CRC32C;
        let kept = header.tlvs.filter(is_kept);
        kept.map(|tlv| (tlv.kind, tlv.value.to_vec())).collect()
    };
    assert_eq!(others(&written.header), others(header));
}

/// ClientHellos: as they are, and the same bytes as a message cut into records.
pub fn client_hello(data: &[u8]) {
    let Some((option, bytes)) = options(data) else {
        return;
    };
    let name = |bytes: &[u8]| read(bytes, server_name);
    let _ = name(&bytes);
    let message = match option & 0x40 == 0 {
        true => bytes.to_vec(),
        false => [&[1][..], &(bytes.len() as u32).to_be_bytes()[1..], &bytes].concat(),
    };
    let in_records = |seed: u8| -> Vec<u8> {
        let record = |payload: &[u8]| {
            let length = (payload.len() as u16).to_be_bytes();
            [&[22, 3, 1][..], &length, payload].concat()
        };
        pieces(&message, seed)
            .flat_map(|piece| piece.chunks(1 << 14))
            .flat_map(record)
            .collect()
    };
    let whole = name(&in_records(0));
    let cut = name(&in_records(option & 0x3f));
    // More headers may exceed the limit; bytes behind the message are never looked at.
    if cut != Err(ParseError::Invalid(HelloError::TooLong)) {
        assert_eq!(cut, whole, "cut into records");
    }
    if let Ok(name) = whole {
        check_tls_parser(&message, name);
    }
}

fn check_tls_parser(message: &[u8], name: Option<ServerName>) {
    use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};
    let (_, parsed) = tls_parser::parse_tls_message_handshake(message).expect("valid too");
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = parsed else {
        panic!("no ClientHello");
    };
    // Only what another reader makes of the same extensions: it stops at others that are malformed.
    let extensions = hello.ext.unwrap_or_default();
    let Ok((_, extensions)) = tls_parser::parse_tls_extensions(extensions) else {
        return;
    };
    for extension in extensions {
        let TlsExtension::SNI(names) = extension else {
            continue;
        };
        for (_, theirs) in names.iter().filter(|(kind, _)| kind.0 == 0) {
            let theirs = String::from_utf8_lossy(theirs).to_ascii_lowercase();
            match &name {
                Some(ours) => assert_eq!(**ours, theirs),
                None => assert!(theirs.contains(':') || theirs.parse::<Ipv4Addr>().is_ok()),
            }
        }
    }
}
