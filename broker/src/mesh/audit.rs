//! The audit chain (protocol-core §7): each entry's hash covers the one before.
//!
//! Entries are made by the rules and sealed when their commit is made up: a commit that brings
//! nothing, because some of it was known, leaves no hole in the chain.

use protocol::{MemberId, MeshId};
use serde_json::{Number, Value};
use sha2::{Digest, Sha256};

use crate::model::{AuditEntry, AuditRow, GENESIS, Sender, Unit, Verified, Write};

/// The end of a mesh's chain.
#[derive(Debug)]
pub(crate) struct Chain {
    last: String,
    /// The end once the commit in flight is durable.
    sealed: Option<String>,
}

impl Chain {
    /// Goes on behind the entry with this hash, or starts.
    pub(crate) fn after(hash: Option<String>) -> Self {
        Self { last: hash.unwrap_or_else(|| GENESIS.to_owned()), sealed: None }
    }

    /// Chains the entries of a commit to what is durable.
    pub(crate) fn seal(&mut self, mesh: &MeshId, units: &mut [Unit]) {
        let mut last = self.last.clone();
        for write in units.iter_mut().flat_map(|unit| &mut unit.0) {
            let Write::Audit(row) = write else { continue };
            let actor = row.actor.as_ref().map(MemberId::as_str);
            row.hash = digest(&last, mesh, row.event, actor, &row.payload, row.created_at);
            row.prev_hash = std::mem::replace(&mut last, row.hash.clone());
        }
        self.sealed = Some(last);
    }

    /// The commit last sealed is durable.
    pub(crate) fn settle(&mut self) {
        if let Some(last) = self.sealed.take() {
            self.last = last;
        }
    }
}

/// Bytes of one text in an entry: as many as a name may have. Entries are never removed, and a name
/// in the store may be of any length.
pub const AUDIT_TEXT_BYTES: usize = 256;

/// An entry, not yet chained. Its texts are cut to [`AUDIT_TEXT_BYTES`]; lists do not belong there.
pub(crate) fn entry(event: &'static str, actor: &Sender, payload: &Value, wall: i64) -> AuditRow {
    let mut payload = payload.clone();
    bound(&mut payload);
    canonical_entry(event, actor, canonical(&payload), wall)
}

fn bound(payload: &mut Value) {
    match payload {
        Value::String(text) if text.len() > AUDIT_TEXT_BYTES => *text = cut(text).to_owned(),
        Value::Object(fields) => fields.values_mut().for_each(bound),
        Value::Array(items) => *payload = Value::from(items.len()),
        _ => {}
    }
}

/// The first bytes of a text, at most [`AUDIT_TEXT_BYTES`], whole characters.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=AUDIT_TEXT_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// The same, of a payload that is canonical already.
pub(crate) fn canonical_entry(
    event: &'static str,
    actor: &Sender,
    payload: String,
    wall: i64,
) -> AuditRow {
    AuditRow {
        event,
        actor: Some(actor.member.clone()),
        actor_name: Some(match &actor.name {
            long if long.len() > AUDIT_TEXT_BYTES => cut(long).into(),
            name => name.clone(),
        }),
        payload,
        prev_hash: String::new(),
        hash: String::new(),
        created_at: wall,
    }
}

/// Walks a stored chain, entry by entry, from wherever it has been verified to.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// Behind the last entry that was right.
    pub(crate) so_far: Verified,
}

impl From<Verified> for Verifier {
    fn from(so_far: Verified) -> Self {
        Self { so_far }
    }
}

impl Verifier {
    /// Whether this entry belongs behind those before it.
    pub(crate) fn follows(&mut self, mesh: &MeshId, entry: &AuditEntry) -> bool {
        let Verified { last, after, entries } = &mut self.so_far;
        let payload = canonical(&entry.payload);
        let actor = entry.actor.as_deref();
        let hash = digest(last, mesh, &entry.event, actor, &payload, entry.created_at);
        let right = entry.prev_hash == *last && entry.hash == hash;
        if right {
            (*last, *after) = (hash, entry.id);
            *entries += 1;
        }
        right
    }
}

fn digest(
    prev: &str,
    mesh: &MeshId,
    event: &str,
    actor: Option<&str>,
    payload: &str,
    wall: i64,
) -> String {
    let actor = actor.unwrap_or("null");
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
        Value::Number(number) => javascript(number),
        scalar => scalar.to_string(),
    }
}

