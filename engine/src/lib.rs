//! A thread-per-core io_uring engine with one small state slot per socket.
//!
//! A protocol is a [`Handler`]: a few callbacks on a state of some bytes. [`Engine::start`] runs one on every core, accepting from
//! [`listen::listeners`] and dialling through a [`DialPlan`]. See `ARCHITECTURE.md` for the life of a connection.

pub mod config;
pub mod core;
pub mod dial;
pub mod engine;
pub mod error;
pub mod handler;
mod kernel;
pub mod limiter;
pub mod listen;
pub mod ring;
mod shard;
pub mod sim;
pub mod slot;
pub mod stats;
pub mod token;
pub mod wheel;

pub use self::core::Shutdown;
pub use config::{Config, ConfigBuilder};
pub use dial::DialPlan;
pub use engine::Engine;
pub use error::{CloseReason, OpenFailure, SetupError, SetupErrorKind};
pub use handler::{Conn, Dial, Handler};
pub use kernel::KernelRing;
pub use kernel::os::allowed_cores;
pub use stats::Stats;
