//! The PROXY protocol: who the client of a relayed connection is.
//!
//! Invariants: what is written is read back equal; a header is read entirely or not at all.
//! Must not depend on: who may send one.

mod header;
mod parse;
mod write;

pub use header::{Addresses, Command, Header, Tlv, Tlvs, Transport, Version, tlv_type};
pub use parse::{HeaderError, Parsed, parse};
pub use write::{BufferTooSmall, write_v1, write_v2};

/// The first bytes of a header of version 2.
pub const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, its CRLF included, bytes.
pub const V1_BYTES_MAX: usize = 107;
/// Longest header read or written, bytes: TLVs may hold certificates, and 65,551 bytes would be an
/// invitation to fill memory.
pub const HEADER_BYTES_MAX: usize = 4_096;
/// Longest header of either version with TCP addresses and no TLV but a checksum, bytes.
pub const TCP_BYTES_MAX: usize = V1_BYTES_MAX;

/// Signature, version and command, family and transport, length.
const V2_PREFIX_BYTES: usize = 16;
/// Type and length of a TLV.
const TLV_PREFIX_BYTES: usize = 3;
const INET4_BYTES: usize = 12;
const INET6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

/// What each side of a Unix connection has for a path, NUL-padded, bytes.
const UNIX_PATH_BYTES: usize = 108;
