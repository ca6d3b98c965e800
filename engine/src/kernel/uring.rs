//! The kernel's ring behind the [`Ring`] seam.
//!
//! Invariants: made, entered and dropped by one thread (SINGLE_ISSUER); the ring is closed before
//! its memory is unmapped (field order); every request that carries an address is either
//! silent-and-immediate (it has finished when `enter` returns) or its address was copied by the
//! kernel at submission (socket addresses), so nothing dangles. The ring owns the shared buffers
//! that queued requests read.
//! Must not depend on: slots' meaning, handlers, protocols.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode};
use nix::sys::socket::{Shutdown, SockaddrIn, SockaddrIn6, shutdown};

use super::buffers::{BufferRing, Region};
use super::os::Waker;
use super::peers::PeerAddresses;
use crate::config::{BUFFER_COUNT, CQ_ENTRIES, Config, SQ_ENTRIES};
use crate::error::{Error, SetupErrorKind};
use crate::refusal;
use crate::ring::{AtHand, Completion, Request, Ring, SharedBuffers, Staged};
use crate::token::{Op, Token};

/// Distance of two addresses, bytes: a sockaddr_in6 has 28.
const ADDRESS_STRIDE: usize = 32;
/// A place for the address of every queued request.
const ADDRESSES_BYTES: usize = SQ_ENTRIES as usize * ADDRESS_STRIDE;
const BUFFER_GROUP: u16 = 0;
/// Bit of the kernel's `user_data` that no token has: the request installs a slot's socket as a
/// descriptor of the process, so that it can be shut down.
const INSTALLS: u64 = 1 << 63;
/// Most sockets that have a process descriptor at once; workers shut down the others.
const INSTALLED_MAX: usize = 512;
/// The option values requests point to: they must outlive the requests, so they live for ever.
static ONE: libc::c_int = 1;
static ZERO: libc::c_int = 0;
static LINGER_ZERO: [libc::c_int; 2] = [1, 0];

const _: () = assert!(size_of::<libc::sockaddr_in6>() <= ADDRESS_STRIDE);
const _: () = assert!(size_of::<libc::linger>() == size_of::<[libc::c_int; 2]>());

/// A ring of the kernel with its direct-descriptor table and its memory.
pub struct KernelRing {
    // Drop order: the ring before the memory that it refers to.
    ring: IoUring,
    region: Region,
    buffers: BufferRing,
    /// Only if the config asks for them.
    peers: Option<PeerAddresses>,
    addresses_offset: usize,
    staging_offset: usize,
    /// Bytes of one staging half.
    staging_bytes: usize,
    staged_bytes: [usize; 2],
    shared: SharedBuffers,
    /// Requests that read shared buffers and may not have been submitted, by half.
    shared_queued: [u32; 2],
    pushed: usize,
    /// Sockets that have, or are about to get, a descriptor of the process.
    installed: usize,
    installed_max: usize,
    overflow_count: u64,
    started_at: Instant,
}

/// A ring as the engine uses it, without a table or buffers.
fn build_ring() -> Result<IoUring, Error> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(CQ_ENTRIES)
        .build(SQ_ENTRIES)
        .map_err(refusal::explain)
}

impl KernelRing {
    /// A ring with a table of `config.ring_slots` direct descriptors, for the calling thread alone.
    /// Its time counts from `started_at`; it signals `waker` when it has work.
    ///
    /// # Errors
    /// [`Error`] naming the missing feature, limit or setting.
    pub fn new(config: &Config, started_at: Instant, waker: &Waker) -> Result<Self, Error> {
        let own = Self::without_waker(config, started_at)?;
        own.ring
            .submitter()
            .register_eventfd(waker.fd().as_raw_fd())
            .map_err(refusal::explain)?;
        Ok(own)
    }

