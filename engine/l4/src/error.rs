//! Why bytes could not be read: more are needed, or a rule is broken.
//!
//! Invariants: every label is unique and stays as it is, since metrics use it.
//! Must not depend on: parsers.

use core::fmt;

/// The result of reading bytes that do not form a whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError<E> {
    /// Right so far: call again with the same bytes and more behind them.
    Incomplete,
    /// Wrong, whatever follows.
    Invalid(E),
}

impl<E> From<E> for ParseError<E> {
    fn from(error: E) -> Self {
        ParseError::Invalid(error)
    }
}

impl<E: fmt::Display> fmt::Display for ParseError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::Incomplete => f.write_str("more bytes are needed"),
            ParseError::Invalid(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for ParseError<E> {}

/// An enumeration of broken rules, each with a stable label and a description.
macro_rules! rules {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $label:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name { $(#[doc = $text] $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The stable name in metrics.
            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// The same in words, one sentence without a full stop.
            pub fn description(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.description())
            }
        }

        impl core::error::Error for $name {}
    };
}

pub(crate) use rules;
