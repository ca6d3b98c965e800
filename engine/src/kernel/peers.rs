//! Where the kernel writes the addresses of accepted peers: a place for each accept under way.
//!
//! Places that were used last are used first, so memory follows how many accepts are under way at
//! once, not how many connections there are.
//! Invariants: a place belongs to one accept from its submission until its completion is reaped.
//! Must not depend on: slots' meaning, handlers.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::buffers::Region;

/// Bytes of one place: an address, and its length behind it.
const PLACE_BYTES: usize = 32;
/// Bytes of the address.
const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in6>();

const _: () = assert!(ADDRESS_BYTES + size_of::<libc::socklen_t>() <= PLACE_BYTES);
const _: () = assert!(ADDRESS_BYTES.is_multiple_of(align_of::<libc::socklen_t>()));

/// See the file's head.
pub struct PeerAddresses {
    region: Region,
    /// Places that were used and are free.
    free: Vec<u32>,
    /// Places that were never used begin here.
    fresh: u32,
    by_slot: HashMap<u32, u32>,
}

impl PeerAddresses {
    /// Places for `slot_count` accepts at once.
    pub fn new(slot_count: u32) -> nix::Result<Self> {
        Ok(PeerAddresses {
            region: Region::new(slot_count as usize * PLACE_BYTES)?,
            free: Vec::new(),
            fresh: 0,
            by_slot: HashMap::new(),
        })
    }

    /// A place for an accept into `slot`: where the kernel writes the address and its length.
    pub fn start(&mut self, slot: u32) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.fresh += 1;
            self.fresh - 1
        });
        let before = self.by_slot.insert(slot, place);
        assert!(before.is_none(), "slot {slot} accepts twice at once");
        let offset = place as usize * PLACE_BYTES;
        let bytes = self.region.slice_mut(offset, PLACE_BYTES);
        bytes.fill(0);
        bytes[ADDRESS_BYTES..][..4].copy_from_slice(&(ADDRESS_BYTES as u32).to_ne_bytes());
        let length = size_of::<libc::socklen_t>();
        (
            self.region.address(offset, ADDRESS_BYTES).cast(),
            self.region.address(offset + ADDRESS_BYTES, length).cast(),
        )
    }

    /// The address that the accept into `slot` has found, whose completion was reaped; its place is
    /// free again.
    pub fn take(&mut self, slot: u32) -> Option<SocketAddr> {
        let place = self.by_slot.remove(&slot)?;
        self.free.push(place);
        let offset = place as usize * PLACE_BYTES;
        parse(self.region.slice(offset, ADDRESS_BYTES))
    }
}

/// A `sockaddr_in` or `sockaddr_in6`.
fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let word = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes");
    match i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
        libc::AF_INET => Some((Ipv4Addr::from(word(4)), port).into()),
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes[8..24].try_into().expect("16 bytes");
            let (flow, scope) = (u32::from_be_bytes(word(4)), u32::from_ne_bytes(word(24)));
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_empty_ones_have_no_address() {
        let mut peers = PeerAddresses::new(4).expect("memory");
        let (first, _) = peers.start(7);
        let (second, _) = peers.start(8);
        assert_ne!(first, second);
        assert_eq!(peers.take(7), None, "nothing was written");
        assert_eq!(peers.start(9).0, first);
        assert_eq!(peers.take(7), None, "no accept");
    }

    #[test]
    fn addresses_of_both_versions_are_read() {
        let mut v4 = [0; ADDRESS_BYTES];
        v4[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        v4[2..8].copy_from_slice(&[0x1F, 0x90, 127, 0, 0, 9]);
        assert_eq!(parse(&v4), Some("127.0.0.9:8080".parse().unwrap()));
        let mut v6 = [0; ADDRESS_BYTES];
        v6[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        v6[2..4].copy_from_slice(&[0x1F, 0x90]);
        v6[23] = 1;
        assert_eq!(parse(&v6), Some("[::1]:8080".parse().unwrap()));
    }
}
