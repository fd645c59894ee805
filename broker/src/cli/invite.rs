//! Invites: signed by the mesh's owner, recorded in the store.

use protocol::MeshId;
use protocol::invite::Invite;
use protocol::signature::Keypair;

use super::{Failure, keys};
use crate::model::NewInvite;
use crate::store::{Store, StoreError};

/// How long an invite lasts unless said otherwise, in days.
pub(super) const DEFAULT_DAYS: i64 = 7;

/// How many may join unless said otherwise: a small team, and a leaked link ends soon.
pub(super) const DEFAULT_USES: u32 = 10;

/// The same in seconds.
pub(super) const DEFAULT_SECONDS: i64 = DEFAULT_DAYS * 24 * 3600;

/// A token says nothing but its terms, with the expiry in seconds, and signatures are
/// deterministic: two invites of equal terms in one second would be one token. The later one lasts
/// a second more; this many are tried before the store's refusal is believed to mean another thing.
const MOST_SECONDS_MORE: i64 = 30;

/// What a mesh signs an invite with.
pub(super) struct Signer<'a> {
    pub(super) mesh: &'a MeshId,
    pub(super) slug: &'a str,
    pub(super) owner_user: &'a str,
    pub(super) root_key: &'a str,
    pub(super) owner: &'a Keypair,
}

/// What an invite grants.
pub(super) struct Terms<'a> {
    pub(super) broker_url: &'a str,
    pub(super) role: &'a str,
    pub(super) uses: u32,
    pub(super) seconds: i64,
}

/// Signs and records an invite that begins now (milliseconds since the Unix epoch), and answers
/// its link.
pub(super) async fn issue(
    store: &dyn Store,
    signer: &Signer<'_>,
    terms: &Terms<'_>,
    now: i64,
) -> Result<String, Failure> {
    let mut expires_at = now / 1000 + terms.seconds;
    let last = expires_at + MOST_SECONDS_MORE;
    loop {
        let invite = sign(signer, terms, expires_at);
        let row = NewInvite {
            id: keys::id()?,
            mesh: signer.mesh.clone(),
            token: invite.token(),
            max_uses: terms.uses,
            role: terms.role.to_owned(),
            expires_at: expires_at * 1000,
            created_by: signer.owner_user.to_owned(),
            created_at: now,
        };
        match store.create_invite(&row).await {
            Ok(()) => return Ok(invite.url()),
            Err(StoreError::BadData(_)) if expires_at < last => expires_at += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn sign(signer: &Signer<'_>, terms: &Terms<'_>, expires_at: i64) -> Invite {
    Invite {
        v: 1,
        mesh_id: signer.mesh.to_string(),
        mesh_slug: signer.slug.to_owned(),
        broker_url: terms.broker_url.to_owned(),
        expires_at,
        mesh_root_key: signer.root_key.to_owned(),
        role: terms.role.to_owned(),
        owner_pubkey: signer.owner.public_hex(),
        signature: String::new(),
    }
    .signed(signer.owner)
}
