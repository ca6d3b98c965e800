//! What `holdfast-bench http` can measure: scenarios, subjects, generators, as data.
//!
//! Purpose: one table of scenarios, and the rule which generator loads which subject in each.
//! Invariants: names are those of the records and of `--scenarios`; a name never changes its
//! meaning.
//! Must not depend on: processes, command lines, figures.

/// What a scenario asks of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Users who wait between two requests: the load is offered, not as much as goes.
    Users,
    /// Every busy connection asks again as soon as it is answered.
    Saturation,
    /// Connections ask once and then only stay; what is measured is memory.
    IdleMemory,
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name in records and on the command line.
    pub name: &'static str,
    /// What it asks of its connections.
    pub kind: Kind,
    /// Users, or connections that are busy.
    pub connections: u64,
    /// Connections that are open beside these and have nothing to do.
    pub idle: u64,
    /// Requests sent together.
    pub pipeline: u32,
    /// False: a new connection for each request.
    pub is_keep_alive: bool,
    /// Both ends on one core.
    pub is_same_core: bool,
}

const BASE: Scenario = Scenario {
    name: "",
    kind: Kind::Saturation,
    connections: 64,
    idle: 0,
    pipeline: 1,
    is_keep_alive: true,
    is_same_core: false,
};

const fn users(name: &'static str, connections: u64) -> Scenario {
    Scenario {
        name,
        kind: Kind::Users,
        connections,
        ..BASE
    }
}

const fn keepalive(name: &'static str, connections: u64) -> Scenario {
    Scenario {
        name,
        connections,
        ..BASE
    }
}

/// Every scenario, in the order of measurement.
pub const SCENARIOS: &[Scenario] = &[
    keepalive("keepalive-64", 64),
    keepalive("keepalive-512", 512),
    keepalive("keepalive-4096", 4096),
    Scenario {
        name: "pipeline-16",
        pipeline: 16,
        ..BASE
    },
    Scenario {
        name: "connection-per-request",
        is_keep_alive: false,
        ..BASE
    },
    Scenario {
        name: "idle-10000",
        idle: 9936,
        ..BASE
    },
    Scenario {
        name: "same-core-64",
        is_same_core: true,
        ..BASE
    },
    users("users-10000", 10_000),
    users("users-15000", 15_000),
    users("users-20000", 20_000),
    Scenario {
        name: "idle-memory-100000",
        kind: Kind::IdleMemory,
        connections: 100_000,
        ..BASE
    },
];

/// Users wait between 100 ms and 1 s: a second holds this many requests of each when answers take
/// no time.
pub const REQUESTS_PER_USER_SECOND: f64 = 1.0 / 0.55;
/// Connections of [`Kind::IdleMemory`] for a subject whose sockets count against the descriptor
/// limit (20,000 where this was written).
pub const IDLE_MEMORY_OF_COMPETITORS: u64 = 10_000;

impl Scenario {
    /// The scenario of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|s| s.name == name)
    }

    /// Connections this scenario opens on `subject`, busy and idle.
    #[must_use]
    pub fn connections_of(&self, subject: Subject) -> u64 {
        if self.kind == Kind::IdleMemory && subject != Subject::Holdfast {
            return IDLE_MEMORY_OF_COMPETITORS;
        }
        self.connections + self.idle
    }

    /// Requests a second that the users make when answers take no time; `None` where load is not
    /// offered but taken.
    #[must_use]
    pub fn offered_per_second(&self) -> Option<f64> {
        (self.kind == Kind::Users).then_some(self.connections as f64 * REQUESTS_PER_USER_SECOND)
    }

    /// Who is measured with what, in the order of measurement. The figure of a server is taken with
    /// wrk, or with our client where there is no wrk; our client is measured on ourselves and on
    /// nginx, to be compared with wrk on the same server.
    #[must_use]
    pub fn pairs(
        &self,
        subjects: &[Subject],
        generators: &[Generator],
    ) -> Vec<(Subject, Generator)> {
        use Generator::{Holdfast, Wrk};
        let has = |generator| generators.contains(&generator);
        let of_ours = |among: &'static [Subject]| {
            subjects
                .iter()
                .filter(move |s| has(Holdfast) && among.contains(s))
                .map(|s| (*s, Holdfast))
        };
        match self.kind {
            Kind::Users => of_ours(&[Subject::Holdfast, Subject::Nginx, Subject::Go]).collect(),
            Kind::IdleMemory => of_ours(&[Subject::Holdfast, Subject::Nginx]).collect(),
            Kind::Saturation if has(Wrk) => subjects
                .iter()
                .map(|s| (*s, Wrk))
                .chain(of_ours(&[Subject::Holdfast, Subject::Nginx]))
                .collect(),
            Kind::Saturation => of_ours(Subject::ALL).collect(),
        }
    }
}

/// A server that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Subject {
    /// `holdfast-server http`.
    Holdfast,
    /// The engine's example that parses nothing: what any server of this kind pays at least.
    #[value(alias = "floor")]
    Baseline,
    /// nginx.
    Nginx,
    /// haproxy.
    Haproxy,
    /// Go's net/http, `competitors/go/main.go`.
    Go,
}

impl Subject {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Holdfast,
        Self::Baseline,
        Self::Nginx,
        Self::Haproxy,
        Self::Go,
    ];

    /// Its name in records and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            // The name that records have had from the start.
            Self::Baseline => "floor",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Go => "go",
        }
    }

    /// Somebody else's program.
    #[must_use]
    pub fn is_competitor(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy | Self::Go)
    }
}

/// A program that makes load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Generator {
    /// `holdfast-client http`.
    Holdfast,
    /// wrk.
    Wrk,
}

impl Generator {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Wrk, Self::Holdfast];

    /// Its name in records and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Wrk => "wrk",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(name: &str, subjects: &[Subject], generators: &[Generator]) -> Vec<String> {
        Scenario::named(name)
            .expect("a scenario")
            .pairs(subjects, generators)
            .iter()
            .map(|(s, g)| format!("{}/{}", s.name(), g.name()))
            .collect()
    }

    #[test]
    fn names_are_unique() {
        for scenario in SCENARIOS {
            assert_eq!(Scenario::named(scenario.name), Some(scenario));
        }
        assert_eq!(Scenario::named("keepalive"), None);
    }

    #[test]
    fn wrk_measures_servers_and_our_client_is_compared_with_it() {
        assert_eq!(
            pairs("keepalive-64", Subject::ALL, Generator::ALL),
            [
                "holdfast/wrk",
                "floor/wrk",
                "nginx/wrk",
                "haproxy/wrk",
                "go/wrk",
                "holdfast/holdfast",
                "nginx/holdfast"
            ]
        );
        assert_eq!(
            pairs("users-10000", Subject::ALL, Generator::ALL),
            ["holdfast/holdfast", "nginx/holdfast", "go/holdfast"]
        );
        assert!(pairs("users-10000", Subject::ALL, &[Generator::Wrk]).is_empty());
    }

    #[test]
    fn without_wrk_our_client_measures_all() {
        assert_eq!(
            pairs(
                "pipeline-16",
                &[Subject::Holdfast, Subject::Baseline],
                &[Generator::Holdfast]
            ),
            ["holdfast/holdfast", "floor/holdfast"]
        );
        assert!(pairs("pipeline-16", Subject::ALL, &[]).is_empty());
    }

    #[test]
    fn load_is_offered_by_waiting_users_only() {
        let offered = |name| Scenario::named(name).expect("one").offered_per_second();
        assert!((offered("users-10000").expect("offered") - 18_181.8).abs() < 0.1);
        assert_eq!(offered("keepalive-64"), None);
    }
}
