//! Moments that the simulator rarely hits, one at a time.

use std::sync::Arc;

use protocol::client::{ClientAck, Priority, Profile, Request, Selection, Send, Verb};
use protocol::server::{Frame, Row};

use super::io::{
    Answer, Attach, Command, ConnId, Edge, Effect, Held, Input, Now, Numbered, OpenedAt, Question,
    SessionKey,
};
use super::{ANNOUNCE_MS, Limits, Mesh, SHORT_LIVED_MS, StatusLimits};
use crate::model::{
    Accepted, Activation, AuditRow, Duplicate, Grants, Identity, Lane, Member, Membership,
    MeshCommit, Moderation, Outcome, QueueId, Recipient, Seq, StoredLease, StoredMessage, Verified,
    VerifiedSlice, Write,
};

mod hello;
mod missed;
mod moderation;
mod questions;
mod removals;
mod short_lived;
mod stalls;
mod visibility;

pub(super) const LIMITS: Limits = Limits {
    grace_ms: 90_000,
    capacity: 2,
    message_units: 65_536,
    send_rate: 0,
    send_burst: 10,
    offline_queue: false,
    status: StatusLimits { hook_fresh_ms: 30_000, working_ms: 60_000 },
    kick_cooldown_ms: 10_000,
    member_sessions: 2,
    hello_rate: 0,
    kick_session_ms: 900_000,
    mesh_queue_bytes: 256 << 20,
    recipient_queue_bytes: 64 << 20,
};

/// A mesh, and the effects that nobody has looked at yet.
struct Scene {
    mesh: Mesh,
    now: u64,
    numbers: u64,
    effects: Vec<Effect>,
}

const HERE: u64 = 1;

/// From 100 on, of another node.
fn conn(number: u64) -> ConnId {
    ConnId { process: if number < 100 { HERE } else { HERE + 1 }, number }
}

