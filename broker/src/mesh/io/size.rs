//! What things hold in memory, near enough to bound windows, links and outboxes with.

use protocol::client::Verb;
use protocol::server::{Frame, Peer};

use super::{Command, ToEdge};

impl Command {
    /// Bytes it holds in memory, near enough to bound windows with.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Send(send) => send.ciphertext.len() + send.nonce.len() + 256,
            Self::Attach(_) => 2048,
            Self::Request(request) => match &request.verb {
                Verb::SetSummary { summary } => summary.len() + 128,
                // Within the bounds of `protocol::limits`.
                Verb::SetProfile(_) => 16 * 1024,
                _ => 512,
            },
            Self::Detach { .. } => 1024,
            Self::ClientAck(_) | Self::Unknown => 128,
        }
    }
}

impl ToEdge {
    /// Bytes it holds in memory, near enough to bound an outbox with.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Push { envelope, .. } => envelope.bytes(),
            Self::Result { frame: Some(frame), .. } => reply_bytes(frame),
            Self::Attached { .. } | Self::Event(_) => 1024,
            _ => 256,
        }
    }
}

/// A reply: most are small, lists are as long as what they list.
fn reply_bytes(frame: &Frame) -> usize {
    let own = match frame {
        Frame::PeersList { peers, .. } => peers.iter().map(row_bytes).sum(),
        Frame::AuditResult { entries, .. } => {
            entries.iter().map(|entry| 256 + json_bytes(&entry.payload)).sum()
        }
        Frame::ListBansResult { bans, .. } => bans.iter().map(|ban| 192 + ban.name.len()).sum(),
        Frame::MessageStatusResult(status) => status.recipients.len() * 256,
        Frame::KickAck(ended) | Frame::DisconnectAck(ended) => ended.kicked.len() * 512,
        _ => 0,
    };
    256 + own
}

/// What a value holds, near enough.
fn json_bytes(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    32 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(json_bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(name, v)| name.len() + json_bytes(v)).sum(),
        _ => 0,
    }
}

/// A row of `peers_list`: what peers chose to tell of themselves, and the rest.
fn row_bytes(peer: &Peer) -> usize {
    let groups = peer.groups.iter();
    let groups = groups.map(|group| group.name.len() + group.role.as_ref().map_or(0, String::len));
    let told = [&peer.hostname, &peer.peer_type, &peer.channel, &peer.model];
    let told = told.into_iter().flatten().map(String::len);
    let own = peer.display_name.len() + peer.session_id.len() + peer.cwd.len();
    512 + own + told.sum::<usize>() + groups.map(|bytes| bytes + 64).sum::<usize>()
}
