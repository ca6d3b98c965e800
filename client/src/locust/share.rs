//! The users of a process shared out among its workers.
//!
//! Invariants: the parts add up to the whole; once there are as many users as were ordered, each part is what its worker was ordered.
//! Must not know: who the workers are.

/// `present` users in parts, for workers that are to have `wanted` of them each.
pub fn parts(present: u64, wanted: &[u64]) -> Vec<u64> {
    let all: u64 = wanted.iter().sum();
    let up_to = |part: usize| {
        let (share, whole) = match all {
            0 => (part as u64, wanted.len() as u64),
            _ => (wanted[..part].iter().sum(), all),
        };
        (u128::from(present) * u128::from(share) / u128::from(whole)) as u64
    };
    (0..wanted.len())
        .map(|part| up_to(part + 1) - up_to(part))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole_and_exact_when_all_are_there() {
        assert_eq!(parts(10, &[3, 3, 4]), [3, 3, 4]);
        assert_eq!(parts(5, &[3, 3, 4]), [1, 2, 2]);
        assert_eq!(parts(7, &[0, 0, 0]), [2, 2, 3]);
        assert_eq!(parts(0, &[0]), [0]);
        assert_eq!(parts(20, &[0, 10]), [0, 20]);
        assert!(parts(3, &[]).is_empty());
    }
}