impl Scene {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        let mesh = Mesh::new("mesh".into(), limits, HERE);
        let mut scene = Self { mesh, now: 1_000, numbers: 0, effects: Vec::new() };
        scene.activate(Activation { epoch: 1, ..Activation::default() }, Vec::new());
        scene
    }

    fn activate(&mut self, activation: Activation, held: Vec<Held>) {
        let activation = Some(Box::new(activation));
        let edges = self.edges(held);
        self.input(Input::Activated { activation, entropy: 7, edges });
    }

    /// As a lone node's edge says it.
    fn edges(&self, held: Vec<Held>) -> Vec<Edge> {
        let told = self.mesh.roster.iter().filter(|(_, lease)| lease.announced);
        vec![Edge { process: 1, held, told: told.map(|(_, lease)| lease.told()).collect() }]
    }

    /// The store knows of no grants, and says so at once.
    fn input(&mut self, input: Input) {
        let now = Now { mono: self.now, wall: 1_800_000_000_000 };
        self.mesh.apply(now, input);
        self.effects.extend(self.mesh.drain(now));
        for ticket in self.take(|effect| match effect {
            Effect::Ask(ticket, Question::Grants { .. }) => Some(*ticket),
            _ => None,
        }) {
            self.input(Input::Answer(ticket, Some(no_grants())));
        }
    }

    fn command(&mut self, number: u64, command: Command) -> u64 {
        self.numbers += 1;
        let (conn, number, base) = (conn(number), self.numbers, 0);
        let epoch = self.mesh.serving().unwrap();
        let command = Arc::new(command);
        self.input(Input::Command(Numbered { conn, epoch, base, number, command }));
        number
    }

    fn take<T>(&mut self, wanted: impl Fn(&Effect) -> Option<T>) -> Vec<T> {
        let taken = self.effects.iter().filter_map(&wanted).collect();
        self.effects.retain(|effect| wanted(effect).is_none());
        taken
    }

    fn commits(&mut self) -> Vec<MeshCommit> {
        self.take(|effect| match effect {
            Effect::Commit(commit) => Some(commit.clone()),
            _ => None,
        })
    }

    /// Everything that waits becomes durable.
    fn commit(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        loop {
            let commits = self.commits();
            if commits.is_empty() {
                return writes;
            }
            let units = commits.into_iter().flat_map(|commit| commit.units);
            writes.extend(units.flat_map(|unit| unit.0));
            self.input(Input::Committed(Outcome::Committed { purged: 0 }));
        }
    }

    /// A plain hello; the store knows its member.
    fn greet(&mut self, number: u64, who: &str) {
        let attach = Attach {
            pubkey: who.into(),
            member: None,
            session: SessionKey::Absent,
            profile: Profile { session_id: format!("session-{who}"), ..Profile::default() },
            signature: format!("signature-{number}").into(),
            opened_at: OpenedAt::default(),
            read_at: 0,
        };
        self.greet_with(number, attach);
    }

    fn greet_with(&mut self, number: u64, attach: Attach) {
        self.command(number, Command::Attach(Box::new(attach)));
        let tickets = self.take(|effect| match effect {
            Effect::Ask(ticket, Question::Identity(claim)) => Some((*ticket, claim.pubkey.clone())),
            _ => None,
        });
        for (ticket, pubkey) in tickets {
            let identity = Answer::Identity(Some(Box::new(identity(&pubkey))));
            self.input(Input::Answer(ticket, Some(identity)));
        }
        self.commit();
    }

    fn send(&mut self, number: u64, target: &str) -> u64 {
        self.send_with(number, target, |_| {})
    }

    fn send_with(&mut self, number: u64, target: &str, change: impl FnOnce(&mut Send)) -> u64 {
        let mut send = Send {
            id: Some("id".into()),
            target_spec: target.to_owned(),
            priority: Priority::Now,
            nonce: String::new(),
            ciphertext: "text".to_owned(),
            client_message_id: None,
            request_fingerprint: None,
            reply_to_id: None,
            offline: None,
            mentions: None,
            body_version: None,
        };
        change(&mut send);
        self.command(number, Command::Send(send))
    }

    /// A send under a client's key.
    fn send_keyed(&mut self, number: u64, target: &str, key: &str) -> u64 {
        self.send_with(number, target, |send| send.client_message_id = Some(key.to_owned()))
    }

    fn attached(&mut self) -> Vec<Held> {
        self.take(|effect| match effect {
            Effect::Attached { held, .. } => Some(held.clone()),
            _ => None,
        })
    }

    /// The leases, as a store gives them to the next owner.
    fn stored(&self) -> Vec<StoredLease> {
        let rows = self.mesh.roster.iter().map(|(_, lease)| lease.row());
        rows.map(|row| StoredLease { row, away_ms: 0 }).collect()
    }

    fn results(&mut self) -> Vec<u64> {
        self.take(|effect| match effect {
            Effect::Result { number, .. } => Some(*number),
            _ => None,
        })
    }

    /// The grace passes, second by second.
    fn leave(&mut self) {
        let until = self.now + 90_001;
        while let Some(due) = self.mesh.deadline().filter(|due| *due <= until) {
            self.now = due.max(self.now);
            self.input(Input::Tick);
        }
        self.now = until;
    }
}

/// A hello of a command that may be gone at once.
fn passing(who: &str) -> Attach {
    let (session_id, channel) = ("command".to_owned(), Some("claude-code".to_owned()));
    Attach {
        pubkey: who.into(),
        member: None,
        session: SessionKey::Claimed("key".into()),
        profile: Profile { session_id, channel, ..Profile::default() },
        signature: "signature".into(),
        opened_at: OpenedAt::default(),
        read_at: 0,
    }
}

fn identity(pubkey: &str) -> Identity {
    let member = Member {
        id: pubkey.into(),
        pubkey: pubkey.into(),
        display_name: pubkey.to_owned(),
        role: "member".to_owned(),
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: "push".to_owned(),
        revoked: false,
        owner: pubkey == "ana",
        grants: Grants::default(),
    };
    Identity {
        mesh_name: "mesh".to_owned(),
        archived: false,
        self_editable: None,
        member: Some(member),
        key_member: None,
        key_taken: false,
        seen_by: None,
        alone: false,
        saved: None,
        pending: None,
    }
}

