//! What a peer may ask or tell beside messages: its own presence, questions, moderation, audit.

use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::{Group, check, count, maybe, maybe_shown, shown, tidy_group_name};
use crate::{EchoId, lenient, limits, names};

/// A verb, and what its reply echoes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Request {
    /// What is asked.
    #[serde(flatten)]
    pub verb: Verb,
    /// Echoed in the reply.
    #[serde(default, rename = "_reqId")]
    pub req_id: Option<EchoId>,
}

/// The names of all [`Verb`]s.
pub const VERBS: [&str; 16] = [
    "list_peers",
    "message_status",
    "set_status",
    "set_summary",
    "set_visible",
    "set_profile",
    "set_stats",
    "join_group",
    "leave_group",
    "disconnect",
    "kick",
    "ban",
    "unban",
    "list_bans",
    "audit_query",
    "audit_verify",
];

/// protocol-core §§4.8, 5, 6 and 7.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Verb {
    /// Who is in the mesh?
    ListPeers,
    /// What became of a message?
    MessageStatus {
        /// An id or the beginning of one.
        message_id: String,
    },
    /// Whether this session may be disturbed.
    SetStatus {
        /// The status.
        status: Status,
    },
    /// What this session is doing.
    SetSummary {
        /// In its own words.
        #[serde(default)]
        summary: String,
    },
    /// Whether broadcasts reach this session and others see it.
    SetVisible {
        /// Absent is hidden.
        #[serde(default)]
        visible: bool,
    },
    /// What this session tells of itself; what is not given stays.
    SetProfile(PeerProfile),
    /// What this session counted so far.
    SetStats {
        /// Replaces what it said before.
        stats: Stats,
    },
    /// Enters a group, or changes its role there.
    JoinGroup(Group),
    /// Leaves a group.
    LeaveGroup {
        /// Which.
        name: String,
    },
    /// Ends connections; they may come back at once.
    Disconnect(Selection),
    /// Ends sessions; they stay out for a while.
    Kick(Selection),
    /// Removes a member.
    Ban {
        /// Its name, its key or the beginning of it.
        #[serde(default)]
        target: Option<String>,
    },
    /// Lets a removed member in again.
    Unban {
        /// Its name or its key.
        #[serde(default)]
        target: Option<String>,
    },
    /// Who has been removed?
    ListBans,
    /// What has happened?
    AuditQuery {
        /// Entries wanted.
        #[serde(default)]
        limit: Option<u32>,
        /// Of the newest, so many are passed over.
        #[serde(default)]
        offset: Option<u64>,
        /// Only of this kind.
        #[serde(default)]
        event_type: Option<String>,
    },
    /// Is the audit chain whole?
    AuditVerify,
}

/// Which connections a moderation verb is about: the first that is given, in this order.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct Selection {
    /// Everybody but the caller.
    #[serde(default)]
    pub all: Option<bool>,
    /// Those that have not been heard of for so many milliseconds.
    #[serde(default)]
    pub stale: Option<f64>,
    /// A name, a key, or the beginning of a member's key.
    #[serde(default)]
    pub target: Option<String>,
}

/// Whether a peer may be disturbed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It may.
    #[default]
    Idle,
    /// By what is urgent.
    Working,
    /// By what is urgent; only the peer itself ends this.
    Dnd,
}

impl Status {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Working => "working",
            Self::Dnd => "dnd",
        }
    }

    /// The status of this word.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Idle, Self::Working, Self::Dnd].into_iter().find(|status| status.as_str() == word)
    }
}

/// What a peer tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerProfile {
    /// A picture, or where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bio: Option<String>,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
}

impl PeerProfile {
    /// Takes over what `other` gives.
    pub fn merge(&mut self, other: &Self) {
        for (own, given) in [
            (&mut self.avatar, &other.avatar),
            (&mut self.title, &other.title),
            (&mut self.bio, &other.bio),
        ] {
            if given.is_some() {
                own.clone_from(given);
            }
        }
        if other.capabilities.is_some() {
            self.capabilities.clone_from(&other.capabilities);
        }
    }

    /// Whether nothing was told.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a peer counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_in: Option<Number>,
    /// Sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_out: Option<Number>,
    /// Used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Number>,
    /// Since its start, in the peer's own unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime: Option<Number>,
    /// Met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Number>,
}

impl Verb {
    /// Checks every text against its bound, and makes safe to show what is shown.
    pub(super) fn tidy(&mut self) -> Result<(), String> {
        match self {
            Self::MessageStatus { message_id } => check("messageId", message_id, limits::ID_BYTES),
            Self::SetSummary { summary } => shown("summary", summary, limits::TEXT_BYTES),
            Self::SetProfile(profile) => profile.bounded(),
            Self::SetStats { stats } => {
                stats.tidy();
                Ok(())
            }
            Self::JoinGroup(group) => group.bounded(),
            Self::LeaveGroup { name } => tidy_group_name(name),
            // Names among them are compared with names that went through the same.
            Self::Disconnect(Selection { target, all: _, stale: _ })
            | Self::Kick(Selection { target, all: _, stale: _ })
            | Self::Ban { target }
            | Self::Unban { target } => maybe_shown("target", target.as_mut(), limits::NAME_BYTES),
            Self::AuditQuery { event_type, limit: _, offset: _ } => {
                maybe("eventType", event_type.as_ref(), limits::NAME_BYTES)
            }
            Self::SetStatus { status: _ }
            | Self::SetVisible { visible: _ }
            | Self::ListPeers
            | Self::ListBans
            | Self::AuditVerify => Ok(()),
        }
    }
}

impl PeerProfile {
    /// Makes its texts safe to show.
    pub fn tidy(&mut self) {
        let Self { avatar, title, bio, capabilities } = self;
        [avatar, title, bio].into_iter().flatten().for_each(names::tidy);
        capabilities.iter_mut().flatten().for_each(names::tidy);
    }

    fn check(&self) -> Result<(), String> {
        maybe("avatar", self.avatar.as_ref(), limits::TEXT_BYTES)?;
        maybe("title", self.title.as_ref(), limits::NAME_BYTES)?;
        maybe("bio", self.bio.as_ref(), limits::TEXT_BYTES)?;
        let capabilities = self.capabilities.as_deref().unwrap_or_default();
        count("capabilities", capabilities.len(), limits::CAPABILITIES)?;
        capabilities.iter().try_for_each(|one| check("capabilities", one, limits::NAME_BYTES))
    }

    fn bounded(&mut self) -> Result<(), String> {
        self.check()?;
        self.tidy();
        self.check()
    }
}

impl Stats {
    /// Any number may stand here, so a whole float is not noticed before.
    fn tidy(&mut self) {
        let Self { messages_in, messages_out, tool_calls, uptime, errors } = self;
        for number in [messages_in, messages_out, tool_calls, uptime, errors].into_iter().flatten()
        {
            let whole = number.as_f64().filter(|_| number.is_f64()).and_then(lenient::whole);
            if let Some(whole) = whole {
                *number = whole.into();
            }
        }
    }
}
