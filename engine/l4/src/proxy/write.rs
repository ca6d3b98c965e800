//! Writing a header for the next server.
//!
//! Invariants: nothing is written beyond the buffer; what is written is valid and read back equal.
//! Must not depend on: reading.

use core::fmt::{self, Write};
use core::net::{IpAddr, SocketAddr};

use super::header::same_family;
use super::{
    Addresses, Command, HEADER_BYTES_MAX, TLV_PREFIX_BYTES, Tlv, Transport, V2_PREFIX_BYTES,
    V2_SIGNATURE, tlv_type,
};
use crate::crc32c::Crc32c;

/// The header does not fit into the buffer, or would exceed [`HEADER_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferTooSmall;

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the PROXY header does not fit into its buffer")
    }
}

impl core::error::Error for BufferTooSmall {}

impl From<fmt::Error> for BufferTooSmall {
    fn from(_: fmt::Error) -> Self {
        BufferTooSmall
    }
}

/// A buffer, and how much of it is used.
struct Cursor<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), BufferTooSmall> {
        let end = self.used + bytes.len();
        let place = self.buffer.get_mut(self.used..end).ok_or(BufferTooSmall)?;
        place.copy_from_slice(bytes);
        self.used = end;
        Ok(())
    }
}

impl Write for Cursor<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// Writes a header of version 1 and returns its length. What version 1 cannot express (no TCP, no
/// addresses) becomes `UNKNOWN`; there is no LOCAL, which senders express as `UNKNOWN` too.
///
/// # Errors
///
/// Only if `buffer` is too small; [`V1_BYTES_MAX`](super::V1_BYTES_MAX) bytes always suffice.
pub fn write_v1(buffer: &mut [u8], addresses: &Addresses<'_>) -> Result<usize, BufferTooSmall> {
    let mut cursor = Cursor { buffer, used: 0 };
    match *addresses {
        Addresses::Inet {
            source,
            destination,
            transport: Transport::Stream,
        } => {
            let (source, destination) = same_family(source, destination);
            write!(
                cursor,
                "PROXY {} {} {} {} {}\r\n",
                if source.is_ipv4() { "TCP4" } else { "TCP6" },
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            )?;
        }
        _ => cursor.put(b"PROXY UNKNOWN\r\n")?,
    }
    Ok(cursor.used)
}

/// Writes a header of version 2 and returns its length.
///
/// `tlvs` are passed on in their order except checksums, which hold for the header they were in;
/// `with_checksum` appends a new one. With [`Command::Local`] neither addresses nor TLVs are
/// written, nor TLVs with [`Addresses::Unspecified`].
///
/// # Errors
///
/// Only if `buffer` is too small or the header exceeds [`HEADER_BYTES_MAX`];
/// [`TCP_BYTES_MAX`](super::TCP_BYTES_MAX) bytes suffice for TCP without TLVs.
pub fn write_v2<'a>(
    buffer: &mut [u8],
    command: Command,
    addresses: &Addresses<'_>,
    tlvs: impl IntoIterator<Item = Tlv<'a>>,
    with_checksum: bool,
) -> Result<usize, BufferTooSmall> {
    let bounded = buffer.len().min(HEADER_BYTES_MAX);
    let buffer = &mut buffer[..bounded];
    let mut cursor = Cursor { buffer, used: 0 };
    cursor.put(&V2_SIGNATURE)?;
    let addresses = match command {
        Command::Local => &Addresses::Unspecified,
        Command::Proxy => addresses,
    };
    let command = match command {
        Command::Local => 0x20,
        Command::Proxy => 0x21,
    };
    // The length follows once it is known.
    let prefix = |family: u8| [command, family, 0, 0];
    let with = |family: u8, transport: &Transport| match transport {
        Transport::Stream => family | 1,
        Transport::Datagram => family | 2,
    };
    match addresses {
        Addresses::Unspecified => cursor.put(&prefix(0x00))?,
        Addresses::Inet {
            source,
            destination,
            transport,
        } => {
            let (source, destination) = same_family(*source, *destination);
            let family = if source.is_ipv4() { 0x10 } else { 0x20 };
            cursor.put(&prefix(with(family, transport)))?;
            put_ip(&mut cursor, source)?;
            put_ip(&mut cursor, destination)?;
            cursor.put(&source.port().to_be_bytes())?;
            cursor.put(&destination.port().to_be_bytes())?;
        }
        Addresses::Unix {
            source,
            destination,
            transport,
        } => {
            cursor.put(&prefix(with(0x30, transport)))?;
            cursor.put(*source)?;
            cursor.put(*destination)?;
        }
    }
    let mut put_tlv = |kind: u8, value: &[u8]| {
        let length = u16::try_from(value.len()).map_err(|_| BufferTooSmall)?;
        let [high, low] = length.to_be_bytes();
        let prefix: [u8; TLV_PREFIX_BYTES] = [kind, high, low];
        cursor.put(&prefix)?;
        cursor.put(value)
    };
    let is_specified = *addresses != Addresses::Unspecified;
    if is_specified {
        for tlv in tlvs.into_iter().filter(|tlv| tlv.kind != tlv_type::CRC32C) {
            put_tlv(tlv.kind, tlv.value)?;
        }
        if with_checksum {
            put_tlv(tlv_type::CRC32C, &[0; 4])?;
        }
    }
    let Cursor { buffer, used } = cursor;
    let content_bytes = u16::try_from(used - V2_PREFIX_BYTES).map_err(|_| BufferTooSmall)?;
    buffer[V2_PREFIX_BYTES - 2..V2_PREFIX_BYTES].copy_from_slice(&content_bytes.to_be_bytes());
    if is_specified && with_checksum {
        let checksum = Crc32c::new().update(&buffer[..used]).finish();
        buffer[used - 4..used].copy_from_slice(&checksum.to_be_bytes());
    }
    Ok(used)
}

fn put_ip(cursor: &mut Cursor<'_>, address: SocketAddr) -> Result<(), BufferTooSmall> {
    match address.ip() {
        IpAddr::V4(ip) => cursor.put(&ip.octets()),
        IpAddr::V6(ip) => cursor.put(&ip.octets()),
    }
}
