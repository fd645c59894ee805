//! Doctored logs: a good run passes, and each fault planted into it is found, and nothing else.

use super::*;
use crate::chaos::log::{Message, RUNNER};

const GRACE: u64 = 10_000;
/// Who is watched, who leaves, who only watches.
const ANA: u32 = 0;
const BEN: u32 = 1;
const EVA: u32 = 2;

/// A run in the making: lines in the order of their times.
#[derive(Clone, Default)]
struct Story(Vec<Line>);

impl Story {
    fn tell(&mut self, ms: u64, who: u32, what: What) -> &mut Self {
        // Behind what happens at the same moment.
        let at = self.0.partition_point(|line| line.ms <= ms);
        self.0.insert(at, Line { ms, who, what });
        self
    }

    fn comes(&mut self, ms: u64, who: u32, conn: u32, presence: &str) -> &mut Self {
        self.tell(ms, who, What::Connected { conn, node: format!("node-{}", who + 1) });
        self.tell(ms, who, What::HelloAck { conn, presence: presence.to_owned() })
    }

    fn goes(&mut self, ms: u64, who: u32, conn: u32) -> &mut Self {
        self.tell(ms, who, What::Closed { conn, why: "end".to_owned() })
    }

    fn sends(&mut self, ms: u64, who: u32, conn: u32, number: u32, to: u32) -> &mut Self {
        let priority = "next".to_owned();
        self.tell(ms, who, What::Sent { conn, number, to, priority, id: true })
    }

    fn acked(&mut self, ms: u64, who: u32, conn: u32, number: u32) -> &mut Self {
        self.tell(ms, who, What::Acked { conn, number, id: format!("m{who}-{number}") })
    }

    fn gets(&mut self, ms: u64, who: u32, from: u32, number: u32) -> &mut Self {
        let (id, message) = (format!("m{from}-{number}"), Message { from, number });
        self.tell(ms, who, What::Pushed { conn: 1, id, message, to: who, acked: true })
    }

    /// Sent, acked and received.
    fn passes(&mut self, ms: u64, from: (u32, u32), number: u32, to: u32) -> &mut Self {
        self.sends(ms, from.0, from.1, number, to);
        self.acked(ms + 2, from.0, from.1, number).gets(ms + 3, to, from.0, number)
    }

    fn sees(&mut self, ms: u64, who: u32, name: &str, whom: u32) -> &mut Self {
        let (name, id) = (name.to_owned(), format!("{name}-{ms}"));
        self.tell(ms, who, What::Seen { conn: 1, name, key: format!("key-{whom}"), id })
    }

    fn fault(&mut self, began: u64, ended: u64, name: &str, forgets: bool) -> &mut Self {
        let (name, meshes) = (name.to_owned(), Vec::new());
        let began_line = What::FaultBegan { name, meshes, forgets, reachable: false };
        self.tell(began, RUNNER, began_line).tell(ended, RUNNER, What::FaultEnded);
        self.tell(ended + 500, RUNNER, What::Recovered);
        self.tell(ended + 500, RUNNER, What::Raised { times: 1 })
    }

    fn without(&mut self, unwanted: impl Fn(&Line) -> bool) -> &mut Self {
        self.0.retain(|line| !unwanted(line));
        self
    }

    fn verdict(&self) -> Verdict {
        let mut checker = Checker::default();
        self.0.iter().cloned().for_each(|line| checker.take(line));
        checker.verdict()
    }

    /// That these are found, and nothing else.
    #[track_caller]
    fn breaks(&self, breaches: &[(Breach, u64)]) {
        let verdict = self.verdict();
        let expected: BTreeMap<_, _> = breaches.iter().copied().collect();
        assert_eq!(verdict.counts, expected, "{:#?}", verdict.violations);
    }
}

