use std::collections::VecDeque;

use proptest::prelude::*;
use protocol::PresenceId;
use protocol::server::Row;
use router::link::{RESULT_TIMEOUT_MS, WINDOW_COMMANDS};

use super::*;
use crate::mesh::io::{Generation, Held, SessionKey};

const LIMITS: EdgeLimits = EdgeLimits { hello_timeout_ms: 10_000 };

fn next(conn: ConnId) -> ConnId {
    ConnId { number: conn.number + 1, ..conn }
}

fn ana(signature: &str) -> Attach {
    Attach {
        pubkey: "ana".into(),
        member: None,
        session: SessionKey::Absent,
        profile: client::Profile::default(),
        signature: signature.into(),
        opened_at: OpenedAt::default(),
        read_at: 0,
    }
}

/// It may have waited, unread, in a socket that its peer has given up since.
#[test]
fn a_hello_is_as_old_as_its_socket() {
    let mut scene = Scene::new();
    scene.now.mono += 5_000;
    scene.session.hello(scene.now, "mesh".into(), Ok(ana("t")));
    let Phase::Switching(_, attach) = &scene.session.phase else { panic!("not switching") };
    assert_eq!(attach.opened_at.mono, 1_000);
}

/// A session that has said hello, and what its peer has been written.
struct Scene {
    session: Session,
    now: Now,
    /// What the owner has been asked and has not answered.
    asked: VecDeque<(u64, Arc<Command>)>,
    written: Vec<String>,
    closed: Option<Close>,
}

impl Scene {
    fn new() -> Self {
        let now = Now { mono: 1_000, wall: 0 };
        let conn = ConnId { process: 1, number: 1 };
        let session = Session::new(conn, next, LIMITS, now);
        let (asked, written) = (VecDeque::new(), Vec::new());
        let mut scene = Self { session, now, asked, written, closed: None };
        scene.session.hello(now, "mesh".into(), Ok(ana("s")));
        scene.session.deliver(now, ToEdge::Reset(1));
        scene.act();
        let (number, _) = scene.asked.pop_front().unwrap();
        let held = Held {
            conn,
            presence: PresenceId::from("p"),
            generation: Generation { epoch: 1, number: 1 },
        };
        let frame = text_frame("hello_ack");
        scene.session.deliver(now, ToEdge::Attached { held, number, frame });
        scene.act();
        scene.written.clear();
        scene
    }

    fn act(&mut self) {
        for action in self.session.drain() {
            match action {
                Action::Up(numbered) => self.asked.push_back((numbered.number, numbered.command)),
                Action::Write(frame) => self.written.push(frame.to_json()),
                Action::Close(close) => self.closed = Some(close),
                _ => {}
            }
        }
    }

    fn read(&mut self, text: &str) {
        assert!(self.session.wants_read(), "{text}");
        self.session.frame(self.now, text);
        self.act();
    }

    /// The owner answers the request with this id, or the send.
    fn answer(&mut self, id: &str, frame: impl Into<Option<Frame>>) {
        let frame = frame.into();
        let index = self.asked.iter().position(|(_, command)| id_of(command) == Some(id));
        let (number, _) = self.asked.remove(index.unwrap()).unwrap();
        self.session.deliver(self.now, ToEdge::Result { number, frame });
        self.act();
    }

    fn wait(&mut self, ms: Ms) {
        self.now.mono += ms;
        self.session.tick(self.now);
        self.act();
    }

    fn ids(&self) -> Vec<String> {
        let id = |text: &String| {
            let frame: serde_json::Value = serde_json::from_str(text).unwrap();
            let id = frame["_reqId"].as_str().filter(|id| !id.is_empty());
            id.or(frame["id"].as_str()).unwrap_or_default().to_owned()
        };
        self.written.iter().map(id).collect()
    }
}

fn id_of(command: &Command) -> Option<&str> {
    match command {
        Command::Request(request) => request.req_id.as_ref()?.as_text(),
        Command::Send(send) => send.id.as_ref()?.as_text(),
        _ => None,
    }
}

fn text_frame(text: &str) -> Frame {
    Frame::Verbatim { text: format!("\"{text}\"").into(), tail: String::new(), acceptance: false }
}

fn done(id: &str) -> Frame {
    Frame::BanAck { banned: "b".into(), req_id: Some(id.into()) }
}

