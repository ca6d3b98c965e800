//! The example `chat`, with members that say numbered lines, and scripted peers among them: every
//! member sees every sender's lines in order, and once it has seen one of them, all that follow.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_engine::sim::Random;
use holdfast_engine::{Conn, Context, Handler};

use super::sides::{Sides, add_hostile, config, plan, world};
use crate::run::{Outcome, Run};

#[path = "../../../examples/chat.rs"]
mod example;

use example::Chat;

/// Members of a chat. A member's state is its number, and how many lines it has said.
struct Members {
    random: Random,
    dials: u32,
    dialled: u32,
    /// By member and sender: the number of the last line.
    seen: HashMap<(u32, u32), u32>,
    line_count: u64,
}

impl Members {
    fn may_speak(&mut self, conn: &mut Conn<'_, (u32, u32)>) {
        for _ in 0..self.random.below(4) {
            let (member, said) = conn.state;
            *said += 1;
            let line = format!("member {member} {said}\n");
            conn.send_copy(line.as_bytes());
        }
        conn.set_timer(conn.now_us() + self.random.magnitude(1_000, 500_000));
    }

    /// A line that another member said, or whatever a scripted peer did.
    fn see(&mut self, member: u32, line: &[u8]) {
        let text = std::str::from_utf8(line).unwrap_or_default();
        let mut words = text.split(' ');
        if words.next() != Some("member") {
            return;
        }
        let mut number = || words.next()?.trim_end().parse::<u32>().ok();
        if let (Some(sender), Some(number)) = (number(), number()) {
            self.line_count += 1;
            if let Some(last) = self.seen.insert((member, sender), number) {
                assert_eq!(number, last + 1, "member {member} sees lines of {sender}");
            }
        }
    }
}

impl Handler for Members {
    type State = (u32, u32);
    type Report = ();
    type Command = ();

    fn on_open(&mut self, conn: &mut Conn<'_, (u32, u32)>) {
        self.may_speak(conn);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, (u32, u32)>, bytes: &[u8]) -> usize {
        let mut used = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if line.ends_with(b"\n") {
                self.see(conn.state.0, line);
                used += line.len();
            }
        }
        used
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, (u32, u32)>) {
        self.may_speak(conn);
    }

    fn on_turn(&mut self, cx: &mut Context<'_, (u32, u32)>) -> Option<u64> {
        while self.dialled < self.dials && cx.dial_room() > 0 {
            self.dialled += 1;
            cx.dial_planned((self.dialled, 0));
        }
        None
    }
}

pub(super) fn run(run: Run) -> Outcome {
    let world = world(run);
    let (server, client, plan, members) = {
        let mut world = world.lock().expect("it is new");
        let content = [b"hello\n".to_vec(), b"one\ntwo\nthr".to_vec()];
        add_hostile(&mut world, &content, None);
        let random = world.random();
        // A chat relies on mailboxes that hold all lines under way.
        let server = config(random).to_builder().commands_max(4_096).build();
        let client = config(random)
            .to_builder()
            .pending_bytes_max(16_384)
            .build();
        let plan = plan(random, false);
        let members = Members {
            random: Random::new(random.next()),
            dials: random.magnitude(1, 40) as u32,
            dialled: 0,
            seen: HashMap::new(),
            line_count: 0,
        };
        (server, client, plan, members)
    };
    let sizes = "sizes an engine can have";
    let sides = Sides {
        world: &world,
        server: &server.expect(sizes),
        client: &client.expect(sizes),
        plan: &plan,
        canary: run.canary,
        seed: run.seed,
    };
    let under_way = Arc::default();
    sides.run(
        || Chat::new(Arc::clone(&under_way)),
        members,
        |coverage, _, client| coverage.count("chat_lines", client.handler().line_count),
    )
}
