//! Identifiers. Cheap to clone, compared as text, never confused with each other.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The alphabet of row ids on the wire.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters of a row id.
pub const ID_CHARS: usize = 32;

/// Leading characters of a [`MessageId`] that spell its place in the mesh: 62^8 ≈ 2.2 × 10^14.
pub const POSITION_CHARS: usize = 8;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<T: Into<Arc<str>>> From<T> for $name {
            fn from(text: T) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A mesh: the tenant everything else belongs to.
    MeshId
);
id!(
    /// A member of a mesh: one long-lived signing key.
    MemberId
);
id!(
    /// One presence of a member, kept across reconnects within the grace.
    PresenceId
);
id!(
    /// An accepted envelope. Its first [`POSITION_CHARS`] spell its sequence in the mesh, so a
    /// shortened id of the length people type still names exactly one envelope, without an index.
    MessageId
);

impl MessageId {
    /// The id of the envelope at `seq`, told apart from every other envelope that was ever
    /// numbered so by `entropy`.
    pub fn at(seq: u64, entropy: u128) -> Self {
        let mut text = base62(u128::from(seq), POSITION_CHARS);
        text.push_str(&base62(entropy, ID_CHARS - POSITION_CHARS));
        text.into()
    }

    /// The sequence that an id, or at least its first [`POSITION_CHARS`], spells.
    pub fn position(text: &str) -> Option<u64> {
        text.as_bytes().get(..POSITION_CHARS)?.iter().try_fold(0u64, |value, byte| {
            let digit = BASE62.iter().position(|b| b == byte)?;
            value.checked_mul(62)?.checked_add(digit as u64)
        })
    }

    /// Whether `text` has the shape of an id or of the beginning of one: 8 to 32 base62 characters.
    pub fn is_prefix_shaped(text: &str) -> bool {
        (POSITION_CHARS..=ID_CHARS).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }
}

/// A row id of [`ID_CHARS`] characters, made of 128 random bits (and leading zeros).
pub fn row_id(entropy: u128) -> String {
    base62(entropy, ID_CHARS)
}

/// The last `chars` base62 digits of `value`, most significant first.
fn base62(mut value: u128, chars: usize) -> String {
    let mut digits = vec![b'0'; chars];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(value % 62) as usize];
        value /= 62;
    }
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_tells_its_position_from_eight_characters_on() {
        let id = MessageId::at(7_654_321, u128::MAX);
        assert_eq!(id.as_str().len(), ID_CHARS);
        assert_eq!(MessageId::position(&id.as_str()[..8]), Some(7_654_321));
        assert_eq!(MessageId::position("0000000"), None);
        assert_eq!(MessageId::position("0000-000"), None);
    }
}