    /// Likewise, for a thread that sleeps in this ring alone and needs no waker.
    ///
    /// # Errors
    /// As for [`KernelRing::new`].
    pub fn without_waker(config: &Config, started_at: Instant) -> Result<Self, Error> {
        let page = 4096;
        let buffer_count = config.buffer_count_max;
        let buffers_offset = BufferRing::entries_bytes(buffer_count).next_multiple_of(page);
        let addresses_offset =
            buffers_offset + usize::from(buffer_count) * config.buffer_bytes as usize;
        let staging_offset = (addresses_offset + ADDRESSES_BYTES).next_multiple_of(page);
        let mut region =
            Region::new(staging_offset + 2 * config.staging_bytes).map_err(|errno| {
                Error::from_io(
                    "no memory for a ring's buffers",
                    errno,
                    "free memory or ask for fewer connections",
                )
            })?;
        let buffers = BufferRing::new(
            &mut region,
            buffer_count,
            BUFFER_COUNT,
            config.buffer_bytes,
            buffers_offset,
        );
        let peers = config
            .peer_addresses
            .then(|| PeerAddresses::new(config.ring_slots))
            .transpose()
            .map_err(|errno| {
                Error::from_io(
                    "no memory for peers' addresses",
                    errno,
                    "free memory or ask for fewer connections",
                )
            })?;
        let ring = build_ring()?;
        let mut supported = Probe::new();
        let can_install = ring.submitter().register_probe(&mut supported).is_ok()
            && supported.is_supported(opcode::FixedFdInstall::CODE);
        ring.submitter()
            .register_files_sparse(config.ring_slots)
            .map_err(|e| {
                Error::from_io(
                    format_args!(
                        "the kernel refuses a table of {} direct descriptors",
                        config.ring_slots
                    ),
                    e,
                    "raise the descriptor limit (ulimit -n) or use the default table size",
                )
            })?;
        // SAFETY: the entries lie at the start of the region, which outlives the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                region.address(0, 1) as u64,
                buffer_count,
                BUFFER_GROUP,
                0,
            )
        }
        .map_err(|e| {
            Error::from_io(
                "this kernel has no buffer rings",
                e,
                "run Linux 6.1 or newer",
            )
            .with_kind(SetupErrorKind::Unsupported)
        })?;
        Ok(KernelRing {
            ring,
            region,
            buffers,
            peers,
            addresses_offset,
            staging_offset,
            staging_bytes: config.staging_bytes,
            staged_bytes: [0; 2],
            shared: SharedBuffers::default(),
            shared_queued: [0; 2],
            pushed: 0,
            installed: 0,
            installed_max: if can_install { INSTALLED_MAX } else { 0 },
            overflow_count: 0,
            started_at,
        })
    }

    /// Checks that this process may make a ring as the engine makes it, and that the kernel has
    /// what the engine needs. Keeps nothing.
    ///
    /// # Errors
    /// [`Error`] naming the cause and the remedy.
    pub fn check(dials: bool) -> Result<(), Error> {
        let ring = build_ring()?;
        let mut supported = Probe::new();
        ring.submitter()
            .register_probe(&mut supported)
            .map_err(refusal::explain)?;
        let mut needed = vec![
            (opcode::PollAdd::CODE, "POLL_ADD", "5.1"),
            (opcode::Accept::CODE, "ACCEPT", "5.5"),
            (opcode::Shutdown::CODE, "SHUTDOWN", "5.11"),
            (opcode::Socket::CODE, "SOCKET", "5.19"),
        ];
        if dials {
            needed.push((opcode::Bind::CODE, "BIND", "6.11"));
        }
        match needed
            .into_iter()
            .find(|(code, ..)| !supported.is_supported(*code))
        {
            None => Ok(()),
            Some((_, name, version)) => Err(Error::new(
                SetupErrorKind::Unsupported,
                format!("this kernel's io_uring has no {name} (Linux {version})"),
                format!("run Linux {version} or newer"),
            )),
        }
    }

    /// Ends our side of the socket with this descriptor, which is given up; `installed` is what its
    /// installation gave. Returns the result of the shutdown as a request.
    fn shut_down_installed(&mut self, installed: i32) -> i32 {
        self.installed -= 1;
        if installed < 0 {
            // No descriptor is left, or an access rule is against it: workers do it from now on.
            self.installed_max = 0;
            return -libc::EMFILE;
        }
        // SAFETY: the kernel has just made this descriptor for this completion, which is reaped
        // once.
        let socket = unsafe { OwnedFd::from_raw_fd(installed) };
        match shutdown(socket.as_raw_fd(), Shutdown::Write) {
            Ok(()) => 0,
            Err(errno) => -(errno as i32),
        }
    }

    /// Where the address, or the option's value, of the next request is kept.
    fn address_offset(&self) -> usize {
        self.addresses_offset + (self.pushed % SQ_ENTRIES as usize) * ADDRESS_STRIDE
    }

    fn write_address(&mut self, address: SocketAddr) -> (*const libc::sockaddr, libc::socklen_t) {
        let offset = self.address_offset();
        let length = match address {
            SocketAddr::V4(v4) => {
                self.write_plain(offset, &libc::sockaddr_in::from(SockaddrIn::from(v4)))
            }
            SocketAddr::V6(v6) => {
                self.write_plain(offset, &libc::sockaddr_in6::from(SockaddrIn6::from(v6)))
            }
        };
        (
            self.region.address(offset, length).cast(),
            length as libc::socklen_t,
        )
    }

    /// Copies a C socket address into the region; returns its length.
    fn write_plain<A: Copy>(&mut self, offset: usize, address: &A) -> usize {
        let length = size_of::<A>();
        // A longer one would run into its neighbour, which may still wait for its submission.
        assert!(length <= ADDRESS_STRIDE);
        // SAFETY: the two callers pass sockaddr_in and sockaddr_in6, C structs of integers without
        // padding.
        let bytes =
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(address).cast::<u8>(), length) };
        self.region.slice_mut(offset, length).copy_from_slice(bytes);
        length
    }

    fn entry(&mut self, request: Request) -> Entry {
        const SILENT: Flags = Flags::SKIP_SUCCESS;
        let send_flags = |is_last| {
            let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
            flags | if is_last { libc::MSG_MORE } else { 0 }
        };
        let place =
            |slot| DestinationSlot::try_from_slot_target(slot).expect("slot indices are small");
        match request {
            Request::PollListener { listener: fd } | Request::PollWaker { fd } => {
                opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).build()
            }
            Request::Accept {
                listener,
                slot,
                tells_peer,
            } => {
                let (address, length) = match &mut self.peers {
                    Some(peers) if tells_peer => peers.start(slot),
                    _ => (std::ptr::null_mut(), std::ptr::null_mut()),
                };
                let entry = opcode::Accept::new(Fd(listener), address, length)
                    .file_index(Some(place(slot)))
                    .build();
                without_waiting(entry)
            }
            Request::Socket { slot, is_ipv6 } => {
                let domain = if is_ipv6 {
                    libc::AF_INET6
                } else {
                    libc::AF_INET
                };
                opcode::Socket::new(domain, libc::SOCK_STREAM, 0)
                    .file_index(Some(place(slot)))
                    .build()
                    .flags(SILENT)
            }
            Request::ReuseAddress { slot } => opcode::SetSockOpt::new(
                Fixed(slot),
                libc::SOL_SOCKET as u32,
                libc::SO_REUSEADDR as u32,
                (&raw const ONE).cast(),
                size_of_val(&ONE) as u32,
            )
            .build()
            .flags(SILENT),
            Request::DelayFirstAck { slot } => opcode::SetSockOpt::new(
                Fixed(slot),
                libc::IPPROTO_TCP as u32,
                libc::TCP_QUICKACK as u32,
                (&raw const ZERO).cast(),
                size_of_val(&ZERO) as u32,
            )
            .build()
            .flags(SILENT),
            Request::ResetOnClose { slot } => opcode::SetSockOpt::new(
                Fixed(slot),
                libc::SOL_SOCKET as u32,
                libc::SO_LINGER as u32,
                (&raw const LINGER_ZERO).cast(),
                size_of_val(&LINGER_ZERO) as u32,
            )
            .build()
            .flags(SILENT),
            Request::SetOption { slot, option } => {
                let length = size_of_val(&option.value);
                let offset = self.address_offset();
                self.region
                    .slice_mut(offset, length)
                    .copy_from_slice(&option.value.to_ne_bytes());
                opcode::SetSockOpt::new(
                    Fixed(slot),
                    option.level as u32,
                    option.name as u32,
                    self.region.address(offset, length).cast(),
                    length as u32,
                )
                .build()
                .flags(SILENT)
            }
            Request::Bind { slot, source } => {
                let (address, length) = self.write_address(source);
                opcode::Bind::new(Fixed(slot), address, length)
                    .build()
                    .flags(SILENT | Flags::IO_LINK)
            }
            Request::Connect { slot, target } => {
                let (address, length) = self.write_address(target);
                opcode::Connect::new(Fixed(slot), address, length).build()
            }
            Request::Poll { slot, writable } => {
                let mut mask = libc::POLLIN | libc::POLLRDHUP;
                if writable {
                    mask = libc::POLLOUT;
                }
                opcode::PollAdd::new(Fixed(slot), mask as u32).build()
            }
            Request::Watch { slot } => opcode::PollAdd::new(Fixed(slot), libc::POLLOUT as u32)
                .multi(true)
                .build(),
            Request::Probe { slot } => opcode::Send::new(Fixed(slot), std::ptr::null(), 0)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build(),
            Request::OutQueue { slot } => {
                /// `SOCKET_URING_OP_SIOCOUTQ` of the kernel's headers.
                const SIOCOUTQ: u32 = 1;
                opcode::UringCmd16::new(Fixed(slot), SIOCOUTQ).build()
            }
            Request::Recv { slot } => opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .flags(libc::MSG_DONTWAIT)
                .build()
                .flags(Flags::BUFFER_SELECT),
            Request::RecvOneshot { slot } => {
                opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
                    .buf_group(BUFFER_GROUP)
                    .build()
                    .flags(Flags::BUFFER_SELECT)
            }
            Request::RecvMultishot { slot } => {
                opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build()
            }
            Request::SendStatic {
                slot,
                bytes,
                is_last,
            } => opcode::Send::new(Fixed(slot), bytes.as_ptr(), bytes.len() as u32)
                .flags(send_flags(is_last))
                .build()
                .flags(SILENT),
            Request::SendStaged {
                slot,
                staged,
                is_last,
            } => {
                let (offset, length) = (
                    self.staging_offset + staged.offset as usize,
                    staged.length as usize,
                );
                opcode::Send::new(
                    Fixed(slot),
                    self.region.address(offset, length),
                    staged.length,
                )
                .flags(send_flags(is_last))
                .build()
                .flags(SILENT)
            }
            Request::SendShared {
                slot,
                shared,
                is_last,
            } => {
                self.shared_queued[shared.number as usize & 1] += 1;
                let bytes = self.shared.bytes(shared);
                opcode::Send::new(Fixed(slot), bytes.as_ptr(), shared.length)
                    .flags(send_flags(is_last))
                    .build()
                    .flags(SILENT)
            }
            Request::SendReceived { slot, received } => {
                let (offset, length) = (received.offset as usize, received.length as usize);
                assert!(offset + length <= self.buffers.buffer_bytes());
                let offset = self.buffers.offset(received.buffer) + offset;
                let address = self.region.address(offset, length);
                opcode::Send::new(Fixed(slot), address, received.length)
                    .flags(send_flags(false))
                    .build()
                    .flags(SILENT)
            }
            Request::Shutdown { slot } => opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build(),
            Request::Close { slot } => opcode::Close::new(Fixed(slot)).build().flags(SILENT),
            Request::Cancel { token } => opcode::AsyncCancel::new(token.to_bits())
                .build()
                .flags(SILENT),
        }
    }
}

