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

mod missed;
mod stalls;

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
        let mesh = Mesh::new("mesh".into(), LIMITS, HERE);
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
fn the_newest_line_keeps_its_presence_into_the_next_epoch() {
    let mut scene = Scene::new();
    scene.greet(9, "ana");
    scene.greet(2, "ana");
    let held = scene.attached();
    let row = scene.mesh.roster.iter().map(|(_, lease)| lease.row()).next().unwrap();
    scene.input(Input::CommitUnknown);
    let leases = vec![StoredLease { row, away_ms: 0 }];
    let held = vec![held[1].clone(), held[0].clone()];
    scene.activate(Activation { epoch: 2, leases, ..Activation::default() }, held);
    assert!(scene.mesh.roster.of_conn(conn(2)).is_some());
}

#[test]
fn a_command_that_is_gone_at_once_is_nobodys_news_in_a_new_epoch_either() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet_with(2, passing("ben"));
    let held = scene.attached();
    let leases = scene.stored();
    scene.input(Input::CommitUnknown);
    scene.activate(Activation { epoch: 2, leases, ..Activation::default() }, held);
    scene.command(2, Command::Detach { clean: true, next: None });
    scene.commit();
    assert_eq!(scene.mesh.leases(), 1);
    let told = scene.take(|effect| matches!(effect, Effect::Broadcast { .. }).then_some(()));
    assert!(told.is_empty());
}

/// An owner has died, and whoever was connected there comes to the heir, which remembers nothing.
#[test]
fn whom_any_edge_knows_is_not_announced_to_those_whose_edge_has_died() {
    let mut first = Scene::new();
    first.greet(1, "ana");
    first.greet_with(100, passing("ben"));
    let (held, leases) = (first.attached(), first.stored());
    let told: Vec<_> = first.mesh.roster.iter().map(|(_, lease)| lease.told()).collect();

    let mut heir = Scene::new();
    heir.input(Input::CommitUnknown);
    let activation = Activation { epoch: 9, leases, ..Activation::default() };
    heir.activate(activation, Vec::new());
    heir.greet(2, "ana");
    let held = held.into_iter().filter(|held| held.conn == conn(100)).collect();
    heir.input(Input::Announced(Edge { process: HERE + 1, held, told }));
    heir.input(Input::AllAnnounced);
    heir.now += ANNOUNCE_MS;
    heir.input(Input::Tick);
    let told = heir.take(|effect| match effect {
        Effect::News { events, .. } if !events.is_empty() => Some(events.clone()),
        _ => None,
    });
    assert!(told.is_empty(), "{told:?}");
    assert!(heir.mesh.roster.iter().all(|(_, lease)| lease.announced));
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
fn a_contested_key_is_taken_over_where_there_is_no_room_beside_it() {
    let mut scene = Scene::new();
    scene.greet(1, "ben");
    for number in 2..8 {
        scene.greet(number, "ana");
        assert_eq!(scene.attached().last().map(|held| held.conn), Some(conn(number)));
    }
    assert_eq!(scene.mesh.leases(), 2);
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

#[test]
fn of_two_with_one_key_the_second_waits_for_the_first() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    for key in ["zero", "one", "one", "two"] {
        scene.send_keyed(1, "ben", key);
    }
    let mut sizes = Vec::new();
    while let Some(commit) = scene.commits().pop() {
        sizes.push(accepts(&commit).len());
        scene.input(Input::Committed(Outcome::Committed { purged: 0 }));
    }
    assert_eq!(sizes, [1, 1, 2]);
}

impl Scene {
    fn kick(&mut self, number: u64, target: &str, done: Option<&str>) -> Vec<Write> {
        self.judge(number, target, done);
        self.commit()
    }

    /// The store has said that the caller may.
    fn judge(&mut self, number: u64, target: &str, done: Option<&str>) {
        let selection = Selection { target: Some(target.to_owned()), ..Selection::default() };
        let request = Request { verb: Verb::Disconnect(selection), req_id: None };
        self.command(number, Command::Request(request));
        let [ticket] = self
            .take(|effect| match effect {
                Effect::Ask(ticket, Question::Moderation { .. }) => Some(*ticket),
                _ => None,
            })
            .try_into()
            .unwrap();
        let known = Moderation {
            caller: identity("ana").member,
            done: done.map(str::to_owned),
            matching: Vec::new(),
        };
        let answer = Answer::Moderation(Box::new(known));
        self.input(Input::Answer(ticket, Some(answer)));
    }
}

#[test]
fn what_a_leaving_peer_asks_is_answered_behind_its_departure() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.judge(1, "ben", None);
    scene.results();
    let verb = Verb::SetVisible { visible: false };
    scene.command(2, Command::Request(Request { verb, req_id: Some("id".into()) }));
    assert!(scene.results().is_empty());
    scene.commit();
    assert_eq!(scene.results().len(), 2);
}

