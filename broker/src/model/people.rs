//! Who is in a mesh, and what they may do.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use protocol::client::Group;
use protocol::{MemberId, names};
use serde_json::Value;

use super::{Pending, Place, SavedState, Sender};

/// Who a hello claims to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The member's key.
    pub pubkey: Arc<str>,
    /// The session's.
    pub session: Option<Arc<str>>,
    /// Where the session runs. Nothing for a look at who somebody is.
    pub place: Option<Place>,
    /// A digest of the hello's signature, likewise.
    pub hello: Option<String>,
}

/// How long an accepted hello is remembered, in milliseconds by the store's clock: twice the clock
/// skew that a hello may have.
pub const HELLO_SEEN_MS: i64 = 120_000;

/// Who a hello claims to be, read fresh.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The mesh's name, else its slug, else its id.
    pub mesh_name: String,
    /// Whether the mesh has been archived.
    pub archived: bool,
    /// `self_editable`, as stored.
    pub self_editable: Option<serde_json::Value>,
    /// The member with the key: an unrevoked row before a revoked one.
    pub member: Option<Member>,
    /// The member that has proven the session key asked about, unless it was removed or deleted.
    pub key_member: Option<MemberId>,
    /// The session key asked about is a member's own or the mesh owner's, or a member has proven it;
    /// removed members included, deleted ones not. Nobody may claim it.
    pub key_taken: bool,
    /// The connection on which this very hello was accepted in the last [`HELLO_SEEN_MS`].
    pub seen_by: Option<String>,
    /// The mesh has no other member.
    pub alone: bool,
    /// What the member's connection before left.
    pub saved: Option<SavedState>,
    /// What a hook said of this session in the last [`PENDING_MS`](super::PENDING_MS).
    pub pending: Option<Pending>,
}

impl Identity {
    /// Makes safe to show what others may have written into the store.
    pub fn tidy(&mut self) {
        names::tidy(&mut self.mesh_name);
        self.member.iter_mut().for_each(Member::tidy);
        self.saved.iter_mut().for_each(SavedState::tidy);
    }
}

/// A member row.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The member.
    pub id: MemberId,
    /// Its key as stored.
    pub pubkey: Arc<str>,
    /// Its name.
    pub display_name: String,
    /// `admin` or `member`.
    pub role: String,
    /// Its role tag.
    pub role_tag: Option<String>,
    /// Groups to be in when a hello names none.
    pub default_groups: Vec<Group>,
    /// `push`, unless changed.
    pub message_mode: String,
    /// Removed from the mesh.
    pub revoked: bool,
    /// Whether this is who owns the mesh: by its user, or by the owner's key.
    pub owner: bool,
    /// What it lets others do.
    pub grants: Grants,
}

impl Member {
    /// Makes its texts safe to show.
    pub fn tidy(&mut self) {
        names::tidy(&mut self.display_name);
        self.role_tag.iter_mut().for_each(names::tidy);
        self.default_groups.iter_mut().for_each(Group::tidy);
    }

    /// Whether it may kick and ban.
    pub fn may_moderate(&self) -> bool {
        self.owner || self.role == "admin"
    }
}

/// What a sender wants of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// To write to it alone.
    Dm,
    /// To write to many, it among them.
    Broadcast,
}

impl Capability {
    /// The word on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dm => "dm",
            Self::Broadcast => "broadcast",
        }
    }
}

/// What a member lets others do, by their key. Whoever is not named may do all that is asked here;
/// whoever is named may do what is listed (protocol-core §4.4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(HashMap<String, Vec<String>>);