/// Gives the socket in `slot` a descriptor of the process beside its place in the table.
///
/// The kernel leaves IORING_OP_SHUTDOWN to a worker thread: a job, a wake-up and a completion from
/// another thread for each. A descriptor is made at once, and shutdown(2) then ends the connection
/// from this thread (IORING_OP_FIXED_FD_INSTALL: Linux 6.8).
fn install(slot: u32, token: Token) -> Entry {
    opcode::FixedFdInstall::new(Fixed(slot), 0)
        .build()
        .user_data(token.to_bits() | INSTALLS)
}

impl Drop for KernelRing {
    /// Closes the descriptors whose completions are never reaped.
    fn drop(&mut self) {
        while self.installed > 0 && self.reap().is_some() {}
    }
}

/// Makes an accept give EAGAIN instead of waiting, whatever the listener's own flags:
/// IORING_ACCEPT_DONTWAIT (Linux 6.10), which the crate cannot say.
fn without_waiting(mut accept: Entry) -> Entry {
    const IORING_ACCEPT_DONTWAIT: u16 = 1 << 1;
    const _: () = assert!(size_of::<Entry>() == 64);
    // SAFETY: an entry is a C struct around `io_uring_sqe`, whose second 16-bit word is `ioprio`;
    // for an accept it carries these flags. The pointer is derived from a unique reference and
    // stays inside it.
    unsafe {
        (&raw mut accept)
            .cast::<u16>()
            .add(1)
            .write(IORING_ACCEPT_DONTWAIT)
    };
    accept
}

