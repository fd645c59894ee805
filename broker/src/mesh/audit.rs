//! The audit chain (protocol-core §7): each entry's hash covers the one before.

use protocol::{MemberId, MeshId};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::model::{AuditRow, Sender};

/// The end of a mesh's chain.
#[derive(Debug)]
pub(crate) struct Chain {
    last: String,
}

impl Chain {
    /// Goes on behind the entry with this hash, or starts.
    pub(crate) fn after(hash: Option<String>) -> Self {
        Self { last: hash.unwrap_or_else(|| "genesis".to_owned()) }
    }

    /// The next entry.
    pub(crate) fn append(
        &mut self,
        mesh: &MeshId,
        event: &'static str,
        actor: &Sender,
        payload: &Value,
        wall: i64,
    ) -> AuditRow {
        let payload = canonical(payload);
        let hash = digest(&self.last, mesh, event, Some(&actor.member), &payload, wall);
        AuditRow {
            event,
            actor: Some(actor.member.clone()),
            actor_name: Some(actor.name.clone()),
            payload,
            prev_hash: std::mem::replace(&mut self.last, hash.clone()),
            hash,
            created_at: wall,
        }
    }
}

fn digest(
    prev: &str,
    mesh: &MeshId,
    event: &str,
    actor: Option<&MemberId>,
    payload: &str,
    wall: i64,
) -> String {
    let actor = actor.map_or("null", MemberId::as_str);
    let at = protocol::time::iso(wall);
    let text = format!("{prev}|{mesh}|{event}|{actor}|{payload}|{at}");
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// JSON without white space, keys sorted by UTF-16 code unit at every depth.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            let fields: Vec<_> = fields
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_sorts_keys_at_every_depth() {
        let value = serde_json::json!({"b": [{"z": null, "a": "x\"y"}], "a": 1});
        assert_eq!(canonical(&value), r#"{"a":1,"b":[{"a":"x\"y","z":null}]}"#);
    }

    #[test]
    fn each_hash_covers_the_one_before() {
        let sender = Sender {
            member: "m1".into(),
            member_pubkey: "k".into(),
            session_pubkey: None,
            name: "n".into(),
        };
        let mut chain = Chain::after(None);
        let mesh = MeshId::from("mesh");
        let first = chain.append(&mesh, "peer_left", &sender, &serde_json::json!({}), 0);
        // sha256sum of the text, by coreutils.
        let text = "genesis|mesh|peer_left|m1|{}|1970-01-01T00:00:00.000Z";
        assert_eq!(first.hash, hex::encode(Sha256::digest(text.as_bytes())));
        let second = chain.append(&mesh, "peer_left", &sender, &serde_json::json!({}), 0);
        assert_eq!((first.prev_hash.as_str(), second.prev_hash), ("genesis", first.hash));
    }
}
