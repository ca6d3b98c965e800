//! A thread-per-core io_uring engine that holds very many TCP connections, with one small state slot for each.
//!
//! A protocol is a [`Handler`]: a few callbacks over a state of some bytes. [`Engine::start`] runs one handler on every core thread,
//! which accepts from [`listen::listeners`] and dials through a [`DialPlan`]. Needs Linux 6.1 (6.11 to dial) and io_uring;
//! [`check_io_uring`] says what is missing.
//!
//! # Example
//!
//! An echo server, and one client that talks to it:
//!
//! ```
//! use std::io::{Read, Write};
//! use holdfast_engine::{Config, Conn, Engine, Handler, Shutdown, listen::listeners};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type State = ();
//!     type Report = ();
//!     type Command = ();
//!
//!     fn on_open(&mut self, _conn: &mut Conn<'_, ()>) {}
//!
//!     fn on_bytes(&mut self, conn: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
//!         conn.send_copy(bytes);
//!         bytes.len()
//!     }
//!
//!     fn on_timer(&mut self, _conn: &mut Conn<'_, ()>) {}
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = Config::builder().capacity(1_000).thread_count(2).build()?;
//!     let (listeners, bound) = listeners(&["127.0.0.1:0".parse()?], config.thread_count(), None)?;
//!     let engine = Engine::start(config, listeners, None, |_thread| Echo)?;
//!
//!     let mut client = std::net::TcpStream::connect(bound[0])?;
//!     client.write_all(b"hello")?;
//!     let mut echoed = [0; 5];
//!     client.read_exact(&mut echoed)?;
//!     assert_eq!(&echoed, b"hello");
//!     drop(client);
//!
//!     engine.stop(Shutdown::Graceful);
//!     engine.join()?;
//!     Ok(())
//! }
//! ```
//!
//! `GUIDE.md` writes a protocol step by step. Beyond its own connection, a callback acts through its thread's [`Context`]: it sends to,
//! closes and aborts other connections by their [`ConnId`], and connects to any address ([`Dial`]). A [`Layer`] wraps a handler in
//! another protocol.
//!
//! # What it costs
//!
//! A connection takes a slot of 24 bytes plus the handler's state, and in the kernel a socket, a direct descriptor and, while it is
//! idle, one poll. Receive buffers belong to rings, not to connections; bytes are kept for a connection only while a message is
//! incomplete or its peer does not read, within [`ConfigBuilder::pending_bytes_max`].
//!
//! # Errors
//!
//! What keeps an engine from starting is a [`SetupError`], with a cause and a next step. What peers do is never an error: every
//! connection ends with one [`CloseReason`], every attempt to connect that fails with one [`OpenFailure`], both counted in [`Stats`].
//!
//! # Features
//!
//! - `sim`: the simulator, a kernel, a network and peers in memory, to test handlers with; see the module `sim`.

mod attempt;
mod bytes;
pub mod config;
mod context;
mod core;
mod dial;
mod engine;
mod error;
mod handler;
mod id;
mod kernel;
mod layer;
mod limiter;
pub mod listen;
mod mailbox;
mod refusal;
mod ring;
// The simulator audits slots and records; with it on, nothing here may be unused.
#[cfg_attr(not(feature = "sim"), allow(dead_code))]
mod shard;
mod share;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg_attr(not(feature = "sim"), allow(dead_code))]
mod slot;
mod socket_options;
mod stats;
mod token;
mod wheel;

pub use attempt::{Dial, DialId, Source};
pub use bytes::Bytes;
pub use config::{Config, ConfigBuilder};
pub use context::{Context, NoRoom, Recorder};
pub use dial::{DialPlan, Targets};
pub use engine::{CoreReport, Engine};
pub use error::{CloseReason, OpenFailure, PartnerEnd, SetupError, SetupErrorKind};
pub use handler::{CloseMode, Conn, Handler, InnerActions, ReadChange, TimerChange};
pub use id::ConnId;
pub use kernel::os::allowed_cores;
pub use layer::{InnerState, Layer, LayerConn, LayerContext, LayerState};
pub use mailbox::{Handle, SendError, Shutdown};
pub use socket_options::{KeepAlive, SocketOptions};
pub use stats::{Stats, Work};

/// Checks that this kernel has the io_uring features the engine needs, those to dial with `dials`. Keeps nothing.
///
/// # Errors
/// [`SetupErrorKind::Unsupported`] names the missing feature and the version of Linux that has it, the other kinds the setting or
/// the limit that keeps this process from io_uring.
pub fn check_io_uring(dials: bool) -> Result<(), SetupError> {
    kernel::KernelRing::check(dials)
}

/// Rings, slots and the wheel, for this project's benchmarks and baseline programs. Not part of the API: anything may change.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::core::{Core, CoreListener, Next};
    pub use crate::engine::mailboxes;
    pub use crate::kernel::KernelRing;
    pub use crate::limiter::ConnectionLimiter;
    pub use crate::ring::*;
    pub use crate::slot::*;
    pub use crate::socket_options::SocketOption;
    pub use crate::token::*;
    pub use crate::wheel::*;
}

/// Tests the code of the guide.
#[cfg(doctest)]
#[doc = include_str!("../GUIDE.md")]
struct Guide;

/// Tests the example of the readme.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
