//! What waits for each destination while a publish to it is on its way. So frames grow with the
//! load by themselves, without a timer, and what is sent to one node stays in order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::frame::ITEM_OVERHEAD;
use crate::node::NodeKey;

/// Bytes of a frame's items: enough to make the cost of a publish vanish, and little enough that
/// heartbeats, which take the same connection, do not wait behind a few dozen of them. One item is
/// always taken, whatever its size.
pub(super) const FRAME_BYTES: usize = 256 * 1024;
/// Bytes that wait for one destination: what Redis takes in a tenth of a second, and four of the
/// largest client frames. Sixty stalled destinations hold half a gigabyte at the very most.
pub(super) const LANE_BYTES: usize = 8 * 1024 * 1024;

/// Lanes with something in them or on the way.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<NodeKey, Lane>>);

#[derive(Debug, Default)]
struct Lane {
    items: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// What became of an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits, and nothing is on the way: the caller has to start.
    Start,
    /// It waits for what is on the way.
    Wait,
    /// There is no room for it.
    Full,
}

impl Lanes {
    /// Adds an item. One always fits, whatever its size: what comes behind it would never arrive.
    pub(super) fn push(&self, to: &NodeKey, item: Vec<u8>) -> Pushed {
        let mut lanes = self.lock();
        let known = lanes.get_mut(to);
        let starts = known.is_none();
        let bytes = ITEM_OVERHEAD + item.len();
        let waiting = known.as_ref().map_or(0, |lane| lane.bytes);
        if waiting > 0 && waiting + bytes > LANE_BYTES {
            return Pushed::Full;
        }
        let lane = match known {
            Some(lane) => lane,
            None => lanes.entry(to.clone()).or_default(),
        };
        lane.items.push_back(item);
        lane.bytes += bytes;
        if starts { Pushed::Start } else { Pushed::Wait }
    }

    /// The next frame's items. Nothing: the lane is empty, and whoever adds to it starts again.
    pub(super) fn next(&self, to: &NodeKey) -> Option<Vec<Vec<u8>>> {
        let mut lanes = self.lock();
        let lane = lanes.get_mut(to)?;
        let (mut items, mut bytes) = (Vec::new(), 0);
        while let Some(item) = lane.items.front() {
            let more = ITEM_OVERHEAD + item.len();
            if bytes > 0 && bytes + more > FRAME_BYTES {
                break;
            }
            bytes += more;
            items.extend(lane.items.pop_front());
        }
        lane.bytes -= bytes;
        if items.is_empty() {
            lanes.remove(to);
            return None;
        }
        Some(items)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeKey, Lane>> {
        // A panic elsewhere cannot leave a lane half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flight_takes_what_gathered_meanwhile_and_the_last_ends_it() {
        let (lanes, b) = (Lanes::default(), NodeKey { id: "b".into(), incarnation: 1 });
        assert_eq!(lanes.push(&b, vec![1]), Pushed::Start);
        assert_eq!(lanes.next(&b), Some(vec![vec![1]]));
        assert_eq!(lanes.push(&b, vec![2]), Pushed::Wait);
        assert_eq!(lanes.push(&b, vec![3]), Pushed::Wait);
        assert_eq!(lanes.next(&b), Some(vec![vec![2], vec![3]]));
        assert_eq!(lanes.next(&b), None);
        assert_eq!(lanes.push(&b, vec![4]), Pushed::Start);
    }

    #[test]
    fn frames_and_lanes_are_bounded_and_one_item_always_goes() {
        let (lanes, b) = (Lanes::default(), NodeKey { id: "b".into(), incarnation: 1 });
        assert_eq!(lanes.push(&b, vec![0; FRAME_BYTES * 2]), Pushed::Start);
        for _ in 0..3 {
            assert_eq!(lanes.push(&b, vec![0; FRAME_BYTES / 2]), Pushed::Wait);
        }
        assert_eq!(lanes.push(&b, vec![0; LANE_BYTES]), Pushed::Full);
        let lengths: Vec<_> =
            std::iter::from_fn(|| lanes.next(&b)).map(|items| items.len()).collect();
        assert_eq!(lengths, [1, 1, 1, 1], "two halves and their lengths do not fit");
        assert_eq!(lanes.push(&b, vec![0; LANE_BYTES + 1]), Pushed::Start);
        assert_eq!(lanes.push(&b, vec![]), Pushed::Full);
        assert_eq!(lanes.next(&b).map(|items| items.len()), Some(1));
    }
}
