//! What the members of a cluster promise each other: nobody flaps, and those who see the same agree.

use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing { heartbeat_ms: 500, ttl_ms: 3_000 };
/// A table that has been there for long.
const OLD: Ms = 60_000;

fn key(name: &str, incarnation: u64) -> NodeKey {
    NodeKey { id: name.into(), incarnation }
}

fn seen(name: &str, age_ms: Ms) -> Seen {
    let (key, state, listens) = (key(name, 1), State::Serving, Some(true));
    Seen { key, state, weight: 1, home: true, age_ms, listens }
}

fn sighting(table_age_ms: Ms, nodes: impl IntoIterator<Item = Seen>) -> Sighting {
    Sighting { nodes: nodes.into_iter().collect(), table_age_ms, superseded: false }
}

fn members(name: &str) -> Members {
    Members::new(key(name, 1), TIMING)
}

/// A member that knows these nodes, all of them just now.
fn knowing(names: &[&str], now: Ms) -> Members {
    let mut members = members(names[0]);
    members.observed(now, &sighting(OLD, names.iter().map(|name| seen(name, 0))));
    members
}

fn ring(members: &Members) -> Vec<String> {
    members.view().weights.keys().map(ToString::to_string).collect()
}

fn alive(members: &Members) -> Vec<String> {
    members.view().alive.values().map(|(node, _)| node.to_string()).collect()
}

fn lost(name: &str, ago_ms: Ms) -> Notice {
    Notice::Lost { node: key(name, 1), ago_ms }
}

#[test]
fn a_node_that_has_seen_nothing_is_alive_and_owns_nothing() {
    let members = members("a");
    assert_eq!(alive(&members), ["a/1"]);
    assert_eq!(members.view().owner("red"), None);
    assert!(!members.is_fresh(0) && members.sighted_at().is_none());
}

#[test]
fn on_an_old_table_the_first_sighting_counts_and_only_differences_are_told() {
    let mut members = members("a");
    let both = sighting(OLD, [seen("a", 0), seen("b", 2_900), seen("dead", 20_000)]);
    assert_eq!(members.observed(10, &both), [lost("dead", 17_000), Notice::Changed]);
    assert_eq!((ring(&members).join(" "), members.is_fresh(10)), ("a b".to_owned(), true));
    let before = members.view();
    assert_eq!(members.observed(510, &both), []);
    assert!(Arc::ptr_eq(&before, &members.view()));
    assert!(members.is_fresh(3_510) && !members.is_fresh(3_511));
    assert_eq!(members.observed(500, &sighting(OLD, [])), [], "overtaken");
}

#[test]
fn a_silent_node_is_lost_once_and_again_after_it_was_back() {
    let mut members = knowing(&["a", "b"], 0);
    let at = |age_ms| sighting(OLD, [seen("a", 0), seen("b", age_ms)]);
    assert_eq!(members.observed(500, &at(3_000)), []);
    assert_eq!(members.observed(1_000, &at(3_001)), [lost("b", 1), Notice::Changed]);
    assert_eq!(members.observed(1_500, &at(3_501)), []);
    assert_eq!(members.silence(2_000, &key("b", 1)), Some(4_001));
    assert_eq!(members.observed(2_000, &at(10)), [Notice::Changed]);
    assert_eq!(members.observed(2_500, &at(4_000)), [lost("b", 1_000), Notice::Changed]);
}

#[test]
fn nodes_away_from_home_own_nothing_while_one_at_home_serves() {
    let away = |name| Seen { home: false, ..seen(name, 0) };
    let mut members = members("far");
    let at = |members: &mut Members, now, home: &[Seen]| {
        let nodes = [away("far"), away("farther")].into_iter().chain(home.iter().cloned());
        members.observed(now, &sighting(OLD, nodes));
        ring(members).join(" ")
    };
    assert_eq!(at(&mut members, 0, &[seen("home", 0)]), "home");
    let draining = Seen { state: State::Draining, ..seen("home", 0) };
    assert_eq!(at(&mut members, 1_000, std::slice::from_ref(&draining)), "home");
    assert_eq!(at(&mut members, 3_999, &[]), "", "it may be back");
    assert_eq!(at(&mut members, 4_000, &[]), "far farther");
    assert_eq!(at(&mut members, 4_500, &[seen("home", 0)]), "home");
    assert_eq!(at(&mut members, 5_000, &[]), "", "a new absence");
}

