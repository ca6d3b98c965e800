//! Reading a header of either version from the first bytes of a connection.
//!
//! Strict: what proxy-protocol.txt says must be rejected is, and so is a line that two readers
//! could read differently (two spaces, a leading zero).
//! Invariants: an error is final and found at the first byte that decides it; no byte behind the
//! header is looked at.
//! Must not depend on: writing.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::FromStr;

use super::header::split_tlv;
use super::{
    Addresses, Command, HEADER_BYTES_MAX, Header, INET4_BYTES, INET6_BYTES, Tlvs, Transport,
    UNIX_BYTES, UNIX_PATH_BYTES, V1_BYTES_MAX, V2_PREFIX_BYTES, V2_SIGNATURE, Version, tlv_type,
};
use crate::ParseError;
use crate::crc32c::Crc32c;
use crate::error::rules;

rules! {
    /// The rule that a header breaks. Its connection must be closed.
    HeaderError {
        Signature = "signature", "the connection does not begin with a PROXY header";
        TooLong = "too_long", "the header is longer than the limit";
        Line = "line", "the line of version 1 is malformed";
        Address = "address", "an address or port of the line is malformed";
        Version = "version", "the binary header's version is not 2";
        Command = "command", "the command is neither LOCAL nor PROXY";
        Family = "family", "the address family or transport is not one of version 2";
        Length = "length", "the header is too short for its addresses";
        Tlv = "tlv", "a TLV is longer than the header";
        Checksum = "checksum", "the CRC-32C does not match";
    }
}

type Result<T> = core::result::Result<T, ParseError<HeaderError>>;

/// A header, and how long it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// What it says.
    pub header: Header<'a>,
    /// How many bytes it took: those behind it belong to the client.
    pub length: usize,
}

/// Reads the header at the beginning of `bytes`.
///
/// # Errors
///
/// [`ParseError::Incomplete`] until it is whole; at most [`HEADER_BYTES_MAX`] bytes are needed.
/// [`ParseError::Invalid`] as soon as no continuation could make it valid.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>> {
    const V1_PREFIX: &[u8] = b"PROXY ";
    match bytes.first() {
        None => Err(ParseError::Incomplete),
        Some(b'P') => {
            expect(bytes, V1_PREFIX)?;
            parse_v1(bytes)
        }
        Some(_) => {
            expect(bytes, &V2_SIGNATURE)?;
            parse_v2(bytes)
        }
    }
}

/// `bytes` must begin with `prefix`.
fn expect(bytes: &[u8], prefix: &[u8]) -> Result<()> {
    let length = bytes.len().min(prefix.len());
    match bytes[..length] == prefix[..length] {
        false => Err(HeaderError::Signature.into()),
        true if length < prefix.len() => Err(ParseError::Incomplete),
        true => Ok(()),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed<'_>> {
    let within = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return Err(match within.len() == V1_BYTES_MAX {
            true => HeaderError::TooLong.into(),
            false => ParseError::Incomplete,
        });
    };
    // What follows UNKNOWN must be ignored, whatever it is: only the rest has to be text.
    let line = within[..end]
        .strip_prefix(b"PROXY ")
        .and_then(|line| line.strip_suffix(b"\r"))
        .ok_or(HeaderError::Line)?;
    let addresses = match line.strip_prefix(b"UNKNOWN") {
        Some([] | [b' ', ..]) => Addresses::Unspecified,
        Some(_) => return Err(HeaderError::Line.into()),
        None => line_addresses(core::str::from_utf8(line).map_err(|_| HeaderError::Line)?)?,
    };
    let header = Header {
        version: Version::V1,
        command: Command::Proxy,
        addresses,
        tlvs: Tlvs::default(),
    };
    let length = end + 1;
    Ok(Parsed { header, length })
}

/// `TCP4 192.0.2.1 198.51.100.2 56324 443`.
fn line_addresses(line: &str) -> core::result::Result<Addresses<'static>, HeaderError> {
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(HeaderError::Line);
    let family = word()?;
    let (source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(HeaderError::Line);
    }
    let ip = |text| match family {
        "TCP4" => ip_from::<Ipv4Addr>(text),
        "TCP6" => ip_from::<Ipv6Addr>(text),
        _ => Err(HeaderError::Line),
    };
    Ok(Addresses::Inet {
        source: SocketAddr::new(ip(source)?, port(source_port)?),
        destination: SocketAddr::new(ip(destination)?, port(destination_port)?),
        transport: Transport::Stream,
    })
}

