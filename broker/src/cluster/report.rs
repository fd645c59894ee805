//! What a node tells of itself beside that it lives: for people.

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Where it stands.
    pub region: String,
    /// Of the broker.
    pub version: String,
    /// Meshes that run there.
    pub meshes: usize,
    /// Sockets it holds.
    pub connections: usize,
    /// Frames and rows in Redis that it refused, since none of its cluster's nodes has sealed them.
    pub refused: u64,
}

impl Report {
    /// For the way.
    pub fn encode(&self) -> Vec<u8> {
        // Texts and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Back from [`encode`](Self::encode). Of another version's, what is understood.
    pub fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }
}