/// Ana, Ben and Eva talk. Ana's node is killed and she is back within the grace; Ben leaves, is
/// seen leaving, and comes back.
fn good() -> Story {
    let mut story = Story::default();
    story.tell(0, RUNNER, What::Settings { grace_ms: GRACE });
    for who in [ANA, BEN, EVA] {
        let (mesh, member) = ("red".to_owned(), format!("member-{who}"));
        let key = format!("key-{who}");
        story.tell(0, who, What::Client { mesh, member, kind: Kind::Session, key });
        story.comes(1, who, 1, &format!("presence-{who}"));
    }
    for number in 0..10 {
        story.passes(100 + u64::from(number), (ANA, 1), number, BEN);
    }
    story.tell(5_000, RUNNER, What::NodeLost { node: "node-1".to_owned() });
    story.sends(4_990, ANA, 1, 10, BEN).sends(4_991, ANA, 1, 11, BEN).goes(5_010, ANA, 1);
    story.fault(5_000, 8_000, "kill-owner", false).comes(8_100, ANA, 2, "presence-0");
    story.passes(8_200, (ANA, 2), 10, BEN).passes(8_201, (ANA, 2), 11, BEN);
    story.passes(8_300, (ANA, 2), 20, BEN);
    story.goes(20_000, BEN, 1).tell(20_000, BEN, What::Departed { for_good: false });
    for watcher in [ANA, EVA] {
        story.sees(30_100, watcher, "peer_left", BEN).sees(50_100, watcher, "peer_joined", BEN);
    }
    story.comes(50_000, BEN, 2, "presence-1-again");
    story.passes(60_000, (EVA, 1), 0, BEN);
    // Ana watches from her second connection.
    for line in story.0.iter_mut().filter(|line| line.who == ANA) {
        if let What::Seen { conn, .. } = &mut line.what {
            *conn = 2;
        }
    }
    story
}

#[test]
fn a_good_run_passes_and_is_counted() {
    let verdict = good().verdict();
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
    assert_eq!((verdict.acked, verdict.delivered, verdict.duplicates), (14, 14, 0));
    assert_eq!((verdict.departures, verdict.departures_seen), (1, 2));
    assert_eq!((verdict.returns_in_grace, verdict.events), (1, 4));
    assert_eq!(verdict.longest_wrong_presence_ms, 100);
    let [outage] = &verdict.outages[..] else { panic!("one outage") };
    assert_eq!((outage.held_ms, outage.recovered_ms), (3_000, Some(500)));
    assert_eq!((outage.epoch_raises, &outage.next_ack_ms[..]), (Some(1), &[3_302][..]));
}

#[test]
fn a_lost_message_is_found_unless_its_recipient_left_for_good() {
    let mut story = good();
    story.without(|line| matches!(&line.what, What::Pushed { id, .. } if id == "m2-0"));
    story.breaks(&[(Breach::Lost, 1)]);
    let leaves = |ms: u64| {
        let mut story = story.clone();
        story.tell(ms, BEN, What::Departed { for_good: true }).goes(ms, BEN, 2);
        story
    };
    leaves(70_000).breaks(&[]);
    leaves(95_000).breaks(&[(Breach::Lost, 1)]);
}

#[test]
fn what_was_never_acked_may_be_missing() {
    good().sends(61_000, EVA, 1, 1, BEN).breaks(&[]);
}

#[test]
fn a_message_under_two_ids_is_found() {
    let mut twice = good();
    let message = Message { from: EVA, number: 0 };
    let id = "another".to_owned();
    twice.tell(61_000, BEN, What::Pushed { conn: 2, id, message, to: BEN, acked: true });
    twice.breaks(&[(Breach::AcceptedTwice, 1)]);
    let mut acked = good();
    acked.tell(61_000, EVA, What::Acked { conn: 1, number: 0, id: "another".to_owned() });
    acked.breaks(&[(Breach::AcceptedTwice, 1)]);
}

#[test]
fn a_second_push_under_the_same_id_is_a_duplicate_only() {
    let mut story = good();
    story.gets(61_000, BEN, EVA, 0).breaks(&[]);
    assert_eq!(story.verdict().duplicates, 1);
}

