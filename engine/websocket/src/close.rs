//! The payload of Close frames (RFC 6455, 5.5.1).
//!
//! Invariants: a code that may not be sent is neither accepted nor written.
//! Must not depend on: connections.

use crate::close_code::CloseCode;
use crate::error::ProtocolError;
use crate::frame::CONTROL_BYTES_MAX;
use crate::utf8::Utf8;

/// What a Close frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseFrame<'b> {
    /// Its code; [`CloseCode::NONE`] if it has none.
    pub code: CloseCode,
    /// Its text, often empty.
    pub reason: &'b str,
}

impl<'b> CloseFrame<'b> {
    /// Reads the payload of a Close frame.
    ///
    /// # Errors
    /// [`ProtocolError::ClosePayload`], [`ProtocolError::Utf8`].
    pub fn parse(payload: &'b [u8]) -> Result<Self, ProtocolError> {
        let ([high, low], text) = match payload {
            [] => {
                let (code, reason) = (CloseCode::NONE, "");
                return Ok(CloseFrame { code, reason });
            }
            [_] => return Err(ProtocolError::ClosePayload),
            [high, low, text @ ..] => ([*high, *low], text),
        };
        let code = CloseCode(u16::from_be_bytes([high, low]));
        if !code.may_be_sent() {
            return Err(ProtocolError::ClosePayload);
        }
        let reason = str::from_utf8(text).map_err(|_| ProtocolError::Utf8)?;
        Ok(CloseFrame { code, reason })
    }
}

/// The payload of a Close frame: empty if `code` may not be sent, as [`CloseCode::NONE`] may not. A reason that is too long is cut at
/// a character.
pub fn close_payload(code: CloseCode, reason: &str) -> Vec<u8> {
    if !code.may_be_sent() {
        return Vec::new();
    }
    let mut payload = code.0.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    payload.truncate(CONTROL_BYTES_MAX);
    loop {
        let mut text = Utf8::default();
        if text.feed(&payload[2..]) && text.is_complete() {
            return payload;
        }
        payload.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_not_be_sent_are_refused() {
        for code in [1000, 1001, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999] {
            let payload = close_payload(CloseCode(code), "why");
            let frame = CloseFrame::parse(&payload).expect("allowed");
            assert_eq!((frame.code, frame.reason), (CloseCode(code), "why"));
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535_u16] {
            assert_eq!(close_payload(CloseCode(code), "why"), b"");
            let error = CloseFrame::parse(&code.to_be_bytes()).unwrap_err();
            assert_eq!(error, ProtocolError::ClosePayload, "{code}");
        }
        assert_eq!(CloseFrame::parse(b"").map(|f| f.code), Ok(CloseCode::NONE));
        assert!(CloseFrame::parse(b"\x03").is_err());
        let error = CloseFrame::parse(b"\x03\xe8\xff").unwrap_err();
        assert_eq!(error, ProtocolError::Utf8);
    }

    #[test]
    fn long_reason_is_cut_at_a_character() {
        let payload = close_payload(CloseCode::NORMAL, &"é".repeat(100));
        assert_eq!(payload.len(), 124);
        assert!(CloseFrame::parse(&payload).is_ok());
    }
}
