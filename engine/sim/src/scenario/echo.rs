//! The engine by itself: handlers that do anything on both sides, and scripted peers.

use super::babble::{Babbler, Temper};
use super::notes;
use super::sides::{Sides, babbling, plan, world};
use crate::run::{Outcome, Run};
use holdfast_engine::sim::Random;

pub(super) fn run(run: Run) -> Outcome {
    let world = world(run);
    let (server, client, plan, tempers, count) = {
        let mut world = world.lock().expect("it is new");
        let (server, client) = babbling(&mut world, true);
        let random = world.random();
        let tempers = (Temper::draw(random), Temper::draw(random));
        let plan = plan(random, true);
        (server, client, plan, tempers, random.magnitude(1, 40))
    };
    let sides = Sides {
        world: &world,
        server: &server,
        client: &client,
        plan: &plan,
        canary: run.canary,
        seed: run.seed,
    };
    let babbler = |temper, count| {
        let mut world = world.lock().expect("nobody panicked with it");
        Babbler::new(temper, world.random(), count)
    };
    let mut random = Random::new(run.seed ^ 0x434F_4D4D);
    let now_us = world.lock().expect("nobody panicked with it").now_us();
    let mut script = |thread| notes::script(&mut random, now_us, thread);
    let to_client = script(0);
    sides.run_commanded(
        || babbler(tempers.0, 0),
        babbler(tempers.1, count),
        script,
        to_client,
        |coverage, servers, client| {
            notes::check(coverage, servers, |babbler| &babbler.notes);
            notes::check(coverage, std::slice::from_mut(client), |b| &b.notes);
        },
    )
}