fn list(id: &str, bytes: usize) -> Frame {
    let peers = vec![Row::of(&"x".repeat(bytes))];
    Frame::PeersList { peers, req_id: Some(id.into()) }
}

fn ask(verb: &str, id: &str) -> String {
    format!(
        r#"{{"type":"{verb}","_reqId":"{id}","target":"t","visible":true,"messageId":"12345678"}}"#
    )
}

fn refused_send(id: &str) -> Frame {
    Frame::Ack(server::Ack::refused(Some(id.into()), "no_recipient"))
}

fn accepted(id: &str) -> Frame {
    let mut ack = server::Ack::refused(Some(id.into()), "");
    (ack.queued, ack.error) = (true, None);
    Frame::Ack(ack)
}

fn send(id: &str) -> String {
    format!(r#"{{"type":"send","id":"{id}","targetSpec":"*","nonce":"n","ciphertext":"c"}}"#)
}

/// What is refused at the edge, and how.
fn refused(id: &str) -> [String; 5] {
    [
        format!(r#"{{"type":"vault_list","_reqId":"{id}"}}"#),
        format!(r#"{{"type":"ban","_reqId":"{id}","target":7}}"#),
        format!(r#"{{"type":"list_peers","id":"{id}","_reqId":{{}}}}"#),
        format!(r#"{{"type":"set_status","_reqId":"{id}","status":"asleep"}}"#),
        format!(r#"{{"type":"vault_get","_reqId":"{id}","key":"\u0000"}}"#),
    ]
}

#[test]
fn what_is_refused_here_does_not_overtake_what_the_owner_answers() {
    for frame in refused("2") {
        let mut scene = Scene::new();
        scene.read(&ask("ban", "1"));
        scene.read(&frame);
        scene.read(&ask("unban", "3"));
        assert!(scene.written.is_empty(), "{frame}: {:?}", scene.written);
        scene.answer("1", done("1"));
        assert_eq!(scene.ids(), ["1", "2"], "{frame}");
        scene.answer("3", done("3"));
        assert_eq!(scene.ids(), ["1", "2", "3"]);
    }
}

#[test]
fn answers_of_the_owner_come_in_the_order_of_the_requests() {
    let mut scene = Scene::new();
    for (verb, id) in [("audit_verify", "1"), ("set_visible", "2"), ("ban", "3"), ("unban", "4")] {
        scene.read(&ask(verb, id));
    }
    for id in ["4", "2", "3"] {
        scene.answer(id, done(id));
        assert!(scene.written.is_empty());
    }
    scene.answer("1", done("1"));
    assert_eq!(scene.ids(), ["1", "2", "3", "4"]);
}

#[test]
fn acks_of_sends_come_between() {
    let mut scene = Scene::new();
    scene.read(&ask("audit_verify", "1"));
    scene.read(&send("s"));
    scene.read(r#"{"type":"send","id":"bad","nonce":"n"}"#);
    assert_eq!(scene.ids(), ["bad"]);
    scene.answer("s", Some(Frame::Ack(Ack::refused(Some("s".into()), "no"))));
    assert_eq!(scene.ids(), ["bad", "s"]);
    scene.answer("1", done("1"));
    assert_eq!(scene.ids(), ["bad", "s", "1"]);
}

/// What says nothing, because all is well, holds nobody up once that is known.
#[test]
fn what_is_not_answered_keeps_its_place_until_it_is_decided() {
    let mut scene = Scene::new();
    scene.read(&ask("set_summary", "1"));
    scene.read(&refused("2")[0]);
    assert!(scene.written.is_empty());
    scene.answer("1", None);
    assert_eq!(scene.ids(), ["2"]);
}

#[test]
fn what_is_given_up_is_answered_in_its_turn() {
    let mut scene = Scene::new();
    scene.read(&ask("audit_verify", "1"));
    scene.wait(1_000);
    scene.read(&ask("ban", "2"));
    scene.read(&refused("3")[0]);
    scene.answer("2", done("2"));
    scene.wait(RESULT_TIMEOUT_MS - 1_000);
    assert_eq!(scene.ids(), ["1", "2", "3"]);
    assert!(scene.written[0].contains("unavailable"));
}

#[test]
fn what_is_refused_here_counts_towards_the_window() {
    let mut scene = Scene::new();
    scene.read(&ask("audit_verify", "0"));
    for id in 1..WINDOW_COMMANDS {
        assert!(scene.session.wants_read());
        scene.wait(1_000 / 50);
        scene.session.frame(scene.now, &refused(&id.to_string())[0]);
    }
    assert!(!scene.session.wants_read());
    scene.act();
    assert!(scene.written.is_empty());
    scene.answer("0", done("0"));
    assert_eq!(scene.written.len(), WINDOW_COMMANDS);
    assert!(scene.session.wants_read());
}

/// A list that waits for its turn is held here: there is never a second one.
#[test]
fn one_list_at_a_time() {
    let all = ["list_peers", "message_status", "list_bans", "audit_query", "kick", "disconnect"];
    for verb in all {
        let mut scene = Scene::new();
        scene.read(&ask("audit_verify", "1"));
        scene.read(&ask(verb, "2"));
        assert!(!scene.session.wants_read(), "{verb}");
        scene.answer("2", list("2", 1));
        assert!(!scene.session.wants_read(), "{verb} is held here");
        scene.answer("1", done("1"));
        assert_eq!(scene.ids(), ["1", "2"]);
        assert!(scene.session.wants_read(), "{verb}");
    }
}

#[test]
fn whoever_has_asked_for_much_waits_before_asking_again_and_may_go_on_sending() {
    let mut scene = Scene::new();
    let large = usize::try_from(COST_BURST).unwrap() + 1_000_000;
    scene.read(&ask("list_peers", "1"));
    scene.answer("1", list("1", large));
    scene.read(&send("s"));
    scene.read(&ask("list_peers", "2"));
    assert!(!scene.session.wants_read());
    assert_eq!(scene.asked.len(), 1, "the send alone");
    let due = scene.session.deadline().unwrap();
    scene.wait(due - scene.now.mono - 1);
    assert_eq!(scene.asked.len(), 1);
    scene.wait(1);
    assert_eq!(scene.asked.len(), 2);
    assert!(due > 1_800 && due < 3_000, "a megabyte a second: {due}");
    assert_eq!(scene.closed, None);
}

/// A thousand refusals at once, then 128 a second; accepted sends are not slowed down.
#[test]
fn a_connection_whose_sends_are_refused_is_read_at_a_rate() {
    let refused_within = |ms: Ms, answer: Frame| {
        let mut scene = Scene::new();
        let (until, mut count) = (scene.now.mono + ms, 0);
        while scene.now.mono < until {
            while scene.session.wants_read() && count < 100_000 {
                scene.read(&send("s"));
                let Some((number, _)) = scene.asked.pop_front() else { break };
                let frame = Some(answer.clone());
                scene.session.deliver(scene.now, ToEdge::Result { number, frame });
                scene.act();
                count += 1;
            }
            scene.wait(10);
            // What waited was passed on.
            while let Some((number, _)) = scene.asked.pop_front() {
                let frame = Some(answer.clone());
                scene.session.deliver(scene.now, ToEdge::Result { number, frame });
                scene.act();
                count += 1;
            }
        }
        assert_eq!(scene.closed, None);
        count
    };
    let verbatim = |frame: &Frame| Frame::Verbatim {
        text: frame.to_json().into(),
        tail: String::new(),
        acceptance: frame.is_acceptance(),
    };
    let forged = Frame::Ack(server::Ack::refused(Some(UNAVAILABLE.into()), "no_recipient"));
    for refused in [refused_send("s"), verbatim(&refused_send("s")), verbatim(&forged)] {
        let count = refused_within(10_000, refused);
        assert!((2_200..=2_400).contains(&count), "{count}");
    }
    // It is not the sender's fault that the store is away.
    let unavailable = Frame::Ack(server::Ack::refused(Some("s".into()), UNAVAILABLE));
    for free in [accepted("s"), verbatim(&unavailable), unavailable] {
        assert_eq!(refused_within(10_000, free), 100_000);
    }
}

/// However long others have made an answer.
#[test]
fn nobody_waits_for_long_for_what_it_owes() {
    let mut scene = Scene::new();
    scene.read(&ask("list_peers", "1"));
    scene.answer("1", list("1", 50_000_000));
    scene.read(&ask("list_peers", "2"));
    scene.wait(COST_WAIT_MS);
    assert!(scene.asked.iter().any(|(_, command)| id_of(command) == Some("2")));
}

/// A change is not lost with the connection that waits to pay for it; a question is.
#[test]
fn what_waits_to_be_paid_is_done_before_the_end() {
    for (verb, done) in [("set_visible", 2), ("list_peers", 1)] {
        let mut scene = Scene::new();
        scene.read(&ask("list_peers", "1"));
        scene.answer("1", list("1", 50_000_000));
        scene.read(&ask(verb, "2"));
        scene.session.closed(scene.now, true);
        scene.act();
        assert_eq!(scene.asked.len(), done, "{verb}");
        assert!(matches!(*scene.asked.back().unwrap().1, Command::Detach { clean: true, .. }));
    }
}

#[test]
fn a_large_lease_is_dear_to_change() {
    let changes = |told: usize| {
        let mut scene = Scene::new();
        let bio = "x".repeat(told.min(4096));
        for frame in [
            format!(r#"{{"type":"set_profile","bio":"{bio}","avatar":"{bio}","_reqId":"p"}}"#),
            format!(r#"{{"type":"set_summary","summary":"{bio}","_reqId":"s"}}"#),
        ] {
            scene.read(&frame);
        }
        let mut count = 0;
        while scene.session.wants_read() && scene.closed.is_none() && count < 10_000 {
            count += 1;
            scene.now.mono += 50;
            scene.read(&ask("set_visible", "v"));
            while let Some((number, _)) = scene.asked.pop_front() {
                scene.session.deliver(scene.now, ToEdge::Result { number, frame: None });
            }
            scene.act();
        }
        count
    };
    assert_eq!(changes(10), 10_000, "twenty in a second");
    assert!(changes(4096) < 200);
}

#[derive(Debug, Clone)]
enum Step {
    Ask(&'static str),
    Refused(usize),
    Send,
    Answer(usize, bool),
    Wait(Ms),
}

fn step() -> impl Strategy<Value = Step> {
    let verbs = ["ban", "unban", "set_summary", "audit_verify", "list_peers", "audit_query"];
    prop_oneof![
        4 => prop::sample::select(verbs.to_vec()).prop_map(Step::Ask),
        2 => (0..5usize).prop_map(Step::Refused),
        2 => Just(Step::Send),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(n, some)| Step::Answer(n, some)),
        1 => (1..9_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever comes when: what is answered is answered once, in the order of the requests, and
    /// nothing that must be is left out.
    #[test]
    fn answers_keep_the_order_of_the_requests(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut scene = Scene::new();
        let (mut asked, mut silent) = (Vec::new(), Vec::new());
        for (number, step) in steps.into_iter().enumerate() {
            let id = format!("{number:03}");
            match step {
                Step::Answer(pick, some) if !scene.asked.is_empty() => {
                    let pick = pick % scene.asked.len();
                    let command = scene.asked[pick].1.clone();
                    let id = id_of(&command).unwrap().to_owned();
                    let says_nothing = !some && matches!(
                        &*command,
                        Command::Request(Request { verb: protocol::client::Verb::SetSummary { .. }, .. })
                    );
                    if says_nothing {
                        silent.push(id.clone());
                    }
                    scene.answer(&id, if says_nothing { None } else { Some(done(&id)) });
                }
                Step::Answer(..) => {}
                Step::Wait(ms) => {
                    scene.wait(ms);
                    // Nobody reads the result of what was given up.
                    let numbers: Vec<_> =
                        scene.session.window.unreleased().map(|(_, number, _)| number).collect();
                    scene.asked.retain(|(number, _)| numbers.contains(number));
                }
                _ if !scene.session.wants_read() => {}
                Step::Ask(verb) => {
                    asked.push(id.clone());
                    scene.read(&ask(verb, &id));
                }
                Step::Refused(kind) => {
                    asked.push(id.clone());
                    scene.read(&refused(&id)[kind]);
                }
                Step::Send => scene.read(&send(&id)),
            }
            if scene.closed.is_some() {
                return Ok(());
            }
        }
        let sends = |id: &String| !asked.contains(id);
        let answered: Vec<_> = scene.ids().into_iter().filter(|id| !sends(id)).collect();
        prop_assert!(answered.is_sorted_by(|a, b| a < b), "{answered:?}");
        scene.wait(RESULT_TIMEOUT_MS);
        scene.wait(RESULT_TIMEOUT_MS);
        let answered: Vec<_> = scene.ids().into_iter().filter(|id| !sends(id)).collect();
        asked.retain(|id| !silent.contains(id));
        prop_assert_eq!(answered, asked);
    }
}
