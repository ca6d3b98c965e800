//! Masking of payloads (RFC 6455, 5.3).
//!
//! Must not depend on: frames.

/// Masks or unmasks `bytes` in place, eight at a time. Returns the mask for the bytes that follow.
#[inline]
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes((&*chunk).try_into().expect("8 bytes")) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let rest = chunks.into_remainder();
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    let mut next = mask;
    next.rotate_left(rest.len() % 4);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_in_pieces_is_masking_at_once() {
        let plain: Vec<u8> = (0..100).collect();
        let mask = [0x11, 0x22, 0x44, 0x88];
        for cut in 0..plain.len() {
            let mut masked = plain.clone();
            let (first, second) = masked.split_at_mut(cut);
            let next = apply_mask(first, mask);
            apply_mask(second, next);
            for (at, byte) in masked.iter().enumerate() {
                assert_eq!(*byte, plain[at] ^ mask[at % 4], "cut at {cut}, byte {at}");
            }
        }
    }
}
