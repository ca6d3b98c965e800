//! Timers: set, replaced, expired.

use divan::{Bencher, black_box, counter::ItemsCount};
use holdfast_engine::internals::{Slots, Wheel};

const TIMERS: u32 = 100_000;

fn table() -> (Slots<u64>, Wheel) {
    let mut slots = Slots::new(TIMERS);
    while slots.take().is_some() {}
    (slots, Wheel::new(0))
}

/// Every slot's timer is set once, over half a minute of ticks.
#[divan::bench]
fn set(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(TIMERS))
        .with_inputs(table)
        .bench_local_refs(|(slots, wheel)| {
            for index in 0..TIMERS {
                wheel.set(slots, index, 1 + index.wrapping_mul(2_654_435_761) % 30_000);
            }
        });
}

/// A heartbeat each half minute: every timer fires and is set again, as the holder of idle
/// connections does.
#[divan::bench]
fn fire_and_set_again(bencher: Bencher) {
    let (mut slots, mut wheel) = table();
    for index in 0..TIMERS {
        wheel.set(&mut slots, index, 1 + index % 30_000);
    }
    let mut now = 0;
    bencher.counter(ItemsCount::new(TIMERS)).bench_local(|| {
        now += 30_000;
        while let Some(index) = wheel.expire(&mut slots, now) {
            let due = slots[index].deadline + 30_000;
            wheel.set(&mut slots, black_box(index), due);
        }
    });
}
