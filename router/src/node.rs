//! Who a node is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ring::NodeId;

/// One life of a node: its name, and which of the processes that bore it. Everything that is said
/// of a node or to it names both, so that nothing meant for a dead process reaches the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeKey {
    /// The name: unique among the nodes that run at one time.
    pub id: NodeId,
    /// Later processes of a name have greater ones: microseconds of the store's clock at the start.
    pub incarnation: u64,
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.id, self.incarnation)
    }
}
