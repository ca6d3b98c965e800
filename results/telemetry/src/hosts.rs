//! Names of the testbed's hosts, as records and reports use them.

/// The host that serves.
pub const BACKEND: &str = "backend";
/// The host that balances loads.
pub const BALANCER: &str = "balancer";
/// The host of Locust's master.
pub const MASTER: &str = "master";

/// The name of client host `number`, from 1.
#[must_use]
pub fn client(number: u8) -> String {
    format!("client{number}")
}