#[test]
fn a_message_at_the_wrong_peer_is_found() {
    good().gets(61_000, ANA, EVA, 0).breaks(&[(Breach::Misrouted, 1)]);
    good().gets(61_000, ANA, EVA, 77).breaks(&[(Breach::Misrouted, 1)]);
}

#[test]
fn a_refusal_after_acceptance_is_found_unless_it_says_that_it_does_not_know() {
    let refused =
        |error: &str| What::Refused { conn: 1, number: 0, error: error.to_owned(), last: false };
    good().tell(61_000, EVA, refused("unavailable: try again")).breaks(&[]);
    let mut denied = good();
    denied.tell(61_000, EVA, refused("no connected peer for target"));
    denied.breaks(&[(Breach::RefusedAfterAll, 1)]);
}

#[test]
fn an_inversion_is_found_on_one_connection_and_across_a_kill() {
    let swap = |story: &mut Story, one: &str, other: &str| {
        let at = |wanted: &str| {
            let found = |line: &Line| matches!(&line.what, What::Pushed { id, .. } if id == wanted);
            story.0.iter().position(found).unwrap()
        };
        let (a, b) = (at(one), at(other));
        let what = story.0[a].what.clone();
        story.0[a].what = std::mem::replace(&mut story.0[b].what, what);
    };
    let mut story = good();
    swap(&mut story, "m0-3", "m0-4");
    story.breaks(&[(Breach::Inversion, 1)]);
    let mut story = good();
    swap(&mut story, "m0-10", "m0-11");
    story.breaks(&[(Breach::Inversion, 1)]);

    // Accepted on another connection than the one it was first written to: no order is promised.
    let mut later = good();
    later.sends(4_992, ANA, 1, 12, BEN).passes(8_150, (ANA, 2), 13, BEN);
    later.passes(8_300, (ANA, 2), 12, BEN).breaks(&[]);
}

#[test]
fn a_refused_message_may_come_later() {
    let mut story = good();
    let refused = What::Refused { conn: 1, number: 1, error: "unavailable".into(), last: false };
    story.sends(61_000, EVA, 1, 1, BEN).sends(61_001, EVA, 1, 2, BEN);
    story.tell(61_002, EVA, refused).acked(61_003, EVA, 1, 2).gets(61_004, BEN, EVA, 2);
    story.passes(62_000, (EVA, 1), 1, BEN).breaks(&[]);
}

#[test]
fn a_refusal_that_may_have_been_lost_with_the_connection_excuses() {
    let overtaken = |came: u64| {
        let mut story = good();
        story.sends(61_000, EVA, 1, 1, BEN).sends(61_001, EVA, 1, 2, BEN).goes(62_000, EVA, 1);
        story.comes(62_010, EVA, 2, "presence-2").gets(came, BEN, EVA, 2);
        story.passes(71_000, (EVA, 2), 1, BEN);
        story
    };
    overtaken(70_000).breaks(&[]);
    overtaken(66_000).breaks(&[(Breach::Inversion, 1)]);
}

#[test]
fn a_departure_unseen_seen_twice_or_seen_too_early_is_found() {
    let mut unseen = good();
    unseen.without(|line| {
        line.who == EVA && matches!(&line.what, What::Seen { name, .. } if name == "peer_left")
    });
    unseen.breaks(&[(Breach::UnseenLeft, 1)]);
    good().sees(31_000, EVA, "peer_left", BEN).breaks(&[(Breach::Repeated, 1)]);
    let mut early = unseen.clone();
    early.sees(25_000, EVA, "peer_left", BEN);
    early.breaks(&[(Breach::UnseenLeft, 1), (Breach::WrongLeft, 1)]);
}

#[test]
fn events_about_somebody_who_was_there_are_found() {
    let mut flap = good();
    flap.sees(12_000, EVA, "peer_left", ANA).sees(12_500, EVA, "peer_joined", ANA);
    flap.breaks(&[(Breach::WrongJoined, 1), (Breach::WrongLeft, 1)]);
    good().sees(55_500, EVA, "peer_returned", ANA).breaks(&[(Breach::WrongJoined, 1)]);
}

