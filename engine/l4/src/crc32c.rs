//! CRC-32C (Castagnoli; RFC 3720, B.4), as PP2_TYPE_CRC32C carries it.
//!
//! Must not depend on: what is checked.

/// The polynomial 0x1edc6f41, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (POLYNOMIAL & (value & 1).wrapping_neg());
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// A checksum over pieces.
pub struct Crc32c(u32);

impl Crc32c {
    pub fn new() -> Self {
        Crc32c(!0)
    }

    pub fn update(self, bytes: &[u8]) -> Self {
        Crc32c(bytes.iter().fold(self.0, |crc, byte| {
            (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]
        }))
    }

    pub fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Crc32c;

    /// The examples of RFC 3720, B.4, and the usual check value.
    #[test]
    fn checksums_of_rfc_3720() {
        let crc = |bytes: &[u8]| Crc32c::new().update(bytes).finish();
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
        let ascending: [u8; 32] = core::array::from_fn(|index| index as u8);
        assert_eq!(crc(&ascending), 0x46dd_794e);
        assert_eq!(crc(b"123456789"), 0xe306_9283);
    }
}