/// A number as JavaScript writes it: every one is a double there.
fn javascript(number: &Number) -> String {
    number
        .as_f64()
        .map_or_else(|| number.to_string(), |value| ryu_js::Buffer::new().format(value).to_owned())
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
    fn numbers_are_written_as_javascript_does() {
        let value: Value =
            serde_json::from_str("[3.0,1e21,100000000000000000000,0.1,-0.0]").unwrap();
        assert_eq!(canonical(&value), "[3,1e+21,100000000000000000000,0.1,0]");
        let large: Value = serde_json::from_str("9007199254740993").unwrap();
        assert_eq!(canonical(&large), "9007199254740992");
    }

    #[test]
    fn an_entry_is_small_whatever_it_is_about() {
        let sender = Sender {
            member: "m1".into(),
            member_pubkey: "k".into(),
            session_pubkey: None,
            name: "n".repeat(10_000).into(),
        };
        let long = "é".repeat(10_000);
        let payload = serde_json::json!({"a": long, "b": {"c": long}, "d": [long, long], "e": 1});
        let entry = entry("peer_joined", &sender, &payload, 0);
        assert_eq!(entry.actor_name.as_ref().map(|name| name.len()), Some(AUDIT_TEXT_BYTES));
        assert!(entry.payload.len() < 600, "{} bytes", entry.payload.len());
        assert!(entry.payload.contains(r#""d":2"#), "{}", entry.payload);
    }

    fn left(wall: i64) -> Unit {
        let sender = Sender {
            member: "m1".into(),
            member_pubkey: "k".into(),
            session_pubkey: None,
            name: "n".into(),
        };
        Unit(vec![Write::Audit(entry("peer_left", &sender, &serde_json::json!({}), wall))])
    }

    fn rows(units: &[Unit]) -> Vec<AuditRow> {
        let audits = units.iter().flat_map(|unit| &unit.0).filter_map(|write| match write {
            Write::Audit(row) => Some(row.clone()),
            _ => None,
        });
        audits.collect()
    }

    #[test]
    fn each_hash_covers_the_one_before() {
        let (mut chain, mesh) = (Chain::after(None), MeshId::from("mesh"));
        let mut units = [left(0), left(0)];
        chain.seal(&mesh, &mut units);
        let rows = rows(&units);
        // sha256sum of the text, by coreutils.
        let text = "genesis|mesh|peer_left|m1|{}|1970-01-01T00:00:00.000Z";
        assert_eq!(rows[0].hash, hex::encode(Sha256::digest(text.as_bytes())));
        assert_eq!((rows[0].prev_hash.as_str(), &rows[1].prev_hash), (GENESIS, &rows[0].hash));
    }

    #[test]
    fn a_commit_that_brought_nothing_leaves_no_hole() {
        let (mut chain, mesh) = (Chain::after(None), MeshId::from("mesh"));
        let mut refused = [left(1), left(2)];
        chain.seal(&mesh, &mut refused);
        let mut again = [left(2)];
        chain.seal(&mesh, &mut again);
        assert_eq!(rows(&again)[0].prev_hash, GENESIS);
        chain.settle();
        let mut next = [left(3)];
        chain.seal(&mesh, &mut next);
        assert_eq!(rows(&next)[0].prev_hash, rows(&again)[0].hash);
    }

    #[test]
    fn a_stored_chain_is_verified_to_where_it_breaks() {
        let (mut chain, mesh) = (Chain::after(None), MeshId::from("mesh"));
        let mut units = [left(1), left(2), left(3)];
        chain.seal(&mesh, &mut units);
        let stored = |(id, row): (usize, AuditRow)| AuditEntry {
            id: i64::try_from(id).unwrap(),
            event: row.event.to_owned(),
            actor: row.actor.map(|id| id.to_string()),
            actor_name: None,
            payload: serde_json::from_str(&row.payload).unwrap(),
            prev_hash: row.prev_hash,
            hash: row.hash,
            created_at: row.created_at,
        };
        let mut entries: Vec<_> = rows(&units).into_iter().enumerate().map(stored).collect();
        let mut verifier = Verifier::from(Verified::default());
        assert!(entries.iter().all(|entry| verifier.follows(&mesh, entry)));
        entries[1].payload = serde_json::json!({"forged": true});
        let mut verifier = Verifier::from(Verified::default());
        let broken = entries.iter().find(|entry| !verifier.follows(&mesh, entry));
        assert_eq!((broken.map(|entry| entry.id), verifier.so_far.entries), (Some(1), 1));
        // It goes on from where it was right.
        entries[1].payload = serde_json::json!({});
        let mut verifier = Verifier::from(verifier.so_far);
        assert!(entries[1..].iter().all(|entry| verifier.follows(&mesh, entry)));
        assert_eq!((verifier.so_far.entries, verifier.so_far.after), (3, 2));
    }
}
