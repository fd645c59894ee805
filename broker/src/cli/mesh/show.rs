//! How a new mesh is shown: JSON for tools, a summary with client configurations for people.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Failure;
use crate::cli::invite::{DEFAULT_DAYS, DEFAULT_USES};
use crate::model::NewMesh;

/// A mesh just made, with everything that is shown only now.
pub(super) struct Created {
    pub(super) mesh: NewMesh,
    pub(super) members: Vec<CreatedMember>,
    /// Empty if it could not be recorded.
    pub(super) invite_url: String,
}

/// One of its members.
#[derive(Serialize)]
pub(super) struct CreatedMember {
    pub(super) member_id: String,
    pub(super) display_name: String,
    pub(super) role: &'static str,
    pub(super) pubkey: String,
    pub(super) secret_key: String,
}

#[derive(Serialize)]
struct Json<'a> {
    mesh_id: &'a str,
    slug: &'a str,
    name: &'a str,
    owner_pubkey: &'a str,
    owner_secret_key: &'a str,
    root_key: &'a str,
    invite_url: &'a str,
    broker_url: &'a str,
    members: &'a [CreatedMember],
}

/// A client's `config.json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClientConfig<'a> {
    version: u32,
    display_name: &'a str,
    meshes: [ClientMesh<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClientMesh<'a> {
    mesh_id: &'a str,
    member_id: &'a str,
    slug: &'a str,
    name: &'a str,
    pubkey: &'a str,
    secret_key: &'a str,
    broker_url: &'a str,
    joined_at: &'a str,
    root_key: &'a str,
}

impl Created {
    /// One JSON document.
    pub(super) fn json(&self, broker_url: &str) -> Result<String, Failure> {
        pretty(&Json {
            mesh_id: self.mesh.id.as_str(),
            slug: &self.mesh.slug,
            name: &self.mesh.name,
            owner_pubkey: &self.mesh.owner_pubkey,
            owner_secret_key: &self.mesh.owner_secret_key,
            root_key: &self.mesh.root_key,
            invite_url: &self.invite_url,
            broker_url,
            members: &self.members,
        })
    }

    /// For people: the facts, the invite, and a client configuration for each member, or where it
    /// was written.
    pub(super) fn text(
        &self,
        broker_url: &str,
        written: Option<&[PathBuf]>,
    ) -> Result<String, Failure> {
        let names: Vec<String> =
            self.members.iter().map(|m| format!("{} ({})", m.display_name, m.role)).collect();
        let mut text = format!(
            "Created the mesh {}.\n\n  name     {}\n  id       {}\n  members  {}\n  broker   {}\n\n",
            self.mesh.slug,
            self.mesh.name,
            self.mesh.id,
            names.join(", "),
            broker_url,
        );
        // Writing to a String cannot fail.
        if !self.invite_url.is_empty() {
            let _ = write!(
                text,
                "Others can join with this invite ({DEFAULT_USES} uses, {DEFAULT_DAYS} days):\n\n  \
                 {}\n\n",
                self.invite_url,
            );
        }
        if let Some(paths) = written {
            text.push_str(
                "The client configuration of each member was written; it holds a secret key that is \
                 kept\nnowhere else.\n\n",
            );
            for path in paths {
                let _ = writeln!(text, "  {}", path.display());
            }
            return Ok(text);
        }
        text.push_str(
            "The client configuration (config.json) of each member follows. It holds a secret key \
             that is\nshown only now and kept nowhere: save it where only that member can read it.\n",
        );
        for member in &self.members {
            let config = self.client_config(member, broker_url)?;
            let _ = write!(text, "\n# {}\n{config}", member.display_name);
        }
        Ok(text)
    }

    /// A member's `config.json`.
    pub(super) fn client_config(
        &self,
        member: &CreatedMember,
        broker_url: &str,
    ) -> Result<String, Failure> {
        let mesh = ClientMesh {
            mesh_id: self.mesh.id.as_str(),
            member_id: &member.member_id,
            slug: &self.mesh.slug,
            name: &self.mesh.name,
            pubkey: &member.pubkey,
            secret_key: &member.secret_key,
            broker_url,
            joined_at: &protocol::time::iso(self.mesh.created_at),
            root_key: &self.mesh.root_key,
        };
        pretty(&ClientConfig { version: 1, display_name: &member.display_name, meshes: [mesh] })
    }
}

/// Indented JSON and a newline.
pub(in crate::cli) fn pretty(value: &impl Serialize) -> Result<String, Failure> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(Failure::new(format!("cannot write JSON: {error}"))),
    }
}
