//! Byte strings that live as long as the process.
//!
//! The engine sends `&'static` bytes and handlers compare with them, while a worker reads its texts
//! again for every test of its master, and several times a second during a lookup.
//! Invariants: equal contents are kept once, so memory grows only with the number of different
//! texts ever given.
//! Must not depend on: the use of a text.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

static KEPT: Mutex<Option<HashSet<&'static [u8]>>> = Mutex::new(None);

/// The same bytes, kept until the process ends.
pub fn keep(bytes: Vec<u8>) -> &'static [u8] {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    if let Some(known) = kept.get(&*bytes) {
        return known;
    }
    let bytes: &'static [u8] = bytes.leak();
    kept.insert(bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_kept_once() {
        let (first, again) = (keep(vec![1, 2, 3]), keep(vec![1, 2, 3]));
        assert_eq!(first.as_ptr(), again.as_ptr());
        assert_eq!(keep(Vec::new()), b"");
        assert_eq!(keep(vec![1, 2]), [1, 2]);
    }
}
