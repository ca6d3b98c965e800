//! How much a peer may send before it is refused.
//!
//! Purpose: every bound of a head and of an announced body in one place, with its unit in the name.
//! Invariants: no message that was accepted exceeds one.
//! Must not know: what a message says.

/// Headers of one head there is room for; a larger [`Limits::header_count_max`] means this.
pub const HEADER_COUNT_CEILING: usize = 128;

/// What a message may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest head, bytes: from the first byte, empty lines before it included, to the end of the empty line that ends it.
    pub head_bytes_max: usize,
    /// Longest request target, bytes.
    pub target_bytes_max: usize,
    /// Most headers in one head; at most [`HEADER_COUNT_CEILING`].
    pub header_count_max: usize,
    /// Longest request body announced by Content-Length, bytes. Of a chunked body the caller counts the bytes.
    pub body_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes_max: 16 << 10,
            target_bytes_max: 8 << 10,
            header_count_max: 64,
            body_bytes_max: 1 << 30,
        }
    }
}
