//! How many requests there may be over all threads: `--requests`.
//!
//! Invariants: no more are given out than there are, and in the end all of them.
//! Must not depend on: who asks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that may still be begun.
#[derive(Debug)]
pub struct RequestLimit {
    /// `u64::MAX`: any number.
    left: AtomicU64,
}

impl RequestLimit {
    /// A request_limit of `count` requests, or without an end.
    pub fn new(count: Option<u64>) -> Self {
        RequestLimit {
            left: AtomicU64::new(count.unwrap_or(u64::MAX)),
        }
    }

    /// Takes up to `wanted` requests.
    #[inline]
    pub fn take(&self, wanted: u8) -> u8 {
        // Without an end nothing is written, so that threads do not meet here.
        if self.left.load(Ordering::Relaxed) == u64::MAX {
            return wanted;
        }
        let mut taken = 0;
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                taken = left.min(u64::from(wanted));
                (taken > 0).then(|| left - taken)
            });
        taken as u8
    }

    /// Requests left, if there is an end to them.
    pub fn left(&self) -> Option<u64> {
        let left = self.left.load(Ordering::Relaxed);
        (left != u64::MAX).then_some(left)
    }

    /// True if there are none.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_given_out_and_no_more() {
        let request_limit = RequestLimit::new(Some(10));
        assert_eq!([4, 4, 4, 4].map(|n| request_limit.take(n)), [4, 4, 2, 0]);
        assert!(request_limit.is_exhausted());
        let endless = RequestLimit::new(None);
        assert_eq!((endless.take(9), endless.left()), (9, None));
    }
}
