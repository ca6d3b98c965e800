//! Timers of a shard: one for each slot at most, linked through the slots themselves.
//!
//! A hierarchical wheel of 3 levels with 256 buckets each; a bucket is a list through `Slot::next`
//! and `Slot::prev`, first in, first out. Inserting and removing touch two neighbours; a tick
//! touches one bucket; a timer moves down at most twice.
//! Invariants: a timer is on the wheel exactly when its slot's `prev` is not [`OFF_WHEEL`]; it is
//! never handed out before its deadline, and at the latest by the first `advance` to or past it.
//! Ticks may wrap; a deadline is at most 2^31 ticks away.
//! Must not depend on: what a timer is for, what a tick lasts.

use crate::slot::{NONE, OFF_WHEEL, Slots};

const BITS: u32 = 8;
const BUCKETS: usize = 1 << BITS;
const LEVELS: usize = 3;
const REACH: u32 = 1 << (BITS * LEVELS as u32);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    head: u32,
    tail: u32,
}

/// The wheel of one shard: 6 KiB however many timers.
#[derive(Debug)]
pub struct Wheel {
    buckets: [Bucket; BUCKETS * LEVELS],
    occupied: [u64; BUCKETS / 64],
    now: u32,
    count: u32,
}

impl Wheel {
    /// A wheel that stands at tick `now`.
    pub fn new(now: u32) -> Self {
        Wheel {
            buckets: [Bucket {
                head: NONE,
                tail: NONE,
            }; BUCKETS * LEVELS],
            occupied: [0; BUCKETS / 64],
            now,
            count: 0,
        }
    }

    /// Timers on the wheel.
    #[cfg(any(test, feature = "sim"))]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Sets the timer of `index` to `deadline`, replacing the one it has. A deadline not after now
    /// is due at the next tick.
    pub fn set<S: Copy + Default>(&mut self, slots: &mut Slots<S>, index: u32, deadline: u32) {
        self.clear(slots, index);
        let ahead = deadline.wrapping_sub(self.now) as i32;
        slots[index].deadline = if ahead < 1 {
            self.now.wrapping_add(1)
        } else {
            deadline
        };
        self.count += 1;
        self.link(slots, index);
    }

    /// Takes the timer of `index` off, if it has one.
    pub fn clear<S: Copy + Default>(&mut self, slots: &mut Slots<S>, index: u32) {
        if slots[index].is_timed() {
            let at = self.bucket_of(slots[index].deadline);
            self.unlink(slots, index, at);
            self.count -= 1;
        }
    }

    /// Moves to tick `now` as far as needed to find a due timer, takes it off and returns its slot;
    /// `None` when the wheel stands at `now` and nothing is due.
    pub fn expire<S: Copy + Default>(&mut self, slots: &mut Slots<S>, now: u32) -> Option<u32> {
        loop {
            let at = self.now as usize % BUCKETS;
            let index = self.buckets[at].head;
            if index != NONE {
                self.unlink(slots, index, at);
                self.count -= 1;
                return Some(index);
            }
            if (now.wrapping_sub(self.now) as i32) <= 0 {
                return None;
            }
            if self.count == 0 {
                self.now = now;
                return None;
            }
            self.now = self.now.wrapping_add(1);
            self.cascade(slots);
        }
    }

    /// Ticks from where the wheel stands until something may be due: exact within the level at
    /// hand, else until the next cascade. `None` without timers.
    pub fn next_due_ticks(&self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let at = self.now as usize % BUCKETS;
        let next = (at..BUCKETS).find(|b| self.occupied[b / 64] >> (b % 64) & 1 == 1);
        Some(next.unwrap_or(BUCKETS).saturating_sub(at) as u32)
    }

    /// Where the wheel stands.
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Re-files the buckets of higher levels whose time has come.
    fn cascade<S: Copy + Default>(&mut self, slots: &mut Slots<S>) {
        for level in 1..LEVELS {
            if self.now & ((1 << (BITS * level as u32)) - 1) != 0 {
                break;
            }
            let at = level * BUCKETS + (self.now >> (BITS * level as u32)) as usize % BUCKETS;
            let mut index = self.buckets[at].head;
            self.buckets[at] = Bucket {
                head: NONE,
                tail: NONE,
            };
            while index != NONE {
                let next = slots[index].next;
                self.link(slots, index);
                index = next;
            }
        }
    }

