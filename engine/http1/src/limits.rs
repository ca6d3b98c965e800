//! How much a peer may send before it is refused: every bound of a head and of an announced body,
//! with its unit in the name.
//!
//! Invariants: no message that was accepted exceeds one.
//! Must not depend on: what a message means.

/// Header lines of one head there is room for; a larger [`Limits::header_count_max`] means this.
pub const HEADER_COUNT_CEILING: usize = 512;

/// The largest message that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest head, bytes: from the first byte, empty lines before it included, to the end of the
    /// empty line that ends it.
    pub head_bytes_max: usize,
    /// Longest request target, bytes. Unused for responses.
    pub target_bytes_max: usize,
    /// Most header lines in one head; at most [`HEADER_COUNT_CEILING`].
    pub header_count_max: usize,
    /// Longest request body announced by Content-Length, bytes. Of a chunked body the caller counts
    /// the bytes. Unused for responses.
    pub body_bytes_max: u64,
}

impl Limits {
    /// The defaults for responses: heads up to 64 KiB with 256 header lines. No body is bounded.
    pub const RESPONSE: Limits = Limits {
        head_bytes_max: 64 << 10,
        target_bytes_max: 0,
        header_count_max: 256,
        body_bytes_max: u64::MAX,
    };
}

/// The defaults for requests: heads up to 16 KiB with 64 header lines, targets up to 8 KiB, bodies
/// up to 1 GiB.
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
