//! Peers as real clients behave: pipelined sends, the same id until acked, reconnects with a back
//! off, acks for most pushes, and some that never ack at all.

use std::collections::{BTreeMap, BTreeSet};

use broker::model::Recipient;
use protocol::canonical;
use protocol::signature::Keypair;
use serde_json::{Value, json};

use crate::rng::Rng;

pub(crate) const MESH: &str = "simulated-mesh";

/// Groups that sessions start in, and that anybody may join.
pub(crate) const SESSION_GROUPS: [&str; 3] = ["team/a", "team/b", "ops"];
/// Groups that are written to; the first has others below it.
pub(crate) const GROUPS: [&str; 4] = ["team", "team/a", "ops", "nobody"];

/// What kind of peer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `session_hello`, acks.
    Session,
    /// Plain `hello` from a daemon, acks.
    Daemon,
    /// Plain `hello`, never acks; its WebSocket library answers pings.
    Silent,
    /// A command: a plain `hello` with a key of its own that nobody can prove, a word or two, gone.
    OneShot,
}

/// A message a client wants delivered.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) key: Option<String>,
    pub(crate) body: String,
    pub(crate) target: Target,
    pub(crate) priority: &'static str,
    pub(crate) sent_at: u64,
    /// Wants it kept should the target be away.
    pub(crate) offline: bool,
    /// Every connection it was written on.
    pub(crate) sockets: Vec<u64>,
}

/// Whom it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// This client's session key.
    Session(usize),
    /// This client's member.
    Member(usize),
    /// Everybody.
    All,
    /// Whoever is in this group, or below it.
    Group(&'static str),
    /// Whoever is in this topic, named so.
    Topic(&'static str),
    /// The key that a command has claimed.
    Claimed(String),
    /// Nobody anyone knows.
    Nobody,
}

#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub(crate) struct Client {
    pub(crate) index: usize,
    /// Its process id: another for each life of a one-shot command.
    pub(crate) identity: u64,
    pub(crate) kind: Kind,
    pub(crate) member: usize,
    pub(crate) member_keys: Keypair,
    pub(crate) session_keys: Keypair,
    pub(crate) session_id: String,
    pub(crate) socket: Option<u64>,
    pub(crate) attached: bool,
    pub(crate) hello_at: u64,
    /// When its hello was answered.
    pub(crate) greeted_at: u64,
    /// Wants to be connected from then on; `None` is never again.
    pub(crate) back_at: Option<u64>,
    pub(crate) presence: Option<String>,
    pub(crate) unacked: BTreeMap<String, Outgoing>,
    /// Acked, by body: the message id.
    pub(crate) acked: BTreeMap<String, (String, Outgoing)>,
    /// First receipts in order: (time, body, message id).
    pub(crate) received: Vec<(u64, String, String)>,
    pub(crate) seen: BTreeSet<String>,
    /// Order in which bodies were first written, per socket.
    pub(crate) written: BTreeMap<u64, Vec<String>>,
    pub(crate) sent: u64,
    /// What it has counted, and whether it knows from where to go on.
    pub(crate) counted: Option<u64>,
    /// It said so.
    pub(crate) hidden: bool,
    /// Hellos so far.
    pub(crate) hellos: usize,
    /// It was kicked, and comes back at once.
    pub(crate) hurries: bool,
    /// Groups it believes to be in.
    pub(crate) groups: Vec<&'static str>,
    /// A cheat's: somebody else's key, which it claims as its session's.
    pub(crate) claims: Option<String>,
    /// A cheat's: what it says is somebody else's hello.
    pub(crate) replays: bool,
    /// The last hello of its that was accepted, and when it was said.
    pub(crate) accepted_hello: (u64, String),
    /// Its identity before it said hello again, as another, on the same connection.
    pub(crate) former: Option<u64>,
    /// What its clock is ahead, in milliseconds.
    pub(crate) clock: i64,
}

impl Client {
    pub(crate) fn new(
        index: usize,
        kind: Kind,
        member: usize,
        member_keys: Keypair,
        rng: &mut Rng,
    ) -> Self {
        Self {
            index,
            identity: index as u64,
            kind,
            member,
            member_keys,
            session_keys: Keypair::from_seed(&rng.bytes32()),
            session_id: format!("session-{index}"),
            socket: None,
            attached: false,
            hello_at: 0,
            greeted_at: 0,
            back_at: Some(0),
            presence: None,
            unacked: BTreeMap::new(),
            acked: BTreeMap::new(),
            received: Vec::new(),
            seen: BTreeSet::new(),
            written: BTreeMap::new(),
            sent: 0,
            counted: None,
            hidden: false,
            hurries: false,
            hellos: 0,
            groups: Vec::new(),
            claims: None,
            replays: false,
            accepted_hello: (0, String::new()),
            former: None,
            clock: 0,
        }
    }