impl Ring for KernelRing {
    #[inline]
    fn push(&mut self, token: Token, request: Request) -> Result<(), Error> {
        self.reserve(1)?;
        let entry = match request {
            Request::Shutdown { slot } if self.installed < self.installed_max => {
                self.installed += 1;
                install(slot, token)
            }
            _ => self.entry(request).user_data(token.to_bits()),
        };
        self.pushed += 1;
        // SAFETY: `entry` points only to static bytes, to this ring's region, to a shared buffer,
        // or to nothing; the region outlives the ring, staged bytes are kept until `enter` and
        // addresses until the queue has gone round once, by which time the kernel copied them. A
        // shared buffer is owned by `self.shared`, and `unstage` gives it up only when all requests
        // that read it were submitted: they do not wait, so the kernel is done with them.
        unsafe { self.ring.submission().push(&entry) }
            .expect("the queue was emptied if it was full");
        Ok(())
    }

    #[inline]
    fn wants_enter(&self) -> bool {
        // SAFETY: only this thread uses the ring, and the queue is dropped at the end of the
        // expression.
        let queue = unsafe { self.ring.submission_shared() };
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    fn reserve(&mut self, count: usize) -> Result<(), Error> {
        let queue = self.ring.submission();
        let room = queue.capacity() - queue.len();
        drop(queue);
        if room < count {
            self.enter(None)?;
        }
        Ok(())
    }

    #[inline]
    fn now_us(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64
    }

    #[inline]
    fn has_completion(&self) -> bool {
        // SAFETY: only this thread uses the ring, and the queue is dropped at the end of the
        // expression.
        !unsafe { self.ring.completion_shared() }.is_empty()
    }

    fn at_hand(&mut self) -> AtHand {
        let is_overflowing = self.is_overflowing();
        let mut queue = self.ring.completion();
        let count = queue.len();
        let has_send = queue.by_ref().any(|cqe| {
            Token::from_bits(cqe.user_data()).is_some_and(|token| token.op() == Op::Send)
        });
        // Forgotten: dropping it would mark these completions as consumed.
        std::mem::forget(queue);
        AtHand {
            count,
            has_send,
            is_overflowing,
        }
    }

    #[inline]
    fn reap(&mut self) -> Option<Completion> {
        let cqe = self.ring.completion().next()?;
        let bits = cqe.user_data();
        let token = Token::from_bits(bits & !INSTALLS).expect("every request carries a token");
        let mut result = cqe.result();
        if bits & INSTALLS != 0 {
            result = self.shut_down_installed(result);
        }
        Some(Completion {
            token,
            result,
            buffer: cqueue::buffer_select(cqe.flags()),
            has_more: cqueue::more(cqe.flags()),
            has_left: cqueue::sock_nonempty(cqe.flags()),
        })
    }

    fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(length <= self.buffers.buffer_bytes());
        self.region.slice(self.buffers.offset(buffer), length)
    }