#[test]
fn an_unban_is_in_the_audit_though_its_caller_has_gone_meanwhile() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    let verb = Verb::Unban { target: Some("ben".to_owned()) };
    scene.command(1, Command::Request(Request { verb, req_id: None }));
    scene.input(Input::Lost(conn(1)));
    let tickets = scene.take(|effect| match effect {
        Effect::Ask(ticket, Question::Moderation { .. }) => Some(*ticket),
        _ => None,
    });
    let matching = identity("ben").member.into_iter().collect();
    let known = Moderation { caller: identity("ana").member, done: None, matching };
    let answer = Answer::Moderation(Box::new(known));
    scene.input(Input::Answer(tickets[0], Some(answer)));
    let unbans = scene
        .commit()
        .into_iter()
        .filter(|write| matches!(write, Write::Audit(row) if row.event == "member_unbanned"));
    assert_eq!(unbans.count(), 1);
}

#[test]
fn a_command_that_was_done_is_answered_and_not_done_again() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    let writes = scene.kick(1, "ben", None);
    let done = writes.iter().find_map(|write| match write {
        Write::Done { reply, .. } => Some(reply.clone()),
        _ => None,
    });
    scene.greet(2, "ben");
    scene.take(|effect| matches!(effect, Effect::Result { .. }).then_some(()));
    assert_eq!(scene.kick(1, "ben", done.as_deref()), []);
    let answers = scene.take(|effect| match effect {
        Effect::Result { frame: Some(Frame::DisconnectAck(ended)), .. } => {
            Some(ended.kicked.clone())
        }
        _ => None,
    });
    assert_eq!(answers, [["ben"]]);
    assert_eq!(scene.mesh.leases(), 2);
}

fn session(who: &str, key: &str, opened_at: OpenedAt) -> Attach {
    Attach {
        session: SessionKey::Proven(key.into()),
        signature: format!("signature-{opened_at:?}").into(),
        opened_at,
        ..passing(who)
    }
}

/// Clients' probes stay for two seconds; what stays longer is a peer like any other.
#[test]
fn a_short_lived_session_is_announced_when_it_has_stayed() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet_with(2, passing("ben"));
    let told = |scene: &mut Scene| {
        scene.take(|effect| match effect {
            Effect::News { events, .. } if !events.is_empty() => Some(()),
            _ => None,
        })
    };
    told(&mut scene);
    scene.now += SHORT_LIVED_MS - 1;
    scene.input(Input::Tick);
    assert!(told(&mut scene).is_empty());
    scene.now += 1;
    scene.input(Input::Tick);
    assert_eq!(told(&mut scene).len(), 1);
}

