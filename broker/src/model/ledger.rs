//! Meshes and invites, as they are made, shown and used.

use protocol::{MemberId, MeshId};

/// A mesh to create, with its first members.
#[derive(Clone)]
pub struct NewMesh {
    /// Its id.
    pub id: MeshId,
    /// Its slug, unique among living meshes.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// The user who owns it.
    pub owner_user: String,
    /// The owner's key, hex.
    pub owner_pubkey: String,
    /// Its secret half, hex.
    pub owner_secret_key: String,
    /// The shared root key, base64url.
    pub root_key: String,
    /// Members to start with.
    pub members: Vec<NewMember>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// See [`NewMesh`].
#[derive(Clone)]
pub struct NewMember {
    /// Its id.
    pub id: MemberId,
    /// Its key, hex.
    pub pubkey: String,
    /// Its name.
    pub display_name: String,
    /// `admin` or `member`.
    pub role: &'static str,
    /// The user it belongs to, if it is known.
    pub user: Option<String>,
}

/// A mesh as the command line shows and signs for it.
#[derive(Clone)]
pub struct MeshRow {
    /// Its id.
    pub id: MeshId,
    /// Its slug.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// Unrevoked members.
    pub members: u64,
    /// The owner's key, if it has one.
    pub owner_pubkey: Option<String>,
    /// Its secret half.
    pub owner_secret_key: Option<String>,
    /// The shared root key.
    pub root_key: Option<String>,
    /// Who owns it.
    pub owner_user: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// An invite to record.
#[derive(Clone)]
pub struct NewInvite {
    /// Row id.
    pub id: String,
    /// The mesh.
    pub mesh: MeshId,
    /// The token, as in the link.
    pub token: String,
    /// How often it may be used.
    pub max_uses: u32,
    /// `admin` or `member`.
    pub role: String,
    /// Milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// Who made it.
    pub created_by: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// Somebody joins by invite (protocol-features §3.1). The invite's signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// The token, as recorded.
    pub token: String,
    /// The mesh it names.
    pub mesh: MeshId,
    /// The key it was signed with.
    pub owner_pubkey: String,
    /// The role it grants.
    pub role: String,
    /// The id the new member gets.
    pub member: MemberId,
    /// The new member's key, lower-case hex.
    pub pubkey: String,
    /// Its name, unless the invite presets one.
    pub display_name: String,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

impl Joining {
    /// Whether it is the mesh owner's key under which somebody would join: a join proves no key. An
    /// owner that is a member was made one together with its mesh.
    pub fn is_owners_key(&self) -> bool {
        self.pubkey.eq_ignore_ascii_case(&self.owner_pubkey)
    }
}

/// What became of [`Joining`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// A member now.
    New(MemberId),
    /// A member already: the invite was not used.
    Already(MemberId),
    /// The first of the checks that failed, by its name on the wire: `mesh_not_found`,
    /// `mesh_missing_owner_key`, `invite_owner_mismatch`, `invite_not_found`,
    /// `invite_mesh_mismatch`, `invite_revoked`, `invite_expired`, `member_banned`, `key_taken`,
    /// `invite_exhausted`.
    Refused(&'static str),
}

/// A user of a web application that shares the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub email: String,
}
