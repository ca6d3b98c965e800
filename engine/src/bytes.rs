//! Bytes to send: static, shared by many connections, or a copy of their own.
//!
//! Must not depend on: rings, slots, handlers.

use std::ops::Deref;
use std::sync::Arc;

/// Bytes to send, and who owns them.
#[derive(Debug, Clone)]
pub enum Bytes {
    /// Sent from where they are.
    Static(&'static [u8]),
    /// One buffer for any number of connections.
    Shared(Arc<[u8]>),
    /// A copy of their own.
    Copied(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Static(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
            Bytes::Copied(bytes) => bytes,
        }
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::Static(bytes)
    }
}

impl<const N: usize> From<&'static [u8; N]> for Bytes {
    fn from(bytes: &'static [u8; N]) -> Self {
        Bytes::Static(bytes)
    }
}

impl From<&'static str> for Bytes {
    fn from(text: &'static str) -> Self {
        Bytes::Static(text.as_bytes())
    }
}

impl From<Arc<[u8]>> for Bytes {
    fn from(bytes: Arc<[u8]>) -> Self {
        Bytes::Shared(bytes)
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::Copied(bytes)
    }
}