/// It may have lived until the others missed it, and its last heartbeat tells nothing of that: whose
/// sessions were there has the whole grace. Where the time to live is long, a heartbeat or two count.
#[test]
fn a_lost_node_may_have_lived_longer_than_it_was_heard() {
    let ago = |heartbeat_ms, ttl_ms: Ms, age_ms| {
        let timing = Timing { heartbeat_ms, ttl_ms };
        let mut members = Members::new(key("a", 1), timing);
        members.observed(0, &sighting(OLD, [seen("a", 0), seen("b", 0)]));
        for now in (0..=age_ms).step_by(usize::try_from(heartbeat_ms).unwrap()) {
            let told = members.observed(now, &sighting(OLD, [seen("a", 0), seen("b", now)]));
            if let [Notice::Lost { ago_ms, .. }, ..] = told[..] {
                return (now, ago_ms);
            }
        }
        panic!("it was not missed")
    };
    assert_eq!(ago(500, 3_000, 60_000), (3_500, 500));
    assert_eq!(ago(100, 1_000, 60_000), (1_100, 100));
    assert_eq!(ago(1_000, 30_000, 60_000), (31_000, 27_000));
    assert_eq!(ago(5_000, 30_000, 60_000), (35_000, 25_000));
}

#[test]
fn a_node_that_left_is_lost_at_once_and_forgotten() {
    let mut members = knowing(&["a", "b"], 0);
    let alone = sighting(OLD, [seen("a", 0)]);
    assert_eq!(members.observed(500, &alone), [lost("b", 0), Notice::Changed]);
    assert_eq!(members.silence(500, &key("b", 1)), None);
    assert_eq!(members.observed(1_000, &alone), []);
}

#[test]
fn after_blindness_everybody_has_the_time_to_live_to_come_back() {
    let mut members = knowing(&["a", "b", "c"], 0);
    let late = |age_ms| sighting(OLD, [seen("a", 0), seen("b", age_ms), seen("c", age_ms)]);
    assert_eq!(members.observed(9_000, &late(9_000)), []);
    assert!(!members.is_fresh(9_000), "who is dead is not known yet");
    assert_eq!(members.suspect(9_001, &key("b", 1)), []);
    assert_eq!(members.observed(11_999, &late(11_999)), []);
    let settled = sighting(OLD, [seen("a", 0), seen("b", 10), seen("c", 12_000)]);
    assert_eq!(members.observed(12_000, &settled), [lost("c", 9_000), Notice::Changed]);
    assert!(members.is_fresh(12_000));
}

#[test]
fn a_redis_that_forgot_everything_ends_nobody_who_comes_back_in_time() {
    let mut members = knowing(&["a", "b", "c"], 0);
    let empty = sighting(100, [seen("a", 0)]);
    assert_eq!(members.observed(500, &empty), []);
    assert_eq!((ring(&members).join(" "), members.is_fresh(500)), ("a b c".to_owned(), false));
    let back = |table_age_ms| sighting(table_age_ms, [seen("a", 0), seen("b", 0)]);
    assert_eq!(members.observed(3_399, &back(2_999)), []);
    assert_eq!(members.observed(3_400, &back(3_000)), [lost("c", 400), Notice::Changed]);
}

#[test]
fn a_suspect_leaves_the_ring_until_it_is_heard_again() {
    let mut members = knowing(&["a", "b"], 0);
    let beaten = |age_ms| sighting(OLD, [seen("a", 0), seen("b", age_ms)]);
    assert_eq!(members.suspect(600, &key("b", 2)), [], "another process of that name");
    assert_eq!(members.suspect(600, &key("b", 1)), [Notice::Changed]);
    assert_eq!(
        (ring(&members).join(" "), alive(&members).join(" ")),
        ("a".into(), "a/1 b/1".into())
    );
    assert_eq!(members.observed(1_000, &beaten(400)), [], "a heartbeat before the suspicion");
    assert_eq!(members.observed(1_100, &beaten(499)), [Notice::Changed]);
    assert_eq!(ring(&members), ["a", "b"]);
}

#[test]
fn a_node_nobody_listens_for_leaves_the_ring_at_the_second_sighting() {
    let mut members = knowing(&["a", "b"], 0);
    let deaf = sighting(OLD, [seen("a", 0), Seen { listens: Some(false), ..seen("b", 0) }]);
    assert_eq!(members.observed(500, &deaf), []);
    assert_eq!(members.observed(700, &deaf), [], "too soon after the first");
    assert_eq!(members.observed(1_000, &deaf), [Notice::Changed]);
    assert_eq!(ring(&members), ["a"]);
    members.suspect(1_100, &key("b", 1));
    assert_eq!(members.observed(1_500, &deaf), [], "its heartbeat alone does not clear it");
    let heard = sighting(OLD, [seen("a", 0), seen("b", 0)]);
    assert_eq!(members.observed(2_000, &heard), [Notice::Changed]);
}

