//! Who counts as gone, and when, to the millisecond.

use protocol::client::{Profile, Request, Verb};
use protocol::server::{Ack, Frame};

use super::*;
use crate::mesh::io::{Generation, Held, SessionKey};

const HELLO_TIMEOUT_MS: Ms = 10_000;
const T0: Ms = 1_000;

fn at(mono: Ms) -> Now {
    Now { mono, wall: 1_800_000_000_000 }
}

fn conn() -> ConnId {
    ConnId { process: 1, number: 1 }
}

fn greeting() -> Session {
    let limits = EdgeLimits { hello_timeout_ms: HELLO_TIMEOUT_MS };
    Session::new(conn(), |conn| conn, limits, at(T0))
}

/// Attached at [`T0`].
fn attached() -> Session {
    let mut session = greeting();
    let attach = Attach {
        pubkey: "ana".into(),
        member: None,
        session: SessionKey::Absent,
        profile: Profile::default(),
        signature: "signature".into(),
        opened_at: OpenedAt::default(),
        read_at: 0,
    };
    session.take_up(at(T0), "mesh".into(), Box::new(attach));
    session.deliver(at(T0), ToEdge::Reset(1));
    let generation = Generation { epoch: 1, number: 1 };
    let held = Held { conn: conn(), presence: "presence".into(), generation };
    let frame = Frame::Ack(Ack::done(None));
    session.deliver(at(T0), ToEdge::Attached { held, number: 0, frame });
    session.drain();
    session
}

/// What the session wants at that moment: its pings, and whether it has given its peer up.
fn tick(session: &mut Session, mono: Ms) -> (usize, bool) {
    session.tick(at(mono));
    let actions: Vec<_> = session.drain().collect();
    let pings = actions.iter().filter(|action| matches!(action, Action::Ping(0))).count();
    (pings, actions.iter().any(|action| matches!(action, Action::Terminate)))
}

/// Wakes it whenever it wants to be woken, up to `until`: when it pinged, and when it gave up.
fn live(session: &mut Session, until: Ms) -> (Vec<Ms>, Option<Ms>) {
    let mut pings = Vec::new();
    while let Some(due) = session.deadline().filter(|due| *due <= until) {
        let (pinged, gone) = tick(session, due);
        pings.extend((pinged > 0).then_some(due));
        if gone {
            return (pings, Some(due));
        }
    }
    (pings, None)
}

fn ask(session: &mut Session, now: Ms, number: usize) {
    let request = Request { verb: Verb::ListPeers, req_id: Some(number.to_string().into()) };
    session.push(at(now), Command::Request(request));
}

#[test]
fn a_silent_peer_is_dropped_after_75_seconds_and_not_at_the_next_ping() {
    let (pings, gone) = live(&mut attached(), T0 + 1_000_000);
    assert_eq!(pings, [T0 + 30_000, T0 + 60_000]);
    assert_eq!(gone, Some(T0 + STALE_MS));
}

#[test]
fn a_peer_is_kept_until_just_before_the_deadline() {
    let mut session = attached();
    live(&mut session, T0 + STALE_MS - 1);
    assert_eq!(tick(&mut session, T0 + STALE_MS - 1), (0, false));
    assert_eq!(tick(&mut session, T0 + STALE_MS), (0, true));
    assert!(session.is_closed());
}

