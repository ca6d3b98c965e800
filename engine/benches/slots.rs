//! The slot table: a connection's life, and the state changes of one message.

use divan::{Bencher, black_box, counter::ItemsCount};
use holdfast_engine::internals::Slots;

const SLOTS: u32 = 100_000;

/// Taken, opened, parked, closed and released.
#[divan::bench]
fn open_and_release(bencher: Bencher) {
    let mut slots = Slots::<u64>::new(SLOTS);
    bencher.counter(ItemsCount::new(SLOTS)).bench_local(|| {
        for _ in 0..SLOTS {
            let index = slots.take().expect("there is room");
            slots[index].accepted();
            slots[index].read_parked();
        }
        for index in 0..SLOTS {
            slots[index].read_completed();
            slots.release(index);
        }
    });
}

/// One message in and one out: the state changes a request and its answer make.
#[divan::bench]
fn receive_and_send(bencher: Bencher) {
    let mut slots = Slots::<u64>::new(SLOTS);
    while let Some(index) = slots.take() {
        slots[index].accepted();
        slots[index].read_hot();
    }
    bencher.counter(ItemsCount::new(SLOTS)).bench_local(|| {
        for index in 0..SLOTS {
            let slot = &mut slots[black_box(index)];
            slot.read_active();
            slot.send_submitted();
        }
        for index in 0..SLOTS {
            let slot = &mut slots[black_box(index)];
            assert!(!slot.awaits_sent());
            slot.send_settled();
        }
    });
}