/// Its socket broke: it said no goodbye.
#[test]
fn a_short_lived_session_that_is_lost_leaves_unseen() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet_with(2, passing("ben"));
    scene.take(|effect| matches!(effect, Effect::News { .. }).then_some(()));
    scene.command(2, Command::Detach { clean: false, next: None });
    scene.commit();
    for _ in 0..SHORT_LIVED_MS / 500 {
        scene.now += 500;
        scene.input(Input::Tick);
        scene.commit();
    }
    assert_eq!(scene.mesh.leases(), 1);
    let told = scene.take(|effect| matches!(effect, Effect::News { .. }).then_some(()));
    assert!(told.is_empty());
}

/// What its client's clock says does not matter; what waited long at an edge is old.
#[test]
fn the_hello_of_the_socket_opened_last_is_the_newer() {
    let read = |process, mono, wall| OpenedAt { process, mono, wall };
    for (first, second, takes_over) in [
        (read(1, 5_000, 50_000), read(1, 5_001, 20_000), true),
        (read(1, 5_000, 50_000), read(1, 4_999, 90_000), false),
        (read(1, 5_000, 50_000), read(2, 1, 49_400), false),
        (read(1, 5_000, 50_000), read(2, 1, 49_600), true),
        (read(1, 5_000, 500_000), read(2, 1, 400_000), true),
    ] {
        let mut scene = Scene::new();
        scene.greet_with(1, session("ana", "key", first));
        scene.greet_with(2, session("ana", "key", second));
        let holds = scene.mesh.roster.of_conn(conn(2)).is_some();
        assert_eq!(holds, takes_over, "{first:?} and then {second:?}");
    }
}

/// What the peer of a connection is told when it asks for the list.
fn listed(scene: &mut Scene, number: u64) -> Vec<Row> {
    scene.command(number, Command::Request(Request { verb: Verb::ListPeers, req_id: None }));
    let lists = scene.take(|effect| match effect {
        Effect::Result { frame: Some(Frame::PeersList { peers, .. }), .. } => Some(peers.clone()),
        _ => None,
    });
    lists.into_iter().next_back().unwrap_or_default()
}

fn summary(text: &str) -> Command {
    let verb = Verb::SetSummary { summary: text.to_owned() };
    Command::Request(Request { verb, req_id: None })
}

#[test]
fn a_row_is_encoded_once_for_each_change_of_it() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    let first = listed(&mut scene, 1);
    let again = listed(&mut scene, 2);
    assert!(first.len() == 2 && first.iter().zip(&again).all(|(a, b)| a.is_same(b)));
    scene.command(2, summary("new"));
    let then = listed(&mut scene, 1);
    let changed: Vec<_> = then.iter().filter(|row| !first.iter().any(|r| r.is_same(row))).collect();
    assert_eq!(changed.len(), 1);
    assert!(changed[0].as_str().contains("\"summary\":\"new\""), "{changed:?}");
}

/// As the owner of the mesh (`ana`) or a member, `verb`; what is answered.
fn answered(scene: &mut Scene, verb: Verb, answer: &Answer) -> Vec<Frame> {
    scene.command(1, Command::Request(Request { verb, req_id: None }));
    let mut asked = 0;
    loop {
        let tickets = scene.take(|effect| match effect {
            Effect::Ask(ticket, Question::Messages { .. } | Question::VerifyAudit(_)) => {
                Some(*ticket)
            }
            _ => None,
        });
        let Some(ticket) = tickets.into_iter().next().filter(|_| asked < 100) else { break };
        asked += 1;
        scene.now += 100;
        scene.input(Input::Answer(ticket, Some(answer.clone())));
    }
    scene.take(|effect| match effect {
        Effect::Result { frame: Some(frame), .. } => Some(frame.clone()),
        _ => None,
    })
}

fn code(frames: &[Frame]) -> Option<(String, String)> {
    match frames {
        [Frame::Error(error)] => Some((error.code.clone(), error.message.clone())),
        _ => None,
    }
}

