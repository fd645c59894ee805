//! An envelope as its recipient reads it.

use protocol::server::Push;
use protocol::{MeshId, time};

use crate::model::Envelope;

/// The `push` of `envelope`. With `hide_member` it does not say which member sent it: a member's
/// own socket drops its own member's mail without an ack (protocol-core §11.2).
pub fn push(mesh: &MeshId, envelope: &Envelope, hide_member: bool) -> String {
    let sender = &envelope.sender;
    Push {
        message_id: envelope.id.as_str(),
        mesh_id: mesh.as_str(),
        sender_pubkey: sender.pubkey(),
        priority: envelope.priority,
        nonce: &envelope.nonce,
        ciphertext: &envelope.ciphertext,
        created_at: &time::iso(envelope.created_at),
        sender_member_pubkey: (!hide_member).then_some(&*sender.member_pubkey),
        sender_member_id: sender.member.as_str(),
        sender_name: &sender.name,
        reply_to_id: envelope.reply_to.as_deref(),
        subtype: envelope.subtype.as_deref(),
        topic: envelope.topic.as_deref(),
        client_message_id: envelope.key.client_id(),
        request_fingerprint: envelope.fingerprint.as_deref(),
    }
    .to_json()
}
