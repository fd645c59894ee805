//! §5.1: the rows of `peers_list`.

use serde_json::json;

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, is_iso_ms, same, text};
use super::peer::Peer;
use super::presence::row;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§5.1", a_row_has_all_that_the_hello_said),
        check!("§5.1", a_members_own_connection_is_listed_as_control_plane),
        check!("§5.1", rows_are_ordered_by_when_they_came_and_have_the_caller),
        check!("§5.1", each_row_has_its_own_metadata, [30], "the reference mixes siblings"),
    ]
}

async fn a_row_has_all_that_the_hello_said(bench: &Bench) -> Verdict {
    let mut viewer = Peer::session(bench, bench.anyone()).await?;
    let who = bench.stranger().within("crew");
    let mut hello = who.session_hello(bench.stamp());
    hello["model"] = json!("a-model");
    let ben = Peer::greeted(bench, who.clone(), hello).await?;
    let row = row(&mut viewer, &ben.key()).await?;
    let want = json!({
        "memberPubkey": who.member.pubkey, "displayName": who.display_name, "status": "idle",
        "summary": null, "groups": [{ "name": "crew" }], "sessionId": who.session_id,
        "cwd": who.cwd, "peerRole": "session", "hostname": "conformance", "peerType": "ai",
        "channel": "claudemesh-session", "model": "a-model", "visible": true,
    });
    has(&row, &want)?;
    let at = text(&row, "connectedAt");
    ensure(is_iso_ms(at), || format!("connectedAt is {at:?}"))?;
    ensure(row.get("summary").is_some(), || "no summary".to_owned())
}

async fn a_members_own_connection_is_listed_as_control_plane(bench: &Bench) -> Verdict {
    let who = bench.stranger();
    let mut own = Peer::member(bench, who.clone()).await?;
    let reply = own.ask(json!({ "type": "list_peers" })).await?;
    let peers = reply["peers"].as_array().cloned().unwrap_or_default();
    let row = peers.iter().find(|peer| peer["sessionId"] == *who.session_id);
    let row = row.ok_or_else(|| Fault::failed("the caller is not listed"))?;
    has(row, &json!({ "pubkey": who.member.pubkey, "peerRole": "control-plane" }))
}

async fn rows_are_ordered_by_when_they_came_and_have_the_caller(bench: &Bench) -> Verdict {
    let mut first = Peer::session(bench, bench.stranger()).await?;
    let second = Peer::session(bench, bench.stranger()).await?;
    let reply = first.ask(json!({ "type": "list_peers" })).await?;
    let peers = reply["peers"].as_array().cloned().unwrap_or_default();
    let times: Vec<_> = peers.iter().map(|peer| text(peer, "connectedAt")).collect();
    ensure(times.is_sorted(), || format!("not in order: {times:?}"))?;
    let place = |key: &str| peers.iter().position(|peer| peer["pubkey"] == *key);
    let places = (place(&first.key()), place(&second.key()));
    ensure(places.0.is_some() && places.0 < places.1, || format!("they are at {places:?}"))
}

async fn each_row_has_its_own_metadata(bench: &Bench) -> Verdict {
    let mut viewer = Peer::session(bench, bench.anyone()).await?;
    let one = bench.stranger();
    let (own, other) = (one.clone(), bench.fresh(&one));
    let mut peers = Vec::new();
    for (who, host) in [(one, "here"), (other, "there")] {
        let mut hello = who.session_hello(bench.stamp());
        hello["hostname"] = json!(host);
        peers.push((Peer::greeted(bench, who, hello).await?, host));
    }
    let mut hello = own.hello(bench.stamp());
    hello["hostname"] = json!("nowhere");
    let _own = Peer::greeted(bench, own.clone(), hello).await?;
    for (peer, host) in &peers {
        let row = row(&mut viewer, &peer.key()).await?;
        same("hostname", &row["hostname"], *host)?;
        same("cwd", &row["cwd"], peer.who.cwd.as_str())?;
    }
    let row = row(&mut viewer, &own.member.pubkey).await?;
    has(&row, &json!({ "peerRole": "control-plane", "channel": "claudemesh-daemon" }))
}
