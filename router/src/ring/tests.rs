//! What a ring promises: one owner, the same for all, and few moves.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const KEYS: u32 = 2_000;

fn even(names: impl IntoIterator<Item = String>) -> Ring {
    Ring::new(names.into_iter().map(|name| (NodeId::from(name), 1)))
}

fn keys(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("mesh-{n}"))
}

/// How many of `count` keys each node owns.
fn shares(ring: &Ring, count: u32) -> BTreeMap<&str, u32> {
    let mut shares = BTreeMap::new();
    for key in keys(count) {
        *shares.entry(ring.owner(&key).unwrap().as_str()).or_default() += 1;
    }
    shares
}

#[test]
fn without_nodes_nobody_owns_anything() {
    assert_eq!(Ring::new([]).owner("red"), None);
    assert_eq!(Ring::new([(NodeId::from("a"), 0)]).owner("red"), None);
}

#[test]
fn one_node_owns_everything() {
    let ring = even(["a".to_owned()]);
    assert!(keys(KEYS).chain([String::new()]).all(|key| ring.owner(&key) == Some(&"a".into())));
}

/// Nodes of different versions live side by side during a deploy: these values may never change.
#[test]
fn hashes_are_the_same_in_every_version() {
    assert_eq!(Stable.hash_item(&Key("")), 0xf52a_15e9_a9b5_e89b);
    assert_eq!(Stable.hash_item(&Key("red")), 0xbbd2_8204_9804_ad7f);
    assert_eq!(Stable.hash_vnode(&NodeId::from("node-1"), 511), 0x6af9_1d26_f8d5_e2f2);
}

#[test]
fn the_fullest_of_eight_nodes_holds_at_most_15_percent_more_than_its_share() {
    const COUNT: u32 = 200_000;
    for scheme in ["node-", "fly-9080e6f3a12", "10.0.0."] {
        let ring = even((0..8).map(|n| format!("{scheme}{n}")));
        let shares = shares(&ring, COUNT);
        let fullest = shares.values().max().unwrap();
        assert_eq!(shares.len(), 8);
        assert!(fullest * 8 * 100 <= COUNT * 115, "{scheme}: {shares:?}");
    }
}

/// The figures of `cargo test -p claudemesh-router --lib fullest_is -- --nocapture`.
#[test]
fn the_fullest_is_little_fuller_than_its_share_in_clusters_of_any_size() {
    const COUNT: u32 = 200_000;
    for size in [2u32, 3, 5, 8, 16, 50, 100] {
        let ring = even((0..size).map(|n| format!("node-{n}")));
        let shares = shares(&ring, COUNT);
        let percent = |part: u32| part * size * 100 / COUNT;
        let (fullest, emptiest) = (shares.values().max(), shares.values().min());
        let (fullest, emptiest) = (percent(*fullest.unwrap()), percent(*emptiest.unwrap()));
        println!("{size} nodes: fullest {fullest} %, emptiest {emptiest} % of an even share");
        assert_eq!(shares.len(), size as usize);
        assert!(fullest <= 120 && emptiest >= 80, "{size} nodes");
    }
}

#[test]
fn weight_is_proportional() {
    let nodes = [("light", 1), ("heavy", 3)].map(|(name, weight)| (NodeId::from(name), weight));
    let ring = Ring::new(nodes);
    let heavy = shares(&ring, 100_000)["heavy"];
    assert!((71_000..79_000).contains(&heavy), "{heavy} of 100,000 instead of about 75,000");
}

#[test]
fn of_a_node_named_twice_the_greater_weight_counts() {
    let twice = |first, second| {
        Ring::new([("a", first), ("b", 1), ("a", second)].map(|(n, w)| (NodeId::from(n), w)))
    };
    let (up, down) = (twice(1, 2), twice(2, 1));
    assert!(keys(KEYS).all(|key| up.owner(&key) == down.owner(&key)));
}

fn names() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set("[a-z0-9.:-]{1,16}", 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_key_has_one_owner_and_it_is_live(names in names(), key in any::<String>()) {
        let ring = even(names.clone());
        let owner = ring.owner(&key).unwrap().as_str();
        prop_assert!(names.contains(owner));
        let same_view = even(names.clone());
        prop_assert_eq!(same_view.owner(&key).unwrap().as_str(), owner);
    }

    #[test]
    fn the_order_of_nodes_does_not_matter(
        shuffled in names().prop_flat_map(|names| Just(names.into_iter().collect::<Vec<_>>()).prop_shuffle())
    ) {
        let ring = even(shuffled.clone());
        let sorted = even(shuffled.into_iter().collect::<BTreeSet<_>>());
        for key in keys(KEYS) {
            prop_assert_eq!(ring.owner(&key), sorted.owner(&key));
        }
    }

    /// Read forwards this is a join, backwards a leave.
    #[test]
    fn a_node_moves_only_its_own_share(names in names(), newcomer in "[A-Z]{1,16}") {
        let old = even(names.clone());
        let new = even(names.iter().cloned().chain([newcomer.clone()]));
        let mut moved = 0;
        for key in keys(KEYS) {
            let (before, after) = (old.owner(&key).unwrap(), new.owner(&key).unwrap());
            if before != after {
                moved += 1;
                prop_assert_eq!(after.as_str(), &newcomer, "a key moved between two old nodes");
            }
        }
        // A fair share, give or take 30 %: what 512 points and 2,000 keys leave to chance.
        let shares = moved * u32::try_from(names.len() + 1).unwrap();
        prop_assert!((KEYS * 7 / 10..KEYS * 13 / 10).contains(&shares), "{} moved", moved);
    }
}
