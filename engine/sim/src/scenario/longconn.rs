//! `holdfast-server longconn` against `holdfast-client longconn`, with scripted peers among both.

use std::sync::Arc;

use holdfast_client::load::Load;
use holdfast_client::longconn::user::{Ended, UserConfig, UserReport, Users};
use holdfast_client::reconnect::Backoff;
use holdfast_engine::Handler;
use holdfast_engine::sim::Random;
use holdfast_server::access::list::AccessList;
use holdfast_server::access::{Access, AccessControl};
use holdfast_server::longconn::heartbeat::{HeartbeatConfig, HeartbeatServer};

use super::shifting;
use super::sides::{SMALLEST, Sides, add_hostile, config, plan, world};
use crate::run::{Outcome, Run, Scenario};

static MESSAGES: [&[u8]; 3] = [b"ok", b"k", &[b'm'; 900]];

pub(super) fn run(run: Run) -> Outcome {
    let world = world(run);
    let (server, client, plan, heartbeat, user, load, has_hostile) = {
        let mut world = world.lock().expect("it is new");
        let has_hostile = world.random().once_in(3);
        let content = [b"hello".to_vec(), vec![b'x'; 1_000]];
        let answers = [b"ok".to_vec(), b"okok".to_vec(), b"no".to_vec()];
        add_hostile(&mut world, &content, has_hostile.then_some(&answers));
        let random = world.random();
        let (server, client) = (config(random), config(random));
        let message = random.pick(&MESSAGES);
        let interval_us = random.pick(&[0, 5_000, 50_000, 200_000, 1_000_000]);
        let echoes = random.once_in(4);
        let heartbeat = HeartbeatConfig {
            message,
            interval_us,
            idle_timeout_us: random
                .once_in(3)
                .then(|| random.magnitude(1_000, 3_000_000)),
            echo: echoes,
        };
        let upward = random.pick(&MESSAGES);
        let user = UserConfig {
            // With an echo anything may come between.
            expect: if echoes { b"" } else { message },
            interval_us: if random.once_in(2) { interval_us } else { 0 },
            send: random
                .once_in(2)
                .then(|| (upward, random.magnitude(8_000, 500_000))),
            reconnect: random.once_in(2).then(|| Backoff {
                first_us: random.magnitude(1_000, 200_000),
                longest_us: 1_000_000,
            }),
        };
        let users = random.magnitude(1, 60);
        let load = Load::new(users, random.pick(&[Load::MAX, 20_000, 500_000]));
        let load = (load, users);
        let plan = plan(random, has_hostile);
        (server, client, plan, heartbeat, user, load, has_hostile)
    };
    let (load, users) = load;
    let now_us = world.lock().expect("nobody panicked with it").now_us();
    let [server, client] = [server, client].map(|config| match run.scenario {
        Scenario::Overload => config.to_builder().shares(SMALLEST).build().expect("valid"),
        _ => config,
    });
    let sides = Sides {
        world: &world,
        server: &server,
        client: &client,
        plan: &plan,
        canary: run.canary,
        seed: run.seed,
    };
    let access = Arc::new(access(run.seed));
    let outcome = sides.run_commanded(
        || Access::new(HeartbeatServer::new(heartbeat), Arc::clone(&access)),
        Users::new(user, load, 0, 1),
        |_| Vec::new(),
        shifting::changes(now_us, users, run.seed),
        |coverage, _, client| {
            let mut report = UserReport::default();
            client.handler().report(&mut report);
            let opened = client.stats().opened;
            let ended: u64 = report.ended.iter().sum();
            assert_eq!(ended, opened, "each user's connection ended in one class");
            if !has_hostile {
                assert_eq!(report.wrong, 0, "what was pushed is what came");
            }
            for (ended, name) in Ended::ALL {
                // A request may be stopped, too.
                let name = if ended == Ended::Stopped {
                    "users_fewer"
                } else {
                    name
                };
                coverage.count(name, report.ended[ended as usize]);
            }
            coverage.count("messages", report.received);
        },
    );
    let counted = access.counted();
    assert_eq!(counted, 0, "places of sources that were not given back");
    outcome
}

/// Who may connect: in some runs not everybody, and not any number from one address.
fn access(seed: u64) -> AccessControl {
    if seed % 8 != 3 {
        return AccessControl::new(AccessList::default(), None);
    }
    // Numbers of its own: other runs are what they were before there were access lists.
    let mut random = Random::new(seed ^ 0xACCE_5501);
    let networks = ["10.0.9.0/31", "10.0.9.2", "10.0.1.0/24", "10.0.0.0/8"];
    let allow = random.once_in(3).then(|| random.pick(&networks).to_owned());
    let deny = random.once_in(2).then(|| random.pick(&networks).to_owned());
    let allow: Vec<String> = allow.into_iter().collect();
    let deny: Vec<String> = deny.into_iter().collect();
    let list = AccessList::parse(&allow, &deny).expect("networks");
    let max = random.once_in(2).then(|| random.magnitude(1, 2) as u32);
    AccessControl::new(list, max)
}
