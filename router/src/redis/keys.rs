//! Every key and channel in Redis. What is in braces decides the slot of a Redis Cluster: a script
//! touches one key, so one slot.

use crate::node::NodeKey;

/// The table of nodes.
pub(super) const NODES: &str = "claudemesh:{nodes}";
/// Where nodes say that the table is worth a look.
pub(super) const HINTS: &str = "claudemesh:{nodes}:hints";
/// A node's channel is this, its name, [`CHANNEL_MIDDLE`] and its incarnation.
pub(super) const CHANNEL_BEGIN: &str = "claudemesh:{node:";
/// See [`CHANNEL_BEGIN`].
pub(super) const CHANNEL_MIDDLE: &str = "}:";

/// The channel of one process of a node: whoever publishes to a dead one learns it.
pub(super) fn channel(node: &NodeKey) -> String {
    format!("{CHANNEL_BEGIN}{}{CHANNEL_MIDDLE}{}", node.id, hex(node.incarnation))
}

/// The leases of a mesh.
pub(super) fn leases(mesh: &str) -> String {
    format!("claudemesh:{{leases:{mesh}}}")
}

/// A number as the scripts have it: in the order of texts, and exact.
pub(super) fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// The number that [`hex`] wrote.
pub(super) fn unhex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
