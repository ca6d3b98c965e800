//! Commands that change the number of a client's users while it runs.
//!
//! Must not depend on: what the users do.

use holdfast_client::load::Load;
use holdfast_engine::sim::Random;

/// Changes of a load that begins with `from` users, and their times after `now_us`. They come from
/// a source of their own: what is drawn elsewhere stays.
pub(super) fn changes(now_us: u64, from: u64, seed: u64) -> Vec<(u64, Load)> {
    let mut random = Random::new(seed ^ 0x5349_4655);
    let count = if random.once_in(2) {
        random.magnitude(1, 5)
    } else {
        0
    };
    let mut drawn: Vec<_> = (0..count)
        .map(|_| {
            let rate_milli = random.pick(&[Load::MAX, 20_000, 500_000]);
            // Fewer as often as more: of those who were there at first, not many are left to go
            // after a while.
            let most = random.pick(&[from / 4, from + 10]);
            let at_us = now_us + random.magnitude(1_000, 3_000_000);
            let users = random.below(most + 1);
            let since_us = at_us + random.pick(&[0, 0, 1_000, 300_000]);
            (at_us, users, rate_milli, since_us)
        })
        .collect();
    drawn.sort_unstable();
    let mut before = from;
    let change = |(at_us, users, rate_milli, since_us)| {
        let from = std::mem::replace(&mut before, users);
        (at_us, Load::change(from, users, rate_milli, since_us))
    };
    drawn.into_iter().map(change).collect()
}