    fn recycle(&mut self, buffer: u16) {
        self.buffers.give(&mut self.region, buffer);
    }

    fn add_buffers(&mut self) -> u16 {
        self.buffers
            .add(&mut self.region, self.buffers.used_count())
    }

    fn trim(&mut self) {
        self.region
            .release_pages(self.buffers.offset(0), self.buffers.all_bytes());
        self.region
            .release_pages(self.staging_offset, 2 * self.staging_bytes);
    }

    fn stage(&mut self, half: usize, bytes: &[u8]) -> Option<Staged> {
        if bytes.len() > self.staging_bytes - self.staged_bytes[half] {
            return None;
        }
        let offset = half * self.staging_bytes + self.staged_bytes[half];
        self.region
            .slice_mut(self.staging_offset + offset, bytes.len())
            .copy_from_slice(bytes);
        self.staged_bytes[half] += bytes.len();
        Some(Staged {
            offset: offset as u32,
            length: bytes.len() as u32,
        })
    }

    fn staged(&self, staged: Staged) -> &[u8] {
        self.region.slice(
            self.staging_offset + staged.offset as usize,
            staged.length as usize,
        )
    }

    fn share(&mut self, half: usize, buffer: &Arc<[u8]>) -> u32 {
        self.shared.keep(half, buffer)
    }