    /// The bucket a timer with `deadline` lies in now. It depends only on `deadline` and the
    /// wheel's time, and moves only in `cascade`, which re-files the whole bucket: what lies
    /// further than one turn of a level lies in a higher one.
    fn bucket_of(&self, deadline: u32) -> usize {
        let differ = deadline ^ self.now;
        if differ < 1 << BITS {
            deadline as usize % BUCKETS
        } else if differ < 1 << (2 * BITS) {
            BUCKETS + (deadline >> BITS) as usize % BUCKETS
        } else {
            // Farther than the reach: wait in the top level, and be filed again each time its
            // bucket comes round.
            2 * BUCKETS + (deadline >> (2 * BITS)) as usize % BUCKETS
        }
    }

    fn link<S: Copy + Default>(&mut self, slots: &mut Slots<S>, index: u32) {
        let at = self.bucket_of(slots[index].deadline);
        let tail = self.buckets[at].tail;
        slots[index].prev = tail;
        slots[index].next = NONE;
        if tail == NONE {
            self.buckets[at].head = index;
        } else {
            slots[tail].next = index;
        }
        self.buckets[at].tail = index;
        if at < BUCKETS {
            self.occupied[at / 64] |= 1 << (at % 64);
        }
    }

    fn unlink<S: Copy + Default>(&mut self, slots: &mut Slots<S>, index: u32, at: usize) {
        let (prev, next) = (slots[index].prev, slots[index].next);
        if prev == NONE {
            debug_assert_eq!(self.buckets[at].head, index);
            self.buckets[at].head = next;
        } else {
            slots[prev].next = next;
        }
        if next == NONE {
            debug_assert_eq!(self.buckets[at].tail, index);
            self.buckets[at].tail = prev;
        } else {
            slots[next].prev = prev;
        }
        slots[index].prev = OFF_WHEEL;
        slots[index].next = NONE;
        if at < BUCKETS && self.buckets[at].head == NONE {
            self.occupied[at / 64] &= !(1 << (at % 64));
        }
    }
}

const _: () = assert!(REACH == 1 << 24);

#[cfg(test)]
mod tests {
    use super::*;

    fn table(count: u32) -> Slots<u32> {
        let mut slots = Slots::new(count);
        for _ in 0..count {
            slots.take();
        }
        slots
    }

    /// A small generator, so that the test needs no crate and repeats.
    fn random(seed: &mut u64) -> u32 {
        *seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (*seed >> 33) as u32
    }

    #[test]
    fn never_early_never_late_against_a_plain_list() {
        for start in [0u32, 250, 65_530, u32::MAX - 1000] {
            let mut seed = u64::from(start) + 7;
            let mut slots = table(200);
            let mut wheel = Wheel::new(start);
            let mut due: Vec<Option<u32>> = vec![None; 200];
            let mut now = start;
            for _ in 0..3_000 {
                for _ in 0..random(&mut seed) % 5 {
                    let index = random(&mut seed) % 200;
                    if random(&mut seed).is_multiple_of(4) {
                        wheel.clear(&mut slots, index);
                        due[index as usize] = None;
                    } else {
                        let span = [3, 300, 70_000, 20_000_000][random(&mut seed) as usize % 4];
                        let deadline = now.wrapping_add(1 + random(&mut seed) % span);
                        wheel.set(&mut slots, index, deadline);
                        due[index as usize] = Some(deadline);
                    }
                }
                now = now.wrapping_add(
                    random(&mut seed) % [2, 40, 5_000][random(&mut seed) as usize % 3],
                );
                while let Some(index) = wheel.expire(&mut slots, now) {
                    let deadline = due[index as usize]
                        .take()
                        .expect("expired once and only if set");
                    assert!(now.wrapping_sub(deadline) as i32 >= 0, "early");
                    assert_eq!(wheel.now(), deadline, "handed out at its own tick");
                }
                assert!(
                    due.iter().flatten().all(|d| d.wrapping_sub(now) as i32 > 0),
                    "late"
                );
                assert_eq!(wheel.count() as usize, due.iter().flatten().count());
            }
        }
    }

    #[test]
    fn bucket_is_first_in_first_out_even_after_a_cascade() {
        let mut slots = table(10);
        let mut wheel = Wheel::new(0);
        for index in 0..10 {
            wheel.set(&mut slots, index, 1_000);
        }
        let order: Vec<u32> = std::iter::from_fn(|| wheel.expire(&mut slots, 1_000)).collect();
        assert_eq!(order, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn next_due_tick_is_never_past_a_timer() {
        let mut slots = table(1);
        let mut wheel = Wheel::new(100);
        assert_eq!(wheel.next_due_ticks(), None);
        wheel.set(&mut slots, 0, 120);
        assert_eq!(wheel.next_due_ticks(), Some(20));
        wheel.set(&mut slots, 0, 300);
        assert_eq!(
            wheel.next_due_ticks(),
            Some(156),
            "until the cascade at 256"
        );
    }
}
