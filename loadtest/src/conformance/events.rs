//! §2.6: what peers are told of each other.

use serde_json::json;

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, is_event, is_iso_ms, is_uuid_v4, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§2.6", a_joining_session_is_announced_in_full),
        check!("§2.6", a_joining_session_is_seen_by_its_siblings_too),
        check!(
            "§2.6",
            an_event_carries_name_and_display_name,
            [],
            "both spellings, for either client"
        ),
        check!("§2.6", a_joining_member_is_seen_by_others_and_not_by_its_sessions),
    ]
}

async fn a_joining_session_is_announced_in_full(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let who = bench.stranger().within("crew");
    let ben = Peer::session(bench, who.clone()).await?;
    let event = ana.event("peer_joined", &ben.key()).await?;
    let want = json!({
        "type": "push", "subtype": "system", "senderPubkey": "system", "priority": "low",
        "nonce": "", "ciphertext": "", "meshId": who.mesh_id,
        "eventData": { "name": who.display_name, "groups": [{ "name": "crew" }] },
    });
    has(&event, &want)?;
    let id = text(&event, "messageId");
    ensure(is_uuid_v4(id), || format!("messageId is {id:?}"))?;
    let at = text(&event, "createdAt");
    ensure(is_iso_ms(at), || format!("createdAt is {at:?}"))
}

async fn a_joining_session_is_seen_by_its_siblings_too(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut ana = Peer::session(bench, who.clone()).await?;
    let sibling = Peer::session(bench, bench.fresh(&who)).await?;
    ana.event("peer_joined", &sibling.key()).await?;
    Ok(())
}

async fn an_event_carries_name_and_display_name(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let name = bench.word("name");
    let ben = Peer::session(bench, bench.stranger().named(&name)).await?;
    let event = ana.event("peer_joined", &ben.key()).await?;
    has(&event, &json!({ "eventData": { "name": name, "displayName": name } }))
}

async fn a_joining_member_is_seen_by_others_and_not_by_its_sessions(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    // A member's own connection is known by its session id, not by a key.
    let who = bench.fresh(&ana.who);
    let _member = Peer::member(bench, who.clone()).await?;
    let pubkey = who.member.pubkey.clone();
    let joined = |event: &str| event == "peer_joined" || event == "peer_returned";
    ben.until("a peer_joined", |frame| {
        joined(text(frame, "event")) && frame["eventData"]["pubkey"] == *pubkey
    })
    .await?;
    ana.nothing_until_marker(&mut ben, "its own session was told", |frame| {
        is_event(frame, "peer_joined", &pubkey) || is_event(frame, "peer_returned", &pubkey)
    })
    .await
}