    fn shared(&self, number: u32) -> &Arc<[u8]> {
        self.shared.get(number)
    }

    fn unstage(&mut self, half: usize) {
        assert_eq!(
            self.shared_queued[half], 0,
            "a request reads what is given up"
        );
        self.shared.empty(half);
        self.staged_bytes[half] = 0;
    }

    fn take_peer(&mut self, slot: u32) -> Option<SocketAddr> {
        self.peers.as_mut()?.take(slot)
    }

    fn accept_queue_len(&self, listener: RawFd) -> u32 {
        super::os::accept_queue_len(listener)
    }

    #[inline]
    fn is_overflowing(&self) -> bool {
        // SAFETY: as in `wants_enter`.
        unsafe { self.ring.submission_shared() }.cq_overflow()
    }

    fn submit(&mut self, wait: Option<Duration>) -> Result<bool, Error> {
        if self.is_overflowing() {
            self.overflow_count += 1;
        }
        let submitter = self.ring.submitter();
        let result = match wait {
            None => submitter.submit(),
            Some(Duration::MAX) => submitter.submit_and_wait(1),
            Some(time) => {
                let timespec = Timespec::new()
                    .sec(time.as_secs())
                    .nsec(time.subsec_nanos());
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        if let Err(e) = result
            && !matches!(
                // Timeout, signal, or no memory for a request.
                e.raw_os_error(),
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN)
            )
        {
            return Err(Error::from_io(
                "the kernel refuses to serve a ring",
                e,
                "see dmesg",
            ));
        }
        let is_empty = self.ring.submission().is_empty();
        if is_empty {
            self.shared_queued = [0; 2];
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(is_empty)
    }

    fn overflow_count(&self) -> u64 {
        self.overflow_count
    }
}