#[test]
fn a_return_unseen_is_found() {
    let mut story = good();
    story.without(|line| {
        line.who == EVA && matches!(&line.what, What::Seen { name, .. } if name == "peer_joined")
    });
    story.breaks(&[(Breach::UnseenJoined, 1)]);
}

#[test]
fn a_watcher_that_was_away_itself_need_not_have_seen_it() {
    let mut story = good();
    story.goes(29_000, EVA, 1).comes(40_000, EVA, 2, "presence-2b");
    story.without(|line| line.who == EVA && matches!(line.what, What::Seen { .. }));
    let counts = story.verdict().counts;
    assert!(!counts.contains_key(&Breach::UnseenLeft), "{counts:?}");
}

#[test]
fn another_presence_after_a_short_absence_is_found() {
    let mut story = good();
    for line in &mut story.0 {
        if let What::HelloAck { conn: 2, presence } = &mut line.what
            && line.who == ANA
        {
            "somebody else".clone_into(presence);
        }
    }
    story.breaks(&[(Breach::NewPresence, 1)]);
}

#[test]
fn a_session_on_a_node_that_was_lost_for_longer_than_the_grace_may_be_seen_leaving() {
    let node = || "node-3".to_owned();
    let seen = |frozen: bool| {
        let mut story = good();
        if frozen {
            story.tell(61_000, RUNNER, What::NodeLost { node: node() });
            story.tell(76_000, RUNNER, What::NodeBack { node: node() });
        }
        story.fault(61_000, 76_000, "freeze", false);
        story.sees(72_000, BEN, "peer_left", EVA).sees(76_100, BEN, "peer_joined", EVA);
        for line in story.0.iter_mut().filter(|line| line.who == BEN && line.ms > 50_000) {
            if let What::Seen { conn, .. } = &mut line.what {
                *conn = 2;
            }
        }
        story
    };
    seen(true).breaks(&[]);
    seen(false).breaks(&[(Breach::WrongJoined, 1), (Breach::WrongLeft, 1)]);
}

#[test]
fn if_redis_and_an_owner_go_together_graces_may_be_forgotten() {
    let flap = |forgets: bool| {
        let mut story = good();
        story.goes(61_000, EVA, 1).fault(61_100, 62_000, "both", forgets);
        story.comes(63_000, EVA, 2, "presence-2").sees(62_100, ANA, "peer_left", EVA);
        story.sees(63_100, ANA, "peer_joined", EVA);
        story
    };
    flap(true).breaks(&[]);
    flap(false).breaks(&[(Breach::WrongJoined, 1), (Breach::WrongLeft, 1)]);
}

#[test]
fn what_the_runner_complains_about_is_a_violation() {
    let text = "client 3 has had no ack".to_owned();
    good().tell(9_000, RUNNER, What::Complaint { text }).breaks(&[(Breach::Stalled, 1)]);
}

#[test]
fn lines_are_read_as_they_were_written() {
    for line in good().0 {
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
    }
}

#[test]
fn a_refused_connection_is_a_breach_where_somebody_was_ready() {
    let refused = || What::ConnectionRefused { why: "503".to_owned() };
    let began = |reachable| What::FaultBegan {
        name: "redis-paused-30s".to_owned(),
        meshes: Vec::new(),
        forgets: false,
        reachable,
    };
    for (reachable, breaches) in [(true, 1), (false, 0)] {
        let mut run = Story::default();
        run.tell(5_000, RUNNER, began(reachable)).tell(6_000, 0, refused());
        run.tell(7_000, RUNNER, What::Recovered).tell(8_000, 0, refused());
        let verdict = run.verdict();
        assert_eq!(verdict.connections_refused, 2);
        assert_eq!(verdict.counts.get(&Breach::Refused).copied().unwrap_or_default(), breaches);
    }
}
