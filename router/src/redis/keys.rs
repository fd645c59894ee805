//! Every key and channel in Redis: a cluster has its own. What is in braces decides the slot of a
//! Redis Cluster: a script touches one key, so one slot.

use crate::node::NodeKey;

/// The table of nodes before anything was sealed, which all clusters shared.
pub(super) const UNSEALED_NODES: &str = "claudemesh:{nodes}";

/// The names that a cluster uses.
pub(super) struct Keys {
    /// The table of nodes.
    pub(super) nodes: String,
    /// Where nodes say that the table is worth a look.
    pub(super) hints: String,
    /// A node's channel is this, its name, [`CHANNEL_MIDDLE`] and its incarnation.
    pub(super) channel_begin: String,
    leases_begin: String,
}

/// See [`Keys::channel_begin`].
pub(super) const CHANNEL_MIDDLE: &str = "}:";

impl Keys {
    /// Of the cluster with this id.
    pub(super) fn of(cluster: &str) -> Self {
        Self {
            nodes: format!("claudemesh:{{{cluster}:nodes}}"),
            hints: format!("claudemesh:{{{cluster}:nodes}}:hints"),
            channel_begin: format!("claudemesh:{{{cluster}:node:"),
            leases_begin: format!("claudemesh:{{{cluster}:leases:"),
        }
    }

    /// The channel of one process of a node: whoever publishes to a dead one learns it.
    pub(super) fn channel(&self, node: &NodeKey) -> String {
        format!("{}{}{CHANNEL_MIDDLE}{}", self.channel_begin, node.id, hex(node.incarnation))
    }

    /// The leases of a mesh.
    pub(super) fn leases(&self, mesh: &str) -> String {
        format!("{}{mesh}}}", self.leases_begin)
    }
}

/// A number as the scripts have it: in the order of texts, and exact.
pub(super) fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// The number that [`hex`] wrote.
pub(super) fn unhex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
