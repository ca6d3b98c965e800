//! Hashes that are the same in every process, so that two relays with the same backends send a source to
//! the same one.
//!
//! Must not depend on: what is hashed for.

use std::net::IpAddr;

/// Hashes `bytes`: FNV-1a, then the finalizer of SplitMix64, which spreads what FNV leaves in the low
/// bits.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    mix(hash)
}

/// The finalizer of SplitMix64.
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Hashes an address. An IPv4 address within IPv6 is the same as outside.
pub fn hash_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => hash(&v4.octets(), 0),
        IpAddr::V6(v6) => hash(&v6.octets(), 0),
    }
}