fn ip_from<T: FromStr + Into<IpAddr>>(text: &str) -> core::result::Result<IpAddr, HeaderError> {
    text.parse::<T>()
        .map(Into::into)
        .map_err(|_| HeaderError::Address)
}

/// Decimal digits without leading zeros or sign.
fn port(text: &str) -> core::result::Result<u16, HeaderError> {
    let is_canonical = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    text.parse()
        .ok()
        .filter(|_| is_canonical)
        .ok_or(HeaderError::Address)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed<'_>> {
    let command = match bytes.get(12) {
        None => return Err(ParseError::Incomplete),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(byte) if byte >> 4 == 2 => return Err(HeaderError::Command.into()),
        Some(_) => return Err(HeaderError::Version.into()),
    };
    let family = *bytes.get(13).ok_or(ParseError::Incomplete)?;
    // Behind LOCAL even the family is to be ignored.
    let address_bytes = match (command, family) {
        (Command::Local, _) | (_, 0x00) => 0,
        (_, 0x11 | 0x12) => INET4_BYTES,
        (_, 0x21 | 0x22) => INET6_BYTES,
        (_, 0x31 | 0x32) => UNIX_BYTES,
        _ => return Err(HeaderError::Family.into()),
    };
    let Some((prefix, rest)) = bytes.split_first_chunk::<V2_PREFIX_BYTES>() else {
        return Err(ParseError::Incomplete);
    };
    let content_bytes = usize::from(u16::from_be_bytes([prefix[14], prefix[15]]));
    let length = V2_PREFIX_BYTES + content_bytes;
    if length > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong.into());
    }
    if content_bytes < address_bytes {
        return Err(HeaderError::Length.into());
    }
    let content = rest.get(..content_bytes).ok_or(ParseError::Incomplete)?;
    let (addresses, tlvs) = content.split_at(address_bytes);
    let addresses = binary_addresses(family, addresses);
    let tlvs = match addresses {
        Addresses::Unspecified => Tlvs::default(),
        _ => {
            check_tlvs(&bytes[..length], tlvs)?;
            Tlvs(tlvs)
        }
    };
    let header = Header {
        version: Version::V2,
        command,
        addresses,
        tlvs,
    };
    Ok(Parsed { header, length })
}

/// Addresses as long as the family needs, or none.
fn binary_addresses(family: u8, bytes: &[u8]) -> Addresses<'_> {
    let transport = match family & 0xf {
        1 => Transport::Stream,
        _ => Transport::Datagram,
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let inet = |source: IpAddr, destination: IpAddr, ports_at: usize| Addresses::Inet {
        source: SocketAddr::new(source, port(ports_at)),
        destination: SocketAddr::new(destination, port(ports_at + 2)),
        transport,
    };
    match bytes.len() {
        INET4_BYTES => {
            let ip = |at: usize| bytes[at..].first_chunk::<4>().map(|ip| IpAddr::from(*ip));
            inet(ip(0).expect("12 bytes"), ip(4).expect("12 bytes"), 8)
        }
        INET6_BYTES => {
            let ip = |at: usize| bytes[at..].first_chunk::<16>().map(|ip| IpAddr::from(*ip));
            inet(ip(0).expect("36 bytes"), ip(16).expect("36 bytes"), 32)
        }
        UNIX_BYTES => Addresses::Unix {
            source: bytes.first_chunk().expect("216 bytes"),
            destination: bytes[UNIX_PATH_BYTES..].first_chunk().expect("216 bytes"),
            transport,
        },
        _ => Addresses::Unspecified,
    }
}

/// Every TLV is whole, and the checksum, if there is one, is that of `header` with zeros in its
/// place.
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> core::result::Result<(), HeaderError> {
    let mut has_checksum = false;
    while !tlvs.is_empty() {
        let (tlv, rest) = split_tlv(tlvs).ok_or(HeaderError::Tlv)?;
        if tlv.kind == tlv_type::CRC32C {
            let checksum = tlv.value.try_into().map_err(|_| HeaderError::Checksum)?;
            let (before, after) = (header.len() - rest.len() - 4, header.len() - rest.len());
            let computed = Crc32c::new()
                .update(&header[..before])
                .update(&[0; 4])
                .update(&header[after..])
                .finish();
            if has_checksum || computed != u32::from_be_bytes(checksum) {
                return Err(HeaderError::Checksum);
            }
            has_checksum = true;
        }
        tlvs = rest;
    }
    Ok(())
}
