//! The user classes a worker has. A locustfile on the master names them as they are named here.
//!
//! Must not know: what their users do.

/// A kind of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Class {
    /// Users of `holdfast-client longconn`.
    #[value(name = "LongConn")]
    LongConn,
    /// Users of `holdfast-client http`.
    #[value(name = "Http")]
    Http,
}

impl Class {
    /// Every one.
    pub const ALL: [Class; 2] = [Class::LongConn, Class::Http];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Class::LongConn => "LongConn",
            Class::Http => "Http",
        }
    }

    /// What begins the names of its own arguments.
    pub fn prefix(self) -> &'static str {
        match self {
            Class::LongConn => "longconn",
            Class::Http => "http",
        }
    }
}
