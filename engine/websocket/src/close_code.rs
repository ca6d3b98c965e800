//! Close codes (RFC 6455, 7.4).
//!
//! Must not depend on: frames, errors.

/// Why a connection was closed, as its Close frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The server stops, or the browser leaves the page.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    /// A frame or a fragment was not allowed.
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    /// There was no code. Never sent: it stands for a Close frame without a payload.
    pub const NONE: CloseCode = CloseCode(1005);
    /// The connection ended without a Close frame. Never sent.
    pub const ABNORMAL: CloseCode = CloseCode(1006);
    /// A text was not UTF-8.
    pub const INVALID_PAYLOAD: CloseCode = CloseCode(1007);
    /// A message violates a policy.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// A message is too long.
    pub const TOO_LONG: CloseCode = CloseCode(1009);

    /// Whether a Close frame may have it: the codes that RFC 6455 or the IANA registry define for it, and those for
    /// libraries (3000 to 3999) and applications (4000 to 4999).
    pub fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}