#[test]
fn if_nobody_is_heard_the_ring_stays() {
    let mut members = knowing(&["a", "b"], 0);
    let deaf = |name| Seen { listens: Some(false), ..seen(name, 0) };
    for now in [500, 1_000, 1_500] {
        assert_eq!(members.observed(now, &sighting(OLD, [deaf("a"), deaf("b")])), []);
    }
}

#[test]
fn the_ring_has_the_best_there_are() {
    use State::{Draining, Serving, StoreBlind};
    let ring_of = |states: &[State]| {
        let names = ["a", "b", "c"].iter().zip(states);
        let nodes = names.map(|(name, state)| Seen { state: *state, ..seen(name, 0) });
        let mut members = members("a");
        members.observed(0, &sighting(OLD, nodes));
        assert_eq!(alive(&members).len(), states.len());
        ring(&members).join(" ")
    };
    assert_eq!(ring_of(&[Draining, Serving, StoreBlind]), "b");
    assert_eq!(ring_of(&[Draining, Draining, StoreBlind]), "a b");
    assert_eq!(ring_of(&[StoreBlind, StoreBlind]), "a b");
}

#[test]
fn a_node_without_weight_is_alive_and_owns_nothing() {
    let mut members = members("a");
    members.observed(0, &sighting(OLD, [seen("a", 0), Seen { weight: 0, ..seen("b", 0) }]));
    assert_eq!(
        (ring(&members).join(" "), alive(&members).join(" ")),
        ("a".into(), "a/1 b/1".into())
    );
}

#[test]
fn a_later_process_of_a_name_ends_the_earlier_one() {
    let mut members = knowing(&["a", "b"], 0);
    let next = Seen { key: key("b", 2), ..seen("b", 10) };
    let renewed = sighting(OLD, [seen("a", 0), next]);
    assert_eq!(members.observed(500, &renewed), [lost("b", 0), Notice::Changed]);
    assert_eq!(alive(&members), ["a/1", "b/2"]);
    assert!(!members.view().knows(&key("b", 1)));
    let stale = members.observed(1_000, &sighting(OLD, [seen("a", 0), seen("b", 0)]));
    assert_eq!(stale, [Notice::Lost { node: key("b", 2), ago_ms: 0 }, Notice::Changed]);
    assert_eq!(alive(&members), ["a/1"], "the earlier one is not believed");
}

#[test]
fn a_superseded_node_is_told_once_and_leaves_its_own_view() {
    let mut replaced = knowing(&["a", "b"], 0);
    let newer = Seen { key: key("a", 2), ..seen("a", 0) };
    let now = sighting(OLD, [newer, seen("b", 0)]);
    assert_eq!(replaced.observed(500, &now), [Notice::Changed, Notice::Superseded]);
    assert_eq!(replaced.observed(1_000, &now), []);
    assert!(!replaced.view().knows(&key("a", 1)) && !replaced.is_fresh(1_000));

    let mut refused = knowing(&["a", "b"], 0);
    let told = Sighting { superseded: true, ..sighting(OLD, [seen("b", 0)]) };
    let notices = refused.observed(500, &told);
    assert_eq!(notices, [Notice::Changed, Notice::Superseded]);
    assert_eq!(alive(&refused), ["b/1"]);
}

/// A Redis that nodes may see or not, and that may forget.
struct Redis {
    created_at: Option<Ms>,
    beats: BTreeMap<NodeKey, Ms>,
}

impl Redis {
    fn heartbeat(&mut self, now: Ms, node: &NodeKey) -> Sighting {
        let created_at = *self.created_at.get_or_insert(now);
        self.beats.insert(node.clone(), now);
        let nodes = self.beats.iter().map(|(key, at)| Seen {
            home: true,
            key: key.clone(),
            age_ms: now - at,
            ..seen("", 0)
        });
        sighting(now - created_at, nodes)
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Everything goes on for so many heartbeats.
    Run(u64),
    /// Redis is away for so many heartbeats, and remembers if told so.
    Outage(u64, bool),
    /// One node does not see Redis for so many heartbeats, too few to be lost.
    Blind(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..20).prop_map(Step::Run),
        (0u64..20, any::<bool>()).prop_map(|(beats, keeps)| Step::Outage(beats, keeps)),
        (0usize..3, 0u64..6).prop_map(|(node, beats)| Step::Blind(node, beats)),
    ]
}