#[test]
fn a_message_is_followed_by_whom_it_concerns_alone() {
    let message = |sender: &str, recipients: Vec<Recipient>, members: &[&str]| StoredMessage {
        id: "00000001aaaaaaaaaaaaaaaaaaaaaaaa".into(),
        sender: sender.into(),
        members: members.iter().map(|member| (*member).into()).collect(),
        target: "*".to_owned(),
        recipients,
        waiting: Vec::new(),
        delivered_at: None,
        undeliverable: false,
    };
    let to = |member: &str| vec![Recipient::Member(member.into())];
    let mine = [
        message("ben", to("dora"), &[]),
        message("carl", to("ben"), &[]),
        message("carl", vec![Recipient::Session("key".into())], &["dora", "ben"]),
    ];
    let others = [
        message("carl", to("dora"), &[]),
        message("carl", vec![Recipient::Session("ben".into())], &["dora"]),
        message("carl", vec![Recipient::Presence("p".into())], &[]),
        message("carl", Vec::new(), &[]),
    ];
    for (who, found, shown) in [
        ("ben", &mine[..], true),
        ("ben", &others[..], false),
        ("ana", &mine[..], true),
        ("ana", &others[..], true),
    ] {
        for message in found {
            let mut scene = Scene::new();
            scene.greet(1, who);
            let verb = Verb::MessageStatus { message_id: "00000001".to_owned() };
            let told = answered(&mut scene, verb.clone(), &Answer::Messages(vec![message.clone()]));
            let nothing = ("not_found".to_owned(), "message not found".to_owned());
            assert_eq!(code(&told), (!shown).then(|| nothing.clone()), "{who} {message:?}");
            // Two that begin alike are ambiguous to those only whom both concern.
            let two = Answer::Messages(vec![message.clone(), message.clone()]);
            let told = code(&answered(&mut scene, verb, &two)).unwrap();
            assert_eq!(told.0, if shown { "ambiguous_prefix" } else { "not_found" });
        }
    }
}

fn slice(entries: u64, broken_at: Option<i64>, ended: bool) -> Answer {
    let so_far = Verified { entries, ..Verified::default() };
    Answer::AuditVerified(VerifiedSlice { so_far, broken_at, ended })
}

#[test]
fn a_chain_is_verified_for_moderators_in_slices_and_as_far_as_a_client_waits() {
    let mut scene = Scene::new();
    scene.greet(1, "ben");
    let told = answered(&mut scene, Verb::AuditVerify, &slice(1, None, true));
    assert_eq!(code(&told).unwrap().0, "forbidden");
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    let start = scene.now;
    let told = answered(&mut scene, Verb::AuditVerify, &slice(700, None, false));
    let (name, text) = code(&told).unwrap();
    assert!(name == "audit_verify_error" && text.starts_with("700 entries"), "{name}: {text}");
    assert!((5_000..8_000).contains(&(scene.now - start)), "{}", scene.now - start);
    // It goes on behind what is verified.
    scene.command(1, Command::Request(Request { verb: Verb::AuditVerify, req_id: None }));
    let from = |effect: &Effect| match effect {
        Effect::Ask(ticket, Question::VerifyAudit(from)) => Some((*ticket, from.entries)),
        _ => None,
    };
    let [(ticket, 700)] = scene.take(from)[..] else { panic!("not from there") };
    // One at a time.
    scene.command(1, Command::Request(Request { verb: Verb::AuditVerify, req_id: None }));
    scene.input(Input::Answer(ticket, Some(slice(701, Some(9), true))));
    let told = scene.take(|effect| match effect {
        Effect::Result { frame: Some(frame), .. } => Some(frame.clone()),
        _ => None,
    });
    assert!(matches!(&told[0], Frame::Error(error) if error.code == "audit_verify_error"));
    let broken =
        Frame::AuditVerifyResult { valid: false, entries: 701, broken_at: Some(9), req_id: None };
    assert_eq!(told[1..], [broken]);
    // The next owner begins anew.
    scene.input(Input::CommitUnknown);
    scene.activate(Activation { epoch: 2, ..Activation::default() }, Vec::new());
    assert_eq!(scene.mesh.verified, Verified::default());
}

