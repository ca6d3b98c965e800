//! The bytes the kernel takes for a connection, and the limits it sets per ring.
//!
//! Source: this project's `KERNEL.md`, measured as slab growth on Linux 6.18 over 190,000 to 2,394,000 loopback pairs.
//! These are effective bytes, the unused tail of each slab included. Other kernels differ by some per cent.
//! Our own share is a bound, for planning; the engine knows what it really is.

/// `struct tcp_sock`, 13 to a slab of 32 KiB.
pub const TCP_SOCK_BYTES: u64 = 2_521;
/// Inode of the socket.
pub const INODE_BYTES: u64 = 862;
/// `struct file`.
pub const FILE_BYTES: u64 = 195;
/// Directory entry.
pub const DENTRY_BYTES: u64 = 195;
/// What the security modules attach.
pub const SECURITY_BYTES: u64 = 56;
/// The floor of one established socket: 3,829 bytes.
pub const SOCKET_BYTES: u64 =
    TCP_SOCK_BYTES + INODE_BYTES + FILE_BYTES + DENTRY_BYTES + SECURITY_BYTES;

/// A socket's place in a ring's table of direct descriptors: 8 for the entry, 32 for its node.
pub const DIRECT_DESCRIPTOR_BYTES: u64 = 40;
/// An idle connection parked on a multishot poll: the request only.
pub const POLL_PARKED_BYTES: u64 = 256;
/// An idle connection parked on a receive, single or multishot: request, poll entry and message header.
pub const RECV_PARKED_BYTES: u64 = 864;
/// A client socket's bind bucket, one for each address and port in use; at most.
pub const BIND_BUCKET_BYTES: u64 = 128;

/// Both ends of a loopback pair with nothing parked, as measured.
pub const PAIR_BYTES: u64 = 7_900;
/// Both ends of a loopback pair, a poll parked on the server's, as measured at 190,000 pairs.
pub const PAIR_POLL_PARKED_BYTES: u64 = 8_160;
/// The same at its dearest, 1,007,000 pairs in the host's namespace: what to reckon with before a run.
pub const PAIR_POLL_PARKED_BYTES_MAX: u64 = 8_229;

/// What a connection takes on top when all are closed at once, at each of its two ends: at one a FIN that waits to be read (860 of
/// `skbuff` slabs, measured), at the other the entry in TIME_WAIT (`tw_sock_TCP`, 256); half of both. Without it, 2,754,477 pairs were
/// held here, and the kernel killed the server when they closed: `sysctl/README.md`.
pub const CLOSING_BYTES: u64 = 576;

/// What our programs keep for one end of a connection, at most; measured 39 to 61, see `server_rss_bytes_per_connection` in runs.
pub const OWN_BYTES_MAX: u64 = 64;
/// One end that was accepted, from its first byte to its last.
pub const SERVER_END_BYTES: u64 =
    SOCKET_BYTES + DIRECT_DESCRIPTOR_BYTES + POLL_PARKED_BYTES + OWN_BYTES_MAX + CLOSING_BYTES;
/// One end that was dialled, likewise.
pub const CLIENT_END_BYTES: u64 = SERVER_END_BYTES + BIND_BUCKET_BYTES;

/// Memory left to everything else on the machine when the number of connections that fit is worked out.
pub const MEMORY_RESERVED_BYTES: u64 = 512 << 20;
/// Memory left, within a memory cgroup that bounds us, to the programs themselves: everything else lives outside of it.
pub const MEMORY_RESERVED_CGROUP_BYTES: u64 = 64 << 20;

/// Entries one ring's descriptor table may have, whatever the descriptor limit allows.
pub const RING_TABLE_COUNT_MAX: u64 = 1 << 20;

/// Connections from one source address to one target address and port: 1025..=65535.
pub const PORTS_PER_ADDRESS: u64 = 64_511;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_what_was_measured() {
        assert_eq!(SOCKET_BYTES, 3_829);
        // Two sockets, two table entries, one bind bucket: within 0.5% of the measured pair.
        let pair_bytes = 2 * (SOCKET_BYTES + DIRECT_DESCRIPTOR_BYTES) + BIND_BUCKET_BYTES;
        assert_eq!(pair_bytes, 7_866);
        assert!(pair_bytes.abs_diff(PAIR_BYTES) * 200 <= PAIR_BYTES);
        let parked_bytes = pair_bytes + POLL_PARKED_BYTES;
        assert!(parked_bytes.abs_diff(PAIR_POLL_PARKED_BYTES) * 200 <= PAIR_POLL_PARKED_BYTES);
    }
}