proptest! {
    /// Whatever Redis does, and whenever: a node that heartbeats as soon as it can is lost by
    /// nobody, and nobody's ring changes. Each has its own phase, so that one comes back first.
    #[test]
    fn nobody_who_lives_is_lost_whatever_redis_does(
        steps in prop::collection::vec(step(), 1..12),
        phases in prop::array::uniform3(0u64..500),
    ) {
        let names = ["a", "b", "c"];
        let mut redis = Redis { created_at: Some(0), beats: BTreeMap::new() };
        let mut all = names.map(members);
        let mut beat = OLD / 500;
        let mut known = false;
        // Between two silences every node is heard once.
        let steps = steps.into_iter().flat_map(|step| [Step::Run(1), step]);
        for step in std::iter::once(Step::Run(2)).chain(steps).chain([Step::Run(10)]) {
            let (Step::Run(beats) | Step::Outage(beats, _) | Step::Blind(_, beats)) = step;
            if let Step::Outage(_, false) = step {
                redis = Redis { created_at: None, beats: BTreeMap::new() };
            }
            for _ in 0..beats {
                beat += 1;
                let mut order = [0, 1, 2];
                order.sort_by_key(|node| phases[*node]);
                for node in order {
                    let hidden = matches!(step, Step::Blind(blind, _) if blind == node);
                    if matches!(step, Step::Outage(..)) || hidden {
                        continue;
                    }
                    let now = beat * 500 + phases[node];
                    let answer = redis.heartbeat(now, &key(names[node], 1));
                    let before = ring(&all[node]);
                    let notices = all[node].observed(now, &answer);
                    let same = ring(&all[node]) == before;
                    let calm = notices.iter().all(|notice| *notice == Notice::Changed);
                    prop_assert!(!known || same && calm, "{step:?}: {notices:?}");
                }
            }
            known = true;
        }
        prop_assert!(all.iter().all(|members| members.is_fresh(beat * 500 + 500)));
    }

    /// Two nodes that see the same agree on every owner, whatever they saw before.
    #[test]
    fn who_sees_the_same_agrees(
        before in prop::collection::vec((table(), 1u64..4_000), 0..6),
        last in table(),
    ) {
        let (mut one, mut other) = (members("a"), members("b"));
        let mut now = 0;
        for (seen, pause) in before {
            now += pause;
            one.observed(now, &sighting(OLD, seen));
        }
        for later in [1, 3_001, 6_001] {
            one.observed(now + later, &sighting(OLD, last.clone()));
        }
        other.observed(77, &sighting(OLD, last));
        let (one, other) = (one.view(), other.view());
        for mesh in 0..200 {
            let mesh = format!("mesh-{mesh}");
            prop_assert_eq!(one.owner(&mesh), other.owner(&mesh));
        }
    }

    /// A death moves only what the dead node owned.
    #[test]
    fn a_loss_moves_only_the_share_of_the_lost(dead in 1usize..5) {
        let names = ["a", "b", "c", "d", "e"];
        let mut members = knowing(&names, 0);
        let before = members.view();
        let nodes = (0..5).map(|n| seen(names[n], if n == dead { 3_001 } else { 0 }));
        members.observed(500, &sighting(OLD, nodes));
        let after = members.view();
        for mesh in 0..500 {
            let mesh = format!("mesh-{mesh}");
            let (was, is) = (before.owner(&mesh), after.owner(&mesh));
            prop_assert!(was == is || was == Some(&key(names[dead], 1)));
            prop_assert!(is.is_some_and(|node| after.knows(node) && after.places(node)));
        }
    }
}

/// What Redis may say of four nodes.
fn table() -> impl Strategy<Value = Vec<Seen>> {
    let state = prop_oneof![Just(State::Serving), Just(State::Draining), Just(State::StoreBlind)];
    let node = (state, 0u8..3, 0u64..5_000);
    prop::collection::vec(node, 4).prop_map(|nodes| {
        let named = ["a", "b", "c", "d"].into_iter().zip(nodes);
        let seen = |(name, (state, weight, age_ms))| Seen { state, weight, ..seen(name, age_ms) };
        named.map(seen).collect()
    })
}

#[test]
fn a_node_that_was_blind_says_when_its_view_counts_again() {
    let mut members = knowing(&["a", "b"], 0);
    let beat = sighting(OLD, [seen("a", 0), seen("b", 0)]);
    assert_eq!(members.observed(10_000, &beat), []);
    assert!(!members.is_fresh(10_000));
    assert_eq!(members.observed(12_999, &beat), []);
    assert_eq!(members.observed(13_000, &beat), [Notice::Changed]);
    assert!(members.is_fresh(13_000));
    assert_eq!(members.observed(13_500, &beat), []);
}
