//! §7: the audit log.

use serde_json::json;

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, is_iso_ms, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![check!("§7", the_audit_log_has_who_joined), check!("§7", the_audit_log_verifies)]
}

async fn the_audit_log_has_who_joined(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.stranger()).await?;
    let ask = json!({ "type": "audit_query", "eventType": "peer_joined", "limit": 5 });
    let reply = peer.ask(ask).await?;
    has(&reply, &json!({ "type": "audit_result" }))?;
    ensure(reply["total"].as_u64() > Some(0), || format!("total is {}", reply["total"]))?;
    let entry = reply["entries"].get(0).ok_or_else(|| Fault::failed("no entries"))?;
    let payload = json!({
        "pubkey": peer.who.member.pubkey, "session_pubkey": peer.key(), "role": "session",
        "via": "session_hello",
    });
    has(entry, &json!({ "eventType": "peer_joined", "payload": payload }))?;
    let hash = text(entry, "hash");
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    ensure(is_hash, || format!("hash is {hash:?}"))?;
    let at = text(entry, "createdAt");
    ensure(is_iso_ms(at), || format!("createdAt is {at:?}"))
}

async fn the_audit_log_verifies(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.admin()).await?;
    let reply = peer.ask(json!({ "type": "audit_verify" })).await?;
    has(&reply, &json!({ "type": "audit_verify_result", "valid": true }))?;
    ensure(reply["entries"].as_u64() > Some(0), || format!("entries is {}", reply["entries"]))
}
