//! Memory shared with the kernel: one mapping for each ring, cut into the buffer ring, its buffers,
//! addresses and staging.
//!
//! Invariants: a region is page-aligned, zeroed, never moves and never grows; pages cost memory
//! only once touched.
//! Must not depend on: what the bytes mean.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// The smallest page size. Where pages are larger, the kernel refuses a range that is not aligned
/// to them, and the memory is kept.
const PAGE: usize = 4_096;

/// A private anonymous mapping.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: a region is plain memory with one owner; nothing in it is tied to a thread.
unsafe impl Send for Region {}

impl Region {
    /// Maps `length` bytes.
    ///
    /// # Errors
    /// The errno of mmap, as ENOMEM.
    pub fn new(length: usize) -> nix::Result<Self> {
        let length = NonZeroUsize::new(length).ok_or(nix::Error::EINVAL)?;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // memory in use.
        let base = unsafe {
            mmap_anonymous(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )?
        };
        Ok(Region {
            base: base.cast(),
            length,
        })
    }

    /// The address of `offset`, with `length` bytes inside the region.
    pub fn address(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(
            offset
                .checked_add(length)
                .is_some_and(|end| end <= self.length.get())
        );
        // SAFETY: the assertion above keeps it inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Bytes for reading. Callers ensure that the kernel is not writing them.
    pub fn slice(&self, offset: usize, length: usize) -> &[u8] {
        // SAFETY: inside the mapping (checked), initialised (mapped zeroed), and by the ring's rule
        // not written meanwhile: a buffer belongs to the program between its completion and its
        // recycling, staging always does.
        unsafe { std::slice::from_raw_parts(self.address(offset, length), length) }
    }

    /// Bytes for writing, under the same rule.
    pub fn slice_mut(&mut self, offset: usize, length: usize) -> &mut [u8] {
        // SAFETY: as in `slice`, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.address(offset, length), length) }
    }

    /// Gives the whole pages of a range back to the system; they read as zeros and are backed again
    /// when next written.
    pub fn release_pages(&mut self, offset: usize, length: usize) {
        let from = offset.next_multiple_of(PAGE);
        let until = (offset + length) / PAGE * PAGE;
        let Some(length) = until.checked_sub(from).filter(|l| *l > 0) else {
            return;
        };
        let address = NonNull::new(self.address(from, length)).expect("inside a mapping");
        // SAFETY: whole pages of this private anonymous mapping, of which `&mut self` is the only
        // reference; dropping their content is as writing zeros. The kernel writes there only for
        // receives, of which the caller has none under way.
        let _ = unsafe { madvise(address.cast(), length, MmapAdvise::MADV_DONTNEED) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and the owner drops the ring that knows the
        // address first.
        let _ = unsafe { munmap(self.base.cast(), self.length.get()) };
    }
}

/// The buffer ring: tells the kernel which buffers it may fill. Entries lie at the start of the
/// region.
#[derive(Debug)]
pub struct BufferRing {
    /// Entries; a power of two.
    count: u16,
    /// Buffers in use: these are with the kernel or the program, the others have not been touched.
    used_count: u16,
    buffer_bytes: u32,
    buffers_offset: usize,
    tail: u16,
}

impl BufferRing {
    /// Bytes of the entries.
    pub fn entries_bytes(count: u16) -> usize {
        usize::from(count) * size_of::<BufRingEntry>()
    }

    /// A ring of `count` entries at the start of `region`, of which the first `used_count` buffers
    /// are in use; buffer `i` lies at `buffers_offset + i * buffer_bytes`.
    pub fn new(
        region: &mut Region,
        count: u16,
        used_count: u16,
        buffer_bytes: u32,
        buffers_offset: usize,
    ) -> Self {
        let mut ring = BufferRing {
            count,
            used_count: 0,
            buffer_bytes,
            buffers_offset,
            tail: 0,
        };
        ring.add(region, used_count);
        ring
    }

    /// Brings up to `more` buffers into use; returns how many.
    pub fn add(&mut self, region: &mut Region, more: u16) -> u16 {
        let from = self.used_count;
        self.used_count = self.count.min(from.saturating_add(more));
        for buffer in from..self.used_count {
            self.give(region, buffer);
        }
        self.used_count - from
    }

    /// Buffers in use.
    pub fn used_count(&self) -> u16 {
        self.used_count
    }

    /// Gives `buffer` to the kernel.
    pub fn give(&mut self, region: &mut Region, buffer: u16) {
        assert!(buffer < self.used_count);
        let address = region.address(self.offset(buffer), self.buffer_bytes as usize) as u64;
        let entries = region
            .address(0, Self::entries_bytes(self.count))
            .cast::<BufRingEntry>();
        // SAFETY: the entry lies inside the entries (masked index), which lie at the page-aligned
        // start of the region; the kernel does not read it before the tail passes it, and only this
        // thread writes.
        unsafe {
            let entry = &mut *entries.add(usize::from(self.tail & (self.count - 1)));
            entry.set_addr(address);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, is aligned for u16, and is shared with the
        // kernel by atomic stores only.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Bytes of all buffers, in use or not.
    pub fn all_bytes(&self) -> usize {
        usize::from(self.count) * self.buffer_bytes as usize
    }

    /// Where `buffer` lies in the region.
    pub fn offset(&self, buffer: u16) -> usize {
        assert!(buffer < self.count);
        self.buffers_offset + usize::from(buffer) * self.buffer_bytes as usize
    }

    /// Size of a buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_reads_back_what_was_written_and_refuses_what_is_outside() {
        let mut region = Region::new(8192).unwrap();
        region.slice_mut(4096, 3).copy_from_slice(b"abc");
        assert_eq!(region.slice(4095, 5), b"\0abc\0");
        assert!(std::panic::catch_unwind(|| region.address(8190, 3)).is_err());
        region.release_pages(4095, 4097);
        assert_eq!(region.slice(4096, 3), [0; 3]);
    }
}