fn no_grants() -> Answer {
    Answer::Grants { grants: Vec::new(), taken: Vec::new() }
}

fn recipients(writes: &[Write]) -> Vec<Recipient> {
    let accepts = writes.iter().filter_map(|write| match write {
        Write::Accept(accept) => Some(accept.recipients.clone()),
        _ => None,
    });
    accepts.flatten().collect()
}

#[test]
fn nothing_is_left_for_a_presence_that_is_just_leaving() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.command(2, Command::Detach { clean: false, next: None });
    scene.commit();
    scene.leave();
    scene.send(1, "*");
    assert!(recipients(&scene.commit()).is_empty());
    assert_eq!(scene.mesh.leases(), 1);
}

#[test]
fn a_detach_is_answered_behind_what_was_sent_before_it() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.results();
    let sent = scene.send(1, "ben");
    let detached = scene.command(1, Command::Detach { clean: false, next: None });
    assert!(scene.results().is_empty());
    scene.commit();
    assert_eq!(scene.results(), [sent, detached]);
}

#[test]
fn nothing_leaves_in_a_new_epoch_before_the_grants_are_known() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    let held = scene.attached();
    let row = scene.mesh.roster.iter().map(|(_, lease)| lease.row()).next().unwrap();
    scene.input(Input::CommitUnknown);
    let leases = vec![StoredLease { row, away_ms: 0 }];
    let queue = QueueId { recipient: Recipient::Member("ana".into()), lane: Lane::Normal };
    let activation =
        Activation { epoch: 2, leases, queues: vec![(queue, 1)], ..Activation::default() };
    let now = Now { mono: scene.now, wall: 1_800_000_000_000 };
    let activation = Some(Box::new(activation));
    let edges = scene.edges(held);
    scene.mesh.apply(now, Input::Activated { activation, entropy: 7, edges });
    let mut asked = Vec::new();
    // The first time the store cannot say.
    for answer in [None, Some(no_grants())] {
        for effect in scene.mesh.drain(now) {
            if let Effect::Ask(ticket, question) = effect {
                asked.push(question);
                scene.mesh.apply(now, Input::Answer(ticket, answer.clone()));
            }
        }
    }
    let grants = || Question::Grants { claims: Vec::new() };
    assert_eq!(asked, [grants(), grants()]);
    let pages = scene.mesh.drain(now).into_iter();
    assert_eq!(pages.filter(|e| matches!(e, Effect::Ask(_, Question::Page { .. }))).count(), 1);
}

#[test]
fn a_peer_that_acks_is_not_confirmed_by_its_pongs() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.send(1, "ben");
    scene.commit();
    let pushed = scene.take(|effect| match effect {
        Effect::Push { envelope, .. } => Some(envelope.id.to_string()),
        _ => None,
    });
    scene.now += 2_000;
    scene.input(Input::Tick);
    let probes = scene.take(|effect| match effect {
        Effect::Probe { conn, nonce } => Some(Input::Pong { conn: *conn, nonce: *nonce }),
        _ => None,
    });
    for pong in probes {
        scene.input(pong);
    }
    scene.commit();
    // Too late to confirm anything, and yet an ack.
    let ack = ClientAck { client_message_id: None, broker_message_id: pushed.into_iter().next() };
    scene.command(2, Command::ClientAck(ack));
    scene.command(2, Command::Detach { clean: false, next: None });
    scene.commit();
    scene.greet(3, "ben");
    scene.send(1, "ben");
    scene.commit();
    scene.now += 2_000;
    scene.input(Input::Tick);
    let probes = scene.take(|effect| matches!(effect, Effect::Probe { .. }).then_some(()));
    assert!(probes.is_empty());
}

#[test]
fn mail_to_oneself_is_not_held_for_oneself() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.send_with(1, "ana", |send| send.offline = Some("queue".to_owned()));
    let refused = scene.take(|effect| match effect {
        Effect::Result { frame: Some(Frame::Ack(ack)), .. } => Some(ack.queued),
        _ => None,
    });
    assert_eq!(refused, [false]);
}