impl Grants {
    /// Reads `peer_grants` as stored: an object of lists. What is no list says nothing.
    pub fn from_json(stored: &Value) -> Self {
        let fields = stored.as_object().into_iter().flatten();
        let lists = fields.filter_map(|(key, list)| Some((key, list.as_array()?)));
        let words = |list: &Vec<Value>| {
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        Self(lists.map(|(key, list)| (key.to_ascii_lowercase(), words(list))).collect())
    }

    /// Whether `sender` may: what its member key is granted counts first, then its session key.
    pub fn allow(&self, sender: &Sender, wanted: Capability) -> bool {
        // A member's key may be stored in capitals.
        let entry = |key: &str| self.0.get(key).or_else(|| self.0.get(&*lower(key)?));
        let listed = entry(&sender.member_pubkey)
            .or_else(|| entry(sender.session_pubkey.as_deref().unwrap_or_default()));
        listed.is_none_or(|list| list.iter().any(|word| word == wanted.as_str()))
    }

    /// Whether nobody is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The key in lower case, if it is written otherwise.
fn lower(key: &str) -> Option<String> {
    key.bytes().any(|byte| byte.is_ascii_uppercase()).then(|| key.to_ascii_lowercase())
}

/// What the moderation of a mesh needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Moderation {
    /// Who asks, if it is a member.
    pub caller: Option<Member>,
    /// What this very command was answered before, if it was executed.
    pub done: Option<String>,
    /// Members that answer to the target: those with that key, else those with that name, else
    /// those whose key begins with it. At most [`MATCHES`].
    pub matching: Vec<Member>,
}

impl Moderation {
    /// Makes safe to show what others may have written into the store.
    pub fn tidy(&mut self) {
        self.caller.iter_mut().chain(&mut self.matching).for_each(Member::tidy);
    }
}

/// Members looked up for one target: more than one is ambiguous already.
pub const MATCHES: usize = 8;

/// Whom a moderation verb is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name or a key; for a member that is not revoked, the beginning of a key will do.
    pub text: String,
    /// Among the removed members, or among the others.
    pub revoked: bool,
}

/// A removed member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Its name.
    pub name: String,
    /// Its key.
    pub pubkey: String,
    /// Milliseconds since the Unix epoch.
    pub revoked_at: i64,
}

/// Kicked session keys that a mesh remembers: far more than it has places.
pub const KICKED_MOST: usize = 1_000;

/// A session that was kicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kicked {
    /// Its proven key, lower-case hex.
    pub key: Arc<str>,
    /// Its member.
    pub member: MemberId,
    /// Its name.
    pub name: String,
    /// How long it still stays out, in milliseconds.
    pub left_ms: u64,
}

/// How the members stand that hold leases in a mesh, as the store has it: others may have changed
/// it beside the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// The mesh has been archived, or deleted.
    pub archived: bool,
    /// Those that have been removed, or deleted.
    pub removed: BTreeSet<MemberId>,
    /// Of the others, those that may kick and ban.
    pub moderators: BTreeSet<MemberId>,
    /// Those that may not. A member in none of the three sets had no durable lease when the store was
    /// asked: nothing is known of it.
    pub plain: BTreeSet<MemberId>,
}

impl Membership {
    /// Notes a member that holds a lease.
    pub fn add(&mut self, member: MemberId, removed: bool, moderates: bool) {
        if removed {
            self.removed.insert(member);
        } else if moderates {
            self.moderators.insert(member);
        } else {
            self.plain.insert(member);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Others may have written keys of members and of grants in capitals.
    #[test]
    fn grants_and_keys_meet_however_they_are_written() {
        let (key, session) = ("ab".repeat(32), "cd".repeat(32));
        let sender = |key: &str, session: Option<&str>| Sender {
            member: "m".into(),
            member_pubkey: key.into(),
            session_pubkey: session.map(Into::into),
            name: "ana".into(),
        };
        for stored in [key.clone(), key.to_uppercase()] {
            let grants = Grants::from_json(&json!({ stored: [] }));
            for key in [key.clone(), key.to_uppercase()] {
                assert!(!grants.allow(&sender(&key, None), Capability::Dm), "{key}");
                assert!(!grants.allow(&sender(&session, Some(&key)), Capability::Dm), "{key}");
            }
            assert!(grants.allow(&sender(&session, None), Capability::Dm));
        }
    }
}