    pub(crate) fn member_id(&self) -> String {
        format!("member-{}", self.member)
    }

    /// The key others address it by.
    pub(crate) fn address(&self) -> String {
        match self.kind {
            // The claim does not count.
            Kind::OneShot if self.claims.is_some() => self.member_keys.public_hex(),
            Kind::Session | Kind::OneShot => self.session_keys.public_hex(),
            Kind::Daemon | Kind::Silent => self.member_keys.public_hex(),
        }
    }

    pub(crate) fn acks(&self) -> bool {
        matches!(self.kind, Kind::Session | Kind::Daemon)
    }

    /// A one-shot command starts anew: another process, another key.
    pub(crate) fn renew(&mut self, identity: u64, rng: &mut Rng) {
        self.identity = identity;
        self.session_keys = Keypair::from_seed(&rng.bytes32());
        self.session_id = self.session_of(identity);
        self.presence = None;
        self.groups.clear();
        self.unacked.clear();
        (self.claims, self.replays, self.former) = (None, false, None);
    }

    /// The session id it had in that life.
    pub(crate) fn session_of(&self, identity: u64) -> String {
        if self.kind == Kind::OneShot {
            return format!("command-{identity}");
        }
        self.session_id.clone()
    }

    /// Whether what waits for this recipient is for this client.
    pub(crate) fn owns(&self, recipient: &Recipient) -> bool {
        match recipient {
            Recipient::Session(key) => self.address() == **key,
            Recipient::Member(member) => self.member_id() == member.as_str(),
            Recipient::Presence(id) => self.presence.as_deref() == Some(id.as_str()),
        }
    }

    /// By this name moderators may call it.
    pub(crate) fn name(&self) -> String {
        if self.claims.is_some() {
            // Others know it by its member's key.
            return format!("c{}-{}", self.index, self.identity);
        }
        format!("c{}", self.index)
    }

    pub(crate) fn cwd(&self) -> String {
        format!("/src/{}", self.index)
    }

    pub(crate) fn hello(&mut self, now: u64) -> String {
        let (member, session) = (self.member_keys.public_hex(), self.session_keys.public_hex());
        let timestamp = wall(now) + self.clock;
        let mut frame = json!({
            "meshId": MESH,
            "sessionId": self.session_id,
            "pid": self.identity,
            "cwd": self.cwd(),
            "displayName": self.name(),
            "hostname": format!("host-{}", self.index),
            "timestamp": timestamp,
        });
        let extra = if self.kind == Kind::Session {
            let expires = timestamp + 3_600_000;
            let attestation = canonical::session_attestation(&member, &session, expires);
            let hello = canonical::session_hello(MESH, &member, &session, timestamp);
            json!({
                "type": "session_hello",
                "parentMemberId": self.member_id(),
                "parentMemberPubkey": member,
                "sessionPubkey": session,
                "channel": "claudemesh-session",
                "groups": [{"name": SESSION_GROUPS[self.index % SESSION_GROUPS.len()]}],
                "parentAttestation": {
                    "sessionPubkey": session,
                    "parentMemberPubkey": member,
                    "expiresAt": expires,
                    "signature": self.member_keys.sign(&attestation),
                },
                "signature": self.session_keys.sign(&hello),
            })
        } else {
            let hello = canonical::hello(MESH, &self.member_id(), &member, timestamp);
            let channel = match self.kind {
                Kind::Daemon => "claudemesh-daemon",
                Kind::OneShot => "claude-code",
                _ => "bridge",
            };
            json!({
                "type": "hello",
                "sessionPubkey": match (&self.claims, self.kind) {
                    (Some(foreign), _) => foreign.clone(),
                    (None, Kind::OneShot) => session,
                    (None, _) => String::new(),
                },
                "memberId": self.member_id(),
                "pubkey": member,
                "channel": channel,
                "signature": self.member_keys.sign(&hello),
            })
        };
        if let (Value::Object(frame), Value::Object(extra)) = (&mut frame, extra) {
            frame.extend(extra);
        }
        self.hello_at = now;
        self.hellos += 1;
        frame.to_string()
    }

    /// The frame of a message, the same for every retry.
    pub(crate) fn frame(message: &Outgoing, address: &str) -> String {
        let mut frame = json!({
            "type": "send",
            "targetSpec": address,
            "priority": message.priority,
            "nonce": "n",
            "ciphertext": message.body,
        });
        if message.offline {
            frame["offline"] = json!("queue");
        }
        if let Some(key) = &message.key {
            frame["id"] = json!(key);
            frame["client_message_id"] = json!(key);
            frame["request_fingerprint"] = json!(format!("fp-{key}"));
        } else {
            frame["id"] = json!(message.body);
        }
        frame.to_string()
    }
}

/// Virtual milliseconds as wall time.
pub(crate) fn wall(now: u64) -> i64 {
    1_800_000_000_000 + now as i64
}
