//! v1 invites (protocol-features §3.1): a signed JSON object in a link.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::signature::{self, Keypair, Refused};

/// What an invite link says. `signature` is the mesh owner's, over [`canonical`](Self::canonical).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Always 1.
    pub v: u32,
    /// The mesh to join.
    pub mesh_id: String,
    /// Its slug.
    pub mesh_slug: String,
    /// Where to connect.
    pub broker_url: String,
    /// Seconds since the Unix epoch.
    pub expires_at: i64,
    /// The mesh's shared root key, base64url of 32 bytes.
    pub mesh_root_key: String,
    /// `admin` or `member`.
    pub role: String,
    /// The key that signed, 64 hex characters.
    pub owner_pubkey: String,
    /// 128 hex characters.
    #[serde(default)]
    pub signature: String,
}

impl Invite {
    /// The signed text: the first eight values joined by `|`.
    pub fn canonical(&self) -> String {
        format!(
            "{}|{}|{}|{}|{}|{}|{}|{}",
            self.v,
            self.mesh_id,
            self.mesh_slug,
            self.broker_url,
            self.expires_at,
            self.mesh_root_key,
            self.role,
            self.owner_pubkey
        )
    }

    /// The invite with the owner's signature.
    #[must_use]
    pub fn signed(mut self, owner: &Keypair) -> Self {
        self.signature = owner.sign(&self.canonical());
        self
    }

    /// Checks the signature against the key the invite itself names.
    pub fn verify(&self) -> Result<(), Refused> {
        signature::verify(&self.owner_pubkey, &self.signature, &self.canonical())
    }

    /// The token: base64url of the JSON object, without padding.
    pub fn token(&self) -> String {
        // A struct of strings and numbers always serializes.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a token, or nothing if it is none. The signature is not checked.
    pub fn from_token(token: &str) -> Option<Self> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok()?).ok()
    }

    /// The link people pass on.
    pub fn url(&self) -> String {
        format!("ic://join/{}", self.token())
    }
}
