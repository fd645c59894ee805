//! What both backends check of an invite, and what an invite says of those who join by it.

use protocol::client::Group;
use protocol::names;
use serde::Deserialize;
use serde_json::Value;

use crate::model::Joining;

/// A mesh as an invite is checked against.
pub(super) struct MeshKey {
    pub(super) archived: bool,
    /// The owner's key.
    pub(super) owner: Option<String>,
}

/// An invite as stored.
pub(super) struct InviteRow {
    pub(super) id: String,
    pub(super) mesh: String,
    pub(super) revoked: bool,
    /// Milliseconds since the Unix epoch.
    pub(super) expires_at: i64,
    pub(super) preset: Preset,
}

/// The invite, unless one of the checks that need nothing else fails: the first of them, by its
/// name on the wire.
pub(super) fn refusal(
    joining: &Joining,
    mesh: Option<&MeshKey>,
    invite: Option<InviteRow>,
) -> Result<InviteRow, &'static str> {
    let mesh = mesh.filter(|mesh| !mesh.archived).ok_or("mesh_not_found")?;
    let owner = mesh.owner.as_deref().filter(|key| !key.is_empty());
    let owner = owner.ok_or("mesh_missing_owner_key")?;
    if !owner.eq_ignore_ascii_case(&joining.owner_pubkey) {
        return Err("invite_owner_mismatch");
    }
    let invite = invite.ok_or("invite_not_found")?;
    if invite.mesh != joining.mesh.as_str() {
        Err("invite_mesh_mismatch")
    } else if invite.revoked {
        Err("invite_revoked")
    } else if invite.expires_at < joining.now {
        Err("invite_expired")
    } else {
        Ok(invite)
    }
}

/// What an invite says of those who join by it. Each field counts for itself.
#[derive(Debug, Default)]
pub(super) struct Preset {
    pub(super) display_name: Option<String>,
    pub(super) role_tag: Option<String>,
    groups: Vec<Group>,
    message_mode: Option<String>,
}

impl Preset {
    /// From JSON that others wrote: what has another shape is not preset.
    pub(super) fn read(text: Option<&str>) -> Self {
        let fields: Value = text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        let word = |name: &str| {
            let text = fields.get(name).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(names::tidied)
        };
        let groups = fields.get("groups").and_then(|list| Vec::deserialize(list).ok());
        let mut groups: Vec<Group> = groups.unwrap_or_default();
        groups.iter_mut().for_each(Group::tidy);
        Self {
            display_name: word("displayName"),
            role_tag: word("roleTag"),
            groups,
            message_mode: word("messageMode"),
        }
    }

    pub(super) fn groups_json(&self) -> String {
        serde_json::to_string(&self.groups).unwrap_or_else(|_| "[]".to_owned())
    }

    pub(super) fn message_mode(&self) -> &str {
        self.message_mode.as_deref().unwrap_or("push")
    }
}
