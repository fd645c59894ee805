//! §5: what a peer says of itself, and who is told.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, is_message, same};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§5", a_summary_is_listed_and_nothing_is_answered),
        check!("§5", a_summary_left_out_is_empty),
        check!("§5", visibility_is_acked_and_seen_by_everyone),
        check!("§5.1", a_hidden_peer_is_listed_for_its_member_only),
        check!("§5.1", a_hidden_peer_gets_directs_and_no_multicast),
        check!("§5", a_profile_is_acked_and_merged),
        check!("§5", stats_are_listed),
        check!("§5", groups_are_joined_changed_and_left),
    ]
}

/// The row of the peer with this key, as `viewer` sees it.
pub(super) async fn row(viewer: &mut Peer<'_>, key: &str) -> Verdict<Value> {
    found(viewer, key).await?.ok_or_else(|| Fault::failed("the peer is not listed"))
}

/// The same, or nothing if it is not listed.
async fn found(viewer: &mut Peer<'_>, key: &str) -> Verdict<Option<Value>> {
    let reply = viewer.ask(json!({ "type": "list_peers" })).await?;
    has(&reply, &json!({ "type": "peers_list" }))?;
    let peers = reply["peers"].as_array().ok_or_else(|| Fault::failed("peers is no list"))?;
    Ok(peers.iter().find(|peer| peer["pubkey"] == *key).cloned())
}

/// Asks for what is acknowledged by an empty `ack` (§4.3).
async fn acked(peer: &mut Peer<'_>, ask: Value) -> Verdict {
    let ack = peer.ask(ask).await?;
    has(&ack, &json!({ "type": "ack", "id": ack["_reqId"], "messageId": "", "queued": false }))
}

/// Says what has no answer, and sees its own row behind it.
pub(super) async fn told(peer: &mut Peer<'_>, frame: Value) -> Verdict<Value> {
    peer.say(frame).await?;
    let key = peer.key();
    let row = row(peer, &key).await?;
    peer.has_not("it was answered", |frame| frame["type"] == "error" || frame["type"] == "ack")?;
    Ok(row)
}

async fn a_summary_is_listed_and_nothing_is_answered(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let summary = bench.word("mending the roof");
    let own = told(&mut ana, json!({ "type": "set_summary", "summary": summary })).await?;
    same("summary", &own["summary"], summary.as_str())?;
    same("seen by another", &row(&mut ben, &ana.key()).await?["summary"], summary.as_str())
}

async fn a_summary_left_out_is_empty(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.stranger()).await?;
    let key = ana.key();
    same("summary before", &row(&mut ana, &key).await?["summary"], &Value::Null)?;
    same("summary", &told(&mut ana, json!({ "type": "set_summary" })).await?["summary"], "")
}

async fn visibility_is_acked_and_seen_by_everyone(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut sibling = Peer::session(bench, bench.sibling(&ana.who)).await?;
    for (visible, event) in [(false, "peer_hidden"), (true, "peer_visible")] {
        acked(&mut ana, json!({ "type": "set_visible", "visible": visible })).await?;
        for peer in [&mut ben, &mut sibling] {
            let told = peer.event(event, &ana.key()).await?;
            let name = json!({ "name": ana.who.display_name });
            has(&told, &json!({ "subtype": "system", "eventData": name }))?;
        }
    }
    Ok(())
}

async fn a_hidden_peer_is_listed_for_its_member_only(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut sibling = Peer::session(bench, bench.sibling(&ana.who)).await?;
    let key = ana.key();
    acked(&mut ana, json!({ "type": "set_visible", "visible": false })).await?;
    let seen = found(&mut ben, &key).await?;
    let own = found(&mut sibling, &key).await?;
    acked(&mut ana, json!({ "type": "set_visible", "visible": true })).await?;
    ensure(seen.is_none(), || "another member sees it".to_owned())?;
    ensure(own.is_some(), || "its own member does not see it".to_owned())?;
    row(&mut ben, &key).await?;
    Ok(())
}

async fn a_hidden_peer_gets_directs_and_no_multicast(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    acked(&mut ben, json!({ "type": "set_visible", "visible": false })).await?;
    let body = bench.word("broadcast");
    ana.send("*", &body).await?;
    // The marker is the direct message that does come.
    let had = |frame: &Value| is_message(frame, &body);
    let seen = ben.nothing_until_marker(&mut ana, "it has the broadcast", had).await;
    acked(&mut ben, json!({ "type": "set_visible", "visible": true })).await?;
    seen
}

async fn a_profile_is_acked_and_merged(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.stranger()).await?;
    let first = json!({ "type": "set_profile", "title": "Mason", "bio": "Builds" });
    acked(&mut ana, first).await?;
    let second = json!({ "type": "set_profile", "title": "Smith", "capabilities": ["iron"] });
    acked(&mut ana, second).await?;
    let key = ana.key();
    let want = json!({ "title": "Smith", "bio": "Builds", "capabilities": ["iron"] });
    has(&row(&mut ana, &key).await?, &json!({ "profile": want }))
}

async fn stats_are_listed(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.stranger()).await?;
    let stats = json!({ "messagesIn": 1, "messagesOut": 2, "toolCalls": 3, "errors": 4 });
    let own = told(&mut ana, json!({ "type": "set_stats", "stats": stats })).await?;
    has(&own, &json!({ "stats": stats }))
}

async fn groups_are_joined_changed_and_left(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.stranger()).await?;
    let mut ben = Peer::session(bench, bench.anyone()).await?;
    let group = bench.word("group");
    let joined = |role: &str| json!({ "type": "join_group", "name": group, "role": role });
    let own = told(&mut ana, joined("")).await?;
    same("groups", &own["groups"], &json!([{ "name": group }]))?;
    let own = told(&mut ana, joined("lead")).await?;
    same("groups", &own["groups"], &json!([{ "name": group, "role": "lead" }]))?;
    let target = format!("@{group}");
    let body = bench.word("to the group");
    ben.send(&target, &body).await?;
    ana.message(&body).await?;
    let own = told(&mut ana, json!({ "type": "leave_group", "name": group })).await?;
    same("groups", &own["groups"], &json!([]))?;
    let body = bench.word("after it left");
    ben.send(&target, &body).await?;
    let had = |frame: &Value| is_message(frame, &body);
    ana.nothing_until_marker(&mut ben, "it still gets the group's", had).await
}
