//! A header's content, whichever version it was written in.
//!
//! Must not depend on: reading and writing.

use core::net::SocketAddr;

use super::{TLV_PREFIX_BYTES, UNIX_PATH_BYTES};

/// Types of TLVs (proxy-protocol.txt, 2.2) that mean something here.
pub mod tlv_type {
    /// CRC-32C of the whole header.
    pub const CRC32C: u8 = 0x03;
    /// Padding.
    pub const NOOP: u8 = 0x04;
}

/// How a header was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// What the sender says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The sender opened it on its own account (a health check): its real addresses count.
    Local,
    /// It is relayed for the client that the header names.
    Proxy,
}

/// Stream or datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, or a Unix stream socket.
    Stream,
    /// UDP, or a Unix datagram socket.
    Datagram,
}

/// Both ends of the relayed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses<'a> {
    /// Unknown to the sender (`UNKNOWN`, `UNSPEC`), or not told because of [`Command::Local`].
    Unspecified,
    /// IPv4 or IPv6, both of one family.
    Inet {
        /// The client.
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
    },
    /// Unix sockets, by path.
    Unix {
        /// The client, NUL-padded.
        source: &'a [u8; UNIX_PATH_BYTES],
        /// What the client connected to, NUL-padded.
        destination: &'a [u8; UNIX_PATH_BYTES],
        /// Stream or datagrams.
        transport: Transport,
    },
}

impl Addresses<'_> {
    /// A TCP connection from `source` to `destination`. Addresses mapped into IPv6 count as IPv4 if
    /// both are; if one only is IPv4, both become IPv6.
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        let (source, destination) = same_family(source, destination);
        Addresses::Inet {
            source,
            destination,
            transport: Transport::Stream,
        }
    }
}

/// Both addresses in one family, without flow label and scope, which no header has.
pub(super) fn same_family(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    let of = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let ((a, a_port), (b, b_port)) = (of(a), of(b));
    let mapped = |ip: core::net::IpAddr| match ip {
        core::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        ip => ip,
    };
    let (a, b) = match a.is_ipv4() == b.is_ipv4() {
        true => (a, b),
        false => (mapped(a), mapped(b)),
    };
    (SocketAddr::new(a, a_port), SocketAddr::new(b, b_port))
}

/// One header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// How it was written.
    pub version: Version,
    /// Relayed or the sender's own.
    pub command: Command,
    /// Client and destination.
    pub addresses: Addresses<'a>,
    /// What else the sender says. Empty unless addresses are told: behind `UNSPEC` and
    /// [`Command::Local`] the bytes have no defined meaning.
    pub tlvs: Tlvs<'a>,
}

/// A type-length-value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// See [`tlv_type`].
    pub kind: u8,
    /// Its bytes.
    pub value: &'a [u8],
}

/// The TLVs of a header, in order, its checksum included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tlvs<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let (tlv, rest) = split_tlv(self.0)?;
        self.0 = rest;
        Some(tlv)
    }
}

/// The first TLV and what follows it; `None` if it is not whole.
pub(super) fn split_tlv(bytes: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (prefix, rest) = bytes.split_first_chunk::<TLV_PREFIX_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([prefix[1], prefix[2]]));
    let (value, rest) = rest.split_at_checked(length)?;
    let kind = prefix[0];
    Some((Tlv { kind, value }, rest))
}