impl Scene {
    /// The store tells of a member that it was removed, as of `asked`.
    fn told_removed(&mut self, member: &str, asked: u64) {
        let mut membership = Membership::default();
        membership.add(member.into(), true, false);
        self.input(Input::Membership { asked, membership: Arc::new(membership) });
    }

    fn frames(&mut self) -> Vec<Frame> {
        self.take(|effect| match effect {
            Effect::Result { frame: Some(frame), .. } => Some(frame.clone()),
            _ => None,
        })
    }

    fn lists(&mut self, number: u64) {
        let request = Request { verb: Verb::ListPeers, req_id: Some("id".into()) };
        self.command(number, Command::Request(request));
    }
}

#[test]
fn a_member_removed_beside_has_no_say_before_that_is_durable() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.now += 10;
    scene.told_removed("ben", scene.now);
    scene.send(2, "ana");
    scene.send(1, "*");
    scene.lists(2);
    assert!(scene.frames().is_empty(), "nothing is said before the commit");
    let writes = scene.commit();
    assert!(recipients(&writes).is_empty(), "{writes:?}");
    let purged =
        |write: &Write| matches!(write, Write::Purge { member, .. } if member == &"ben".into());
    assert!(writes.iter().any(purged), "{writes:?}");
    let closed = scene.take(|effect| match effect {
        Effect::Close { conn, close } => Some((*conn, *close)),
        _ => None,
    });
    assert_eq!(closed, [(conn(2), protocol::close::BANNED)]);
    assert!(!scene.frames().iter().any(|frame| matches!(frame, Frame::PeersList { .. })));
    assert_eq!(scene.mesh.leases(), 1);
}

#[test]
fn what_was_read_before_a_hello_says_nothing_of_it() {
    let mut scene = Scene::new();
    let asked = scene.now;
    scene.greet(2, "ben");
    scene.told_removed("ben", asked);
    scene.commit();
    assert_eq!(scene.mesh.leases(), 1);
    scene.now += 1;
    scene.told_removed("ben", scene.now);
    scene.commit();
    assert_eq!(scene.mesh.leases(), 0);
    // Let in again, it may come and write at once.
    scene.greet(3, "ana");
    scene.greet(4, "ben");
    scene.send(4, "ana");
    scene.commit();
    let pushed = scene.take(|effect| match effect {
        Effect::Push { conn, .. } => Some(*conn),
        _ => None,
    });
    assert_eq!(pushed, [conn(3)]);
}

#[test]
fn everybody_leaves_an_archived_mesh_and_mail_stays() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.now += 10;
    let membership = Arc::new(Membership { archived: true, ..Membership::default() });
    let asked = scene.now;
    scene.input(Input::Membership { asked, membership: membership.clone() });
    scene.input(Input::Membership { asked, membership });
    let writes = scene.commit();
    assert!(!writes.iter().any(|write| matches!(write, Write::Purge { .. })));
    let left = |write: &&Write| matches!(write, Write::Audit(row) if row.event == "peer_left");
    assert_eq!(writes.iter().filter(left).count(), 2);
    assert_eq!(scene.mesh.leases(), 0);
}

#[test]
fn a_role_that_changed_is_saved_once() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.now += 10;
    let membership = Arc::new(Membership::default());
    for _ in 0..2 {
        let asked = scene.now;
        scene.input(Input::Membership { asked, membership: membership.clone() });
    }
    let saved = scene.commit().into_iter().filter(|write| matches!(write, Write::SaveLease(_)));
    assert_eq!(saved.count(), 1, "of ana, who is no owner any more");
    assert!(scene.mesh.roster.iter().all(|(_, lease)| !lease.record.moderator));
}
