//! Ed25519 signatures (RFC 8032), written as hex, compatible with libsodium's detached signatures.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// Why a signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The key is not 64 hex characters, or the signature not 128.
    #[error("malformed key or signature")]
    Malformed,
    /// Well-formed, and not made by this key over these bytes.
    #[error("signature does not match")]
    Bad,
}

/// Checks a detached signature. Hex may be in either case. Strict, as libsodium is: keys of small
/// order and malleable signatures are refused.
pub fn verify(pubkey: &str, signature: &str, message: &str) -> Result<(), Refused> {
    let key = decode::<32>(pubkey).ok_or(Refused::Malformed)?;
    let signature = decode::<64>(signature).ok_or(Refused::Malformed)?;
    VerifyingKey::from_bytes(&key)
        .and_then(|key| key.verify_strict(message.as_bytes(), &Signature::from_bytes(&signature)))
        .map_err(|_| Refused::Bad)
}

/// Whether `text` is 64 lower-case hex characters: the only spelling of a key that routes.
pub fn is_lowercase_key(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// A signing key with its public half.
#[derive(Clone)]
pub struct Keypair(SigningKey);

impl Keypair {
    /// The pair grown from 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The pair whose secret half [`secret_hex`](Self::secret_hex) wrote.
    ///
    /// # Errors
    /// [`Refused::Malformed`] if it is not 128 hex characters or its halves do not belong together.
    pub fn from_secret_hex(secret: &str) -> Result<Self, Refused> {
        let bytes = decode::<64>(secret).ok_or(Refused::Malformed)?;
        SigningKey::from_keypair_bytes(&bytes).map(Self).map_err(|_| Refused::Malformed)
    }

    /// The public key: 64 lower-case hex characters.
    pub fn public_hex(&self) -> String {
        hex::encode(self.0.verifying_key().as_bytes())
    }

    /// The secret key as libsodium has it: seed and public key, 128 lower-case hex characters.
    pub fn secret_hex(&self) -> String {
        hex::encode(self.0.to_keypair_bytes())
    }

    /// A detached signature: 128 lower-case hex characters.
    pub fn sign(&self, message: &str) -> String {
        hex::encode(self.0.sign(message.as_bytes()).to_bytes())
    }
}
