//! The mesh to load: what `claudemesh-broker mesh create … --json` wrote.

use std::path::Path;

use serde::Deserialize;

use crate::Error;

/// What of that file matters here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Mesh {
    #[serde(rename = "mesh_id")]
    pub(crate) id: String,
    pub(crate) members: Vec<Member>,
    /// `ic://join/<token>`.
    #[serde(default)]
    pub(crate) invite_url: Option<String>,
    /// What invites are signed with, 128 hex characters.
    #[serde(default)]
    pub(crate) owner_secret_key: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Member {
    #[serde(rename = "member_id")]
    pub(crate) id: String,
    pub(crate) display_name: String,
    pub(crate) pubkey: String,
    /// Seed and public key, 128 hex characters.
    pub(crate) secret_key: String,
}

impl Mesh {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let failed = |why: String| Error::MeshFile { path: path.display().to_string(), why };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let mesh: Self = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        if mesh.members.is_empty() {
            return Err(failed("a mesh without members".to_owned()));
        }
        Ok(mesh)
    }
}