#[test]
fn behind_a_refusal_nothing_is_accepted_that_may_overtake_it() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(100, "ben");
    scene.results();
    for (number, other) in [(1, "ben"), (100, "ana")] {
        scene.send(number, "nobody");
        scene.send(number, other);
    }
    let refused = scene.take(|effect| match effect {
        Effect::Refusal { conn, .. } => Some(*conn),
        _ => None,
    });
    assert_eq!(refused, [conn(100)], "what is said here is not lost");
    assert_eq!(recipients(&scene.commit()).len(), 1);
    assert!(scene.commits().is_empty());
    scene.input(Input::Heard(conn(100)));
    assert_eq!(recipients(&scene.commit()).len(), 1);
}

#[test]
fn sends_wait_within_bounds_when_the_store_is_slow() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    let refused = |effect: &Effect| match effect {
        Effect::Result { frame: Some(Frame::Ack(ack)), .. } => Some(ack.queued),
        _ => None,
    };
    for _ in 0..20_000 {
        scene.send(1, "ben");
    }
    let refused = scene.take(refused);
    assert!(!refused.is_empty() && refused.iter().all(|queued| !queued));
    scene.commit();
    scene.send(1, "ben");
    assert_eq!(recipients(&scene.commit()).len(), 1);
}

fn audited(writes: &[Write]) -> Vec<AuditRow> {
    let rows = writes.iter().filter_map(|write| match write {
        Write::Audit(row) => Some(row.clone()),
        _ => None,
    });
    rows.collect()
}

fn accepts(commit: &MeshCommit) -> Vec<Seq> {
    let writes = commit.units.iter().flat_map(|unit| &unit.0);
    let accepts = writes.filter_map(|write| match write {
        Write::Accept(accept) => Some(accept.envelope.seq),
        _ => None,
    });
    accepts.collect()
}

#[test]
fn what_was_known_is_answered_and_the_rest_is_written_without_a_hole_in_the_chain() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    let sent = ["one", "two", "three"].map(|key| scene.send_keyed(1, "ben", key));
    scene.results();
    // The first went ahead alone; the other two are the next commit.
    scene.commits();
    scene.input(Input::Committed(Outcome::Committed { purged: 0 }));
    let [commit] = scene.commits().try_into().unwrap();
    let [second, third] = accepts(&commit).try_into().unwrap();
    let original = Accepted { message: "before".into(), fingerprint: None };
    let known = vec![Duplicate { seq: second, original }];
    scene.input(Input::Committed(Outcome::Known(known)));
    assert_eq!(scene.results(), [sent[0], sent[1]]);
    let [again] = scene.commits().try_into().unwrap();
    assert_eq!(accepts(&again), [third]);
    let entry = |commit: &MeshCommit| audited(&commit.units[0].0).remove(0);
    assert_eq!(entry(&again).prev_hash, entry(&commit).prev_hash);
}

/// Of what is refused the store is asked whether it was accepted before: not without end.
#[test]
fn refused_sends_ask_the_store_at_a_rate() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    let mut asked = 0;
    for number in 0..3_000 {
        scene.send_keyed(1, "nobody", &format!("key-{number}"));
        let tickets = scene.take(|effect| match effect {
            Effect::Ask(ticket, Question::Accepted { .. }) => Some(*ticket),
            _ => None,
        });
        asked += tickets.len();
        for ticket in tickets {
            scene.input(Input::Answer(ticket, Some(Answer::Accepted(None))));
        }
    }
    assert_eq!(asked, 1_000);
    assert_eq!(scene.results().len(), 3_000, "each is answered");
    scene.now += 60_000;
    scene.send_keyed(1, "nobody", "key-of-later");
    let asks = |effect: &Effect| matches!(effect, Effect::Ask(_, Question::Accepted { .. }));
    assert!(scene.effects.iter().any(asks));
}
