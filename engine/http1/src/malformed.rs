//! What can be wrong with a message, and what is odd but tolerated: two bounded lists with stable
//! labels.
//!
//! Invariants: every label is unique and stays as it is, since reports and metrics use it.
//! Must not depend on: parsers.

use core::fmt;

macro_rules! classes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum $name { $($(#[$doc])* #[doc = $text] $variant,)* }

        impl $name {
            /// Every value, in the order of their numbers.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The stable name in reports and metrics.
            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// The same in words, one sentence without a full stop.
            pub fn description(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.description())
            }
        }
    };
}

classes! {
    /// The rule that a response or a chunked body breaks. Nothing more can be read from its
    /// connection.
    Malformed {
        HeadTooLong = "head_too_long", "the head is longer than the limit";
        TooManyHeaders = "too_many_headers", "the head has more header lines than the limit";
        StatusLine = "status_line", "the status line is malformed";
        Version = "version", "the version is not HTTP/1";
        HeaderName = "header_name", "a header's name is malformed";
        HeaderValue = "header_value", "a header's value has a control character";
        LineEnd = "line_end", "a line does not end in CRLF";
        ContentLength = "content_length", "Content-Length is not a number, or too large";
        ContentLengths = "content_lengths", "there are different Content-Lengths";
        TransferEncoding = "transfer_encoding", "Transfer-Encoding is malformed";
        /// For callers: [`parse_response`](crate::parse_response) itself accepts a 101.
        UnexpectedUpgrade = "unexpected_upgrade", "the protocol is switched unasked";
        ChunkSize = "chunk_size", "a chunk's size is malformed, or too large";
        ChunkExtension = "chunk_extension", "a chunk's extension is malformed";
        ChunkLine = "chunk_line_too_long", "the line of a chunk's size is too long";
        ChunkEnd = "chunk_end", "a chunk's payload does not end in CRLF";
        Trailer = "trailer", "a trailer is malformed";
        TrailerTooLong = "trailer_too_long", "the trailer section is too long";
    }
}

impl core::error::Error for Malformed {}

classes! {
    /// What a response has that no sender may produce but user agents tolerate. Requests never have
    /// any: servers refuse them.
    Oddity {
        /// RFC 9112, 5.2: its line breaks are replaced by spaces.
        FoldedLine = "folded_line", "a header's value is folded over several lines";
        BareLf = "bare_lf", "a line ends in LF without CR";
        /// RFC 9110, 2.5: read as HTTP/1.1.
        MinorVersion = "minor_version", "the version is HTTP/1.2 to 1.9";
        /// RFC 9112, 6.3: Transfer-Encoding overrides Content-Length, and the connection closes
        /// afterwards.
        LengthBesideEncoding = "length_beside_encoding", "there are both Content-Length and Transfer-Encoding";
        /// RFC 9112, 6.1: the connection closes afterwards.
        EncodingInHttp10 = "encoding_in_http10", "there is a Transfer-Encoding in HTTP/1.0";
        ChunkWhitespace = "chunk_whitespace", "there is whitespace around a chunk's size";
        /// RFC 9112, 7.1 allows them, but no size needs any.
        LeadingZeros = "leading_zeros", "a chunk's size has leading zeros";
    }
}

const _: () = assert!(Oddity::ALL.len() <= 16);

/// A set of [`Oddity`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Oddities(u16);

impl Oddities {
    /// The empty set.
    pub const NONE: Oddities = Oddities(0);

    /// Adds one.
    #[inline]
    pub fn insert(&mut self, oddity: Oddity) {
        self.0 |= 1 << oddity as u16;
    }

    /// Adds all of `others`.
    #[inline]
    pub fn extend(&mut self, others: Oddities) {
        self.0 |= others.0;
    }

    /// True if there is none, as in nearly all responses.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if it has `oddity`.
    pub fn contains(self, oddity: Oddity) -> bool {
        self.0 >> oddity as u16 & 1 == 1
    }

    /// Those it has, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Oddity> {
        Oddity::ALL
            .iter()
            .copied()
            .filter(move |oddity| self.contains(*oddity))
    }
}

impl fmt::Debug for Oddities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
