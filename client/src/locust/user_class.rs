//! The user classes a worker has. The locustfile on the master uses the same names.
//!
//! Must not depend on: what their users do.

/// A class of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum UserClass {
    /// Users of `holdfast-client longconn`.
    #[value(name = "LongConn")]
    LongConn,
    /// Users of `holdfast-client http`.
    #[value(name = "Http")]
    Http,
}

impl UserClass {
    /// All classes.
    pub const ALL: [UserClass; 2] = [UserClass::LongConn, UserClass::Http];

    /// Its name in the locustfile.
    pub fn name(self) -> &'static str {
        match self {
            UserClass::LongConn => "LongConn",
            UserClass::Http => "Http",
        }
    }

    /// The class of this name.
    pub fn by_name(name: &str) -> Option<UserClass> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// The prefix of its own arguments.
    pub fn prefix(self) -> &'static str {
        match self {
            UserClass::LongConn => "longconn",
            UserClass::Http => "http",
        }
    }
}
