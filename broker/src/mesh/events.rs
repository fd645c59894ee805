//! System events and the rows of `peers_list`: what peers are told of each other.

use protocol::client::Priority;
use protocol::server::{Event, Frame, Peer, Row};
use protocol::{MeshId, time};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::io::{Now, Told};
use super::roster::Lease;

/// What becomes of a presence (protocol-core §2.6). Clients read `name` or `displayName`. The id says
/// what happened to whom: told twice, it is recognized. A presence comes and goes once.
pub(crate) fn presence(mesh: &MeshId, event: &'static str, lease: &Lease, now: Now) -> Frame {
    let record = &lease.record;
    let mut data = json!({
        "name": record.name,
        "displayName": record.name,
        "pubkey": record.pubkey(),
    });
    if matches!(event, "peer_joined" | "peer_returned") {
        data["groups"] = json!(record.groups);
    }
    if let Some(saved) = lease.saved.as_ref().filter(|_| event == "peer_returned") {
        if let Some(seen_at) = saved.seen_at {
            data["lastSeenAt"] = json!(time::iso(seen_at));
        }
        if let Some(summary) = &saved.summary {
            data["summary"] = json!(summary);
        }
    }
    let origin = match event {
        "peer_visible" | "peer_hidden" => {
            let at = lease.shown.at;
            format!("{event}|{}|{}|{}", lease.presence, at.epoch, at.number)
        }
        "peer_joined" | "peer_returned" => format!("peer_joined|{}", lease.presence),
        _ => format!("{event}|{}", lease.presence),
    };
    system(mesh, event, data, &origin, now)
}

/// The departure of a presence that peers were told of, by the word of their edge alone.
pub(crate) fn left(mesh: &MeshId, gone: &Told, now: Now) -> Frame {
    let data = json!({ "name": gone.name, "displayName": gone.name, "pubkey": gone.pubkey });
    let origin = format!("peer_left|{}", gone.presence);
    system(mesh, "peer_left", data, &origin, now)
}

/// An event whose id follows from its `origin`: told twice, it is recognized.
fn system(mesh: &MeshId, event: &'static str, data: Value, origin: &str, now: Now) -> Frame {
    Frame::Event(Box::new(Event {
        subtype: "system",
        event,
        event_data: data,
        message_id: uuid(origin),
        mesh_id: mesh.to_string(),
        sender_pubkey: "system",
        priority: Priority::Low,
        nonce: "",
        ciphertext: "",
        created_at: time::iso(now.wall),
    }))
}

/// A UUID in version 4's shape, from a digest.
fn uuid(origin: &str) -> String {
    let digest = hex::encode(Sha256::digest(origin.as_bytes()));
    let (a, b, c, d) = (&digest[..8], &digest[8..12], &digest[13..16], &digest[17..20]);
    format!("{a}-{b}-4{c}-8{d}-{}", &digest[20..32])
}

/// A lease's row in `peers_list`, and the same without what peers may make long.
pub(crate) fn rows(lease: &Lease) -> (Row, Row) {
    let whole = peer(lease);
    let row = Row::of(&whole);
    let short = Peer {
        summary: None,
        groups: Vec::new(),
        cwd: String::new(),
        stats: None,
        profile: None,
        ..whole
    };
    (row, Row::of(&short))
}

fn peer(lease: &Lease) -> Peer {
    let record = &lease.record;
    Peer {
        pubkey: record.pubkey().to_string(),
        member_pubkey: record.member_pubkey.to_string(),
        display_name: record.name.to_string(),
        status: record.status,
        summary: record.summary.clone(),
        groups: record.groups.clone(),
        session_id: record.session_id.clone(),
        connected_at: time::iso(record.connected_at),
        cwd: record.cwd.clone(),
        peer_role: record.role(),
        hostname: record.hostname.clone(),
        peer_type: record.peer_type.clone(),
        channel: record.channel.clone(),
        model: record.model.clone(),
        stats: record.stats.as_deref().cloned(),
        visible: record.visible,
        profile: record.profile.as_deref().filter(|profile| !profile.is_empty()).cloned(),
    }
}
