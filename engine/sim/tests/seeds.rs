//! Some thousand seeds in every test run, the seeds that once found something, and proof that the simulator detects mistakes.

use holdfast_engine::sim::{Canary, Fault};
use holdfast_engine::{CloseReason, OpenFailure};
use holdfast_sim::campaign::{Campaign, attempt, seeds_until_caught};
use holdfast_sim::{Coverage, Run, Scenario};

/// Most seeds a mistake may survive.
const CANARY_SEEDS_MAX: u64 = 10_000;

fn run(scenario: Scenario, seed: u64) -> Run {
    Run {
        scenario,
        seed,
        canary: None,
        is_told: false,
    }
}

fn all(from: u64, count: u64) -> Campaign {
    Campaign {
        from,
        count,
        scenario: None,
        canary: None,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        is_told: false,
    }
}

fn campaign(from: u64, count: u64) -> Coverage {
    passed(all(from, count))
}

fn passed(campaign: Campaign) -> Coverage {
    match campaign.run() {
        Ok(coverage) => coverage,
        Err(failures) => panic!("{}: {}", failures[0].0.command(), failures[0].1),
    }
}

#[test]
fn invariants_hold_and_every_fault_occurs() {
    let coverage = campaign(0, 3_600);
    let dead: Vec<&str> = Fault::ALL
        .iter()
        .filter(|f| coverage.faults[**f as usize] == 0)
        .map(|f| f.label())
        .collect();
    assert!(dead.is_empty(), "never met: {dead:?}\n{}", coverage.text());
    let met = |counts: &[u64], number: usize| counts[number] > 0;
    for reason in CloseReason::ALL {
        let is_met = met(&coverage.stats.closed, *reason as usize);
        assert!(is_met, "no connection ended with {}", reason.label());
    }
    for failure in OpenFailure::ALL {
        let is_met = met(&coverage.stats.failed, *failure as usize);
        assert!(is_met, "no attempt failed with {}", failure.label());
    }
    for name in [
        "users_fewer",
        "sent_half_open",
        "resets_half_open",
        "resumes",
        "resets_paused",
        "upgraded",
        "pings_answered",
    ] {
        let event = coverage.events.iter().find(|(event, _)| *event == name);
        assert!(
            event.is_some_and(|(_, count)| *count > 0),
            "never met: {name}"
        );
    }
    assert!(coverage.stats.refused_full > 0 && coverage.stats.stale_completions > 0);
}

/// Calm runs bound lateness and the listen queue; the others have shares of one piece of work.
#[test]
fn work_beyond_a_turn_is_shared_and_postponed() {
    let overload = Campaign {
        scenario: Some(Scenario::Overload),
        ..all(0, 200)
    };
    let coverage = passed(overload);
    for (name, turns) in coverage.stats.turns() {
        assert!(turns > 0, "no run met {name}");
    }
}

/// Each fails when a fix of the engine is undone; the fixes are in the history.
#[test]
fn seeds_that_found_defects_pass() {
    for (scenario, seed) in [
        // A handler that paused after it had closed in stages was given bytes again.
        (Scenario::Echo, 30_168),
        // Bytes held until it was known whether more came were lost when what came was the peer's end.
        (Scenario::Http, 3_289),
        // A handler that paused in on_writable was given what was held all the same.
        (Scenario::Echo, 283),
        // A parked connection that became readable was not received from.
        (Scenario::Echo, 5),
        (Scenario::Http, 15),
        // Static bytes were sent on a connection that had ended with those before them.
        (Scenario::Echo, 247),
        // Bytes that were to be discarded were delivered after pause_until_sent.
        (Scenario::Streams, 4_628),
        // Sends that a full queue had submitted were not settled.
        (Scenario::Echo, 1_404),
        (Scenario::Http, 7_883),
        // A handler that paused while its connection was closed in stages was given bytes again.
        (Scenario::Mesh, 1_083),
        // A thread slept although a connection that was resumed by its id was to receive.
        (Scenario::Mesh, 2_818),
    ] {
        let outcome = attempt(run(scenario, seed));
        assert!(outcome.is_ok(), "{scenario:?} {seed}: {outcome:?}");
    }
}

#[test]
fn seed_replays_identically() {
    for scenario in Scenario::ALL {
        for seed in 100..105 {
            let traces = [(); 2].map(|()| run(scenario, seed).run().trace);
            assert_eq!(traces[0], traces[1], "{scenario:?} {seed}");
        }
    }
    let other = [100, 101].map(|seed| run(Scenario::Echo, seed).run().trace);
    assert_ne!(other[0], other[1], "another seed is another run");
}

#[test]
fn every_canary_is_caught() {
    for canary in Canary::ALL {
        let caught = seeds_until_caught(*canary, CANARY_SEEDS_MAX);
        let (seeds, run, wrong) =
            caught.unwrap_or_else(|| panic!("{} lives after {CANARY_SEEDS_MAX}", canary.label()));
        println!("{:<20} {seeds:>6} seeds: {wrong}", canary.label());
        let again = attempt(run).expect_err("a failure replays");
        assert_eq!(again, wrong, "and is the same: {}", run.command());
    }
}
