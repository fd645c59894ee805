//! Placement: which of the live nodes a key belongs to.
//!
//! A [`Ring`] is one view of the live nodes and never changes; a new view is a new ring, swapped in
//! whole. Two nodes with the same view agree on every owner, whatever their version, platform or
//! the order in which they heard of each other. A view that gains or loses a node moves only the
//! keys that node gains or loses. Views may differ for a while: a ring names a candidate, it is the
//! fence that keeps two owners apart.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use consistent_hash::{Node, RingHash, StaticHashRing};

/// Points of a node of weight 1. With 512 the fullest of eight nodes holds 5 to 7 % more than its
/// share (200,000 keys); at 16 bytes a point 100 nodes take 0.8 MB.
const POINTS: usize = 512;

/// A node's name, compared as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for NodeId {
    fn from(name: T) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Hash for NodeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

/// A key to place. Hashes as its bytes and nothing else: std does not promise what `str` adds.
struct Key<'a>(&'a str);

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

/// One view of the live nodes.
pub struct Ring(StaticHashRing<'static, NodeId, (), Stable>);

impl Ring {
    /// The ring of these nodes with their weights: a node of weight 2 is given twice the keys of
    /// one of weight 1, a node of weight 0 none. Of a node named twice the greater weight counts,
    /// so that the order never matters.
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, u8)>) -> Self {
        let mut weights = BTreeMap::new();
        for (node, weight) in nodes {
            let known = weights.entry(node).or_insert(weight);
            *known = weight.max(*known);
        }
        let nodes = weights
            .into_iter()
            .map(|(node, weight)| Node::new(node).quantity(POINTS * usize::from(weight)));
        Self(StaticHashRing::new(Stable, nodes))
    }

    /// The node a key belongs to, or nothing if no node may have any.
    pub fn owner(&self, key: &str) -> Option<&NodeId> {
        self.0.calc_candidates(&Key(key)).next().map(|node| &node.key)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.nodes().iter().map(|node| (&node.key, node.quantity / POINTS)))
            .finish()
    }
}

/// Hashes bytes the same on every platform, in every version.
struct Stable;

impl RingHash for Stable {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut hasher = Fnv::default();
        item.hash(&mut hasher);
        hasher.finish()
    }

    fn hash_vnode<K: Hash>(&self, node: &K, point: usize) -> u64 {
        let mut hasher = Fnv::default();
        node.hash(&mut hasher);
        // 0xff is in no UTF-8 text, so a node's name and its point never run into each other.
        hasher.write(&[0xff]);
        hasher.write(&(point as u64).to_le_bytes());
        hasher.finish()
    }
}

/// FNV-1a over 64 bits, and the finalizer of SplitMix64 over the outcome: FNV alone leaves the
/// points of names that differ in one letter close together.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests;
