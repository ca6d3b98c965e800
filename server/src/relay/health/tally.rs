//! How checks in a row become up or down.
//!
//! Must not depend on: what a check is, clocks.

use crate::relay::backends::Health;

/// The results of the last checks of a backend.
#[derive(Debug, Default)]
pub struct Tally {
    /// So many checks in a row spoke against `health`.
    against: u32,
    /// What they spoke against.
    health: Health,
    /// Any check was made.
    has_begun: bool,
}

impl Tally {
    /// Adds a check of a backend with `health`; returns its health after that.
    pub fn record(&mut self, health: Health, has_passed: bool, rise: u32, fall: u32) -> Health {
        if health != self.health {
            (self.health, self.against) = (health, 0);
        }
        let needed = match health {
            // That it is up was only assumed before the first check.
            Health::Up if !self.has_begun => 1,
            Health::Up => fall,
            Health::Down => rise,
        };
        self.has_begun = true;
        if has_passed == (health == Health::Up) {
            self.against = 0;
            return health;
        }
        self.against += 1;
        if self.against < needed {
            return health;
        }
        self.against = 0;
        self.health = match health {
            Health::Up => Health::Down,
            Health::Down => Health::Up,
        };
        self.health
    }

    /// True if the last checks speak against what the backend is, and are not enough to change it.
    pub fn is_undecided(&self) -> bool {
        self.against > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The health after each check, `+` passed and `-` failed, as `U` and `D`.
    fn after(checks: &str, rise: u32, fall: u32) -> String {
        let mut tally = Tally::default();
        let mut health = Health::Up;
        let mut step = |check: char| {
            health = tally.record(health, check == '+', rise, fall);
            if health == Health::Up { 'U' } else { 'D' }
        };
        checks.chars().map(&mut step).collect()
    }

    #[test]
    fn rise_and_fall_count_in_a_row() {
        for (rise, fall, checks, expected) in [
            (2, 3, "+--+---++-++", "UUUUUUDDUUUU"),
            (2, 3, "+---+-+-++", "UUUDDDDDDU"),
            // Before the first check it was only assumed to be up.
            (2, 3, "-++", "DDU"),
            (1, 1, "+-+-", "UDUD"),
            (3, 1, "+-++-+++-", "UDDDDDDUD"),
        ] {
            assert_eq!(after(checks, rise, fall), expected, "{checks}");
        }
    }

    #[test]
    fn change_by_others_begins_a_new_count() {
        let mut tally = Tally::default();
        assert_eq!(tally.record(Health::Up, true, 2, 3), Health::Up);
        assert_eq!(tally.record(Health::Up, false, 2, 3), Health::Up);
        assert_eq!(tally.record(Health::Up, false, 2, 3), Health::Up);
        assert!(tally.is_undecided());
        // Clients found it failing before the third check.
        assert_eq!(tally.record(Health::Down, true, 2, 3), Health::Down);
        assert_eq!(tally.record(Health::Down, true, 2, 3), Health::Up);
        assert!(!tally.is_undecided());
    }
}
