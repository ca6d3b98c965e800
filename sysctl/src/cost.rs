//! Bytes the kernel takes for a connection, and its limits per ring.
//!
//! Source: this project's `KERNEL.md`, measured as slab growth on Linux 6.18 over 190,000 to
//! 2,394,000 loopback pairs. These are effective bytes, the unused tail of each slab included.
//! Other kernels differ by some per cent. Our own share is an upper bound for planning; the engine
//! knows the exact size.
//! Must not depend on: anything else in this crate.

/// `struct tcp_sock`: 13 per slab of 32 KiB.
pub const TCP_SOCK_BYTES: u64 = 2_521;
/// Inode of the socket.
pub const INODE_BYTES: u64 = 862;
/// `struct file`.
pub const FILE_BYTES: u64 = 195;
/// Directory entry.
pub const DENTRY_BYTES: u64 = 195;
/// What security modules attach.
pub const SECURITY_BYTES: u64 = 56;
/// The floor of one established socket: 3,829 bytes.
pub const SOCKET_BYTES: u64 =
    TCP_SOCK_BYTES + INODE_BYTES + FILE_BYTES + DENTRY_BYTES + SECURITY_BYTES;

/// A socket's place in a ring's table of direct descriptors: 8 for the entry, 32 for its node.
pub const DIRECT_DESCRIPTOR_BYTES: u64 = 40;
/// An idle connection parked on a multishot poll: the request only.
pub const POLL_PARKED_BYTES: u64 = 256;
/// An idle connection parked on a receive, single or multishot: request, poll entry and message
/// header.
pub const RECV_PARKED_BYTES: u64 = 864;
/// A client socket's bind bucket, one for each address and port in use; at most.
pub const BIND_BUCKET_BYTES: u64 = 128;

/// Both ends of a loopback pair with nothing parked, as measured.
pub const PAIR_BYTES: u64 = 7_900;
/// Both ends of a loopback pair, a poll parked on the server's, as measured at 190,000 pairs.
pub const PAIR_POLL_PARKED_BYTES: u64 = 8_160;
/// The same at its most expensive, 1,007,000 pairs in the host's namespace: the figure to plan
/// with.
pub const PAIR_POLL_PARKED_BYTES_MAX: u64 = 8_229;

/// Extra memory per end while all connections close at once: one end holds a FIN waiting to be read
/// (860 bytes of `skbuff` slabs, measured), the other an entry in TIME_WAIT (`tw_sock_TCP`, 256
/// bytes); half of both. Without it, 2,754,477 pairs could be held, and the kernel killed the
/// server while they closed: `sysctl/README.md`.
pub const CLOSING_BYTES: u64 = 576;

/// Upper bound of what our programs keep per end of a connection; measured 39 to 61, see
/// `server_rss_bytes_per_connection` in runs.
pub const OWN_BYTES_MAX: u64 = 64;
/// One accepted end over its whole life.
pub const SERVER_END_BYTES: u64 =
    SOCKET_BYTES + DIRECT_DESCRIPTOR_BYTES + POLL_PARKED_BYTES + OWN_BYTES_MAX + CLOSING_BYTES;
/// One dialled end over its whole life.
pub const CLIENT_END_BYTES: u64 = SERVER_END_BYTES + BIND_BUCKET_BYTES;

/// Memory left to the rest of the machine when calculating how many connections fit.
pub const MEMORY_RESERVED_BYTES: u64 = 512 << 20;
/// Memory left to the programs themselves within a memory cgroup: everything else lives outside of
/// it.
pub const MEMORY_RESERVED_CGROUP_BYTES: u64 = 64 << 20;

/// Most entries of one ring's descriptor table, whatever the descriptor limit.
pub const RING_TABLE_COUNT_MAX: u64 = 1 << 20;

/// Locked memory of one ring of the engine: 256 submission entries of 64 bytes, 2,048 completions
/// of 16 and the submission array in pages of 4 KiB, and a page for the buffer ring. Counted
/// against RLIMIT_MEMLOCK, for all processes of the user together, unless the process has
/// CAP_IPC_LOCK.
pub const RING_LOCKED_BYTES: u64 = 56 << 10;
/// Locked memory of the control plane's own ring: 256 submission entries and 512 completions.
pub const CONTROL_RING_LOCKED_BYTES: u64 = 28 << 10;

/// Connections from one source address to one target: ports 1024 to 65535 without the target's own.
pub const PORTS_PER_ADDRESS: u64 = 64_511;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_measured_pair() {
        assert_eq!(SOCKET_BYTES, 3_829);
        // Two sockets, two table entries, one bind bucket: within 0.5% of the measured pair.
        let pair_bytes = 2 * (SOCKET_BYTES + DIRECT_DESCRIPTOR_BYTES) + BIND_BUCKET_BYTES;
        assert_eq!(pair_bytes, 7_866);
        assert!(pair_bytes.abs_diff(PAIR_BYTES) * 200 <= PAIR_BYTES);
        let parked_bytes = pair_bytes + POLL_PARKED_BYTES;
        assert!(parked_bytes.abs_diff(PAIR_POLL_PARKED_BYTES) * 200 <= PAIR_POLL_PARKED_BYTES);
    }
}