#[test]
fn whatever_comes_from_a_peer_shows_that_it_lives() {
    let signs: [fn(&mut Session, Now); 4] = [
        |session, now| session.pong(now, 0),
        |session, now| session.pong(now, 7),
        Session::ping,
        |session, now| session.frame(now, r#"{"type":"no_such_verb"}"#),
    ];
    for sign in signs {
        let mut session = attached();
        live(&mut session, T0 + STALE_MS - 1);
        sign(&mut session, at(T0 + STALE_MS - 1));
        session.drain();
        let (pings, gone) = live(&mut session, T0 + 1_000_000);
        assert_eq!(pings, [T0 + 90_000, T0 + 120_000]);
        assert_eq!(gone, Some(T0 + 2 * STALE_MS - 1));
    }
}

/// It cannot show that it lives; when reading resumes the wait begins anew.
#[test]
fn a_peer_that_is_not_read_is_not_given_up() {
    let mut session = attached();
    live(&mut session, T0 + 70_000);
    let full_at = T0 + 70_000;
    for number in 0..router::link::WINDOW_COMMANDS {
        ask(&mut session, full_at, number);
    }
    assert!(!session.wants_read());
    let results = full_at + router::link::RESULT_TIMEOUT_MS;
    assert_eq!(live(&mut session, results - 1), (vec![], None));
    // One answer, and reading resumes.
    session.deliver(at(results - 1), ToEdge::Result { number: 2, frame: None });
    assert!(!session.wants_read(), "its place is not free before those in front of it");
    session.deliver(at(results - 1), ToEdge::Result { number: 1, frame: None });
    assert!(session.wants_read());
    let (_, gone) = live(&mut session, T0 + 1_000_000);
    assert_eq!(gone, Some(results - 1 + STALE_MS));
}

/// A peer that is not read for long, because its owner never answers: pings go on.
#[test]
fn a_peer_that_is_not_read_is_pinged_all_the_same() {
    let mut liveness = Liveness::new(0);
    liveness.reads(10, false);
    for ping in [30_000, 60_000, 90_000, 120_000] {
        assert_eq!(liveness.deadline(), ping);
        assert_eq!(liveness.check(ping), Due::Ping);
    }
    liveness.reads(130_000, true);
    assert_eq!(liveness.deadline(), 150_000);
    assert_eq!(liveness.check(150_000), Due::Ping);
    assert_eq!(liveness.check(130_000 + STALE_MS - 1), Due::Ping);
    assert_eq!(liveness.check(130_000 + STALE_MS), Due::Gone);
}

/// A machine that was paused pings first, and waits as long as for anybody.
#[test]
fn a_node_that_stood_still_asks_before_it_gives_a_peer_up() {
    for pause in [46_000, 80_000, 3_600_000] {
        let mut session = attached();
        live(&mut session, T0 + 31_000);
        let thawed = T0 + 31_000 + pause;
        assert_eq!(tick(&mut session, thawed), (1, false), "{pause}");
        let (pings, gone) = live(&mut session, thawed + 1_000_000);
        assert_eq!(pings, [thawed + 30_000, thawed + 60_000]);
        assert_eq!(gone, Some(thawed + STALE_MS));
    }
}

/// A busy machine is late at times: that is no pause.
#[test]
fn a_little_lateness_is_no_pause() {
    let mut session = attached();
    live(&mut session, T0 + 60_000);
    assert_eq!(tick(&mut session, T0 + STALE_MS + STALL_MS), (0, true));
}

#[test]
fn a_hello_has_all_its_time_after_a_pause() {
    let mut session = greeting();
    session.tick(at(T0 + 80_000));
    assert!(!session.is_closed());
    assert_eq!(session.deadline(), Some(T0 + 80_000 + HELLO_TIMEOUT_MS));
    session.tick(at(T0 + 80_000 + HELLO_TIMEOUT_MS - 1));
    assert!(!session.is_closed());
    session.tick(at(T0 + 80_000 + HELLO_TIMEOUT_MS));
    let actions: Vec<_> = session.drain().collect();
    assert!(matches!(actions[..], [Action::Close(close::HELLO_TIMEOUT)]), "{actions:?}");
}

#[test]
fn what_was_asked_before_a_pause_is_answered_by_the_owner_or_8_seconds_after_it() {
    let mut session = attached();
    let request = Request { verb: Verb::ListPeers, req_id: Some("0".to_owned().into()) };
    session.ask(at(T0 + 1_000), request);
    session.drain();
    let thawed = T0 + 81_000;
    assert_eq!(tick(&mut session, thawed), (1, false));
    session.tick(at(thawed + router::link::RESULT_TIMEOUT_MS - 1));
    assert_eq!(session.drain().count(), 0);
    session.tick(at(thawed + router::link::RESULT_TIMEOUT_MS));
    let actions: Vec<_> = session.drain().collect();
    assert!(matches!(&actions[..], [Action::Write(Frame::Error(_))]), "{actions:?}");
}
