//! §2.2 9–10, §3: taking over, coming back within the grace, and who evicts whom.

use serde_json::json;

use super::bench::Bench;
use super::expect::{Verdict, ensure, is_event, is_message, is_row_id, same, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§2.3", a_newer_socket_takes_a_session_over),
        check!("§3", a_session_that_returns_keeps_its_presence),
        check!("§2.2", a_member_that_returns_keeps_its_presence),
        check!("§3", leaving_and_returning_within_the_grace_is_silent),
        check!("§3", a_session_in_grace_is_still_listed),
        check!(
            "§3",
            a_message_sent_in_grace_arrives_on_return,
            [6],
            "the reference claims and drops it"
        ),
        check!(
            "§2.2",
            an_equal_session_id_of_another_member_evicts_nobody,
            [20],
            "keys tell sessions apart"
        ),
        check!(
            "§2.3",
            an_equal_session_id_under_another_key_evicts_nobody,
            [20],
            "keys tell sessions apart"
        ),
        check!(
            "§2.2",
            a_claimed_session_key_that_another_has_proven_counts_as_none,
            [21],
            "proof beats a claim"
        ),
    ]
}

async fn a_newer_socket_takes_a_session_over(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut old = Peer::session(bench, who.clone()).await?;
    let new = Peer::session(bench, who).await?;
    old.closed(1000, "session_replaced").await?;
    same("presenceId", &new.greeting["presenceId"], &old.greeting["presenceId"])
}

async fn a_session_that_returns_keeps_its_presence(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let first = Peer::session(bench, who.clone()).await?;
    let presence = first.greeting["presenceId"].clone();
    ensure(is_row_id(text(&first.greeting, "presenceId")), || format!("it is {presence}"))?;
    first.leave().await;
    let again = Peer::session(bench, who).await?;
    same("presenceId", &again.greeting["presenceId"], &presence)
}

async fn a_member_that_returns_keeps_its_presence(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let first = Peer::member(bench, who.clone()).await?;
    let presence = first.greeting["presenceId"].clone();
    ensure(is_row_id(text(&first.greeting, "presenceId")), || format!("it is {presence}"))?;
    first.leave().await;
    let again = Peer::member(bench, who).await?;
    same("presenceId", &again.greeting["presenceId"], &presence)
}

async fn leaving_and_returning_within_the_grace_is_silent(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let mut eve = Peer::session(bench, bench.anyone()).await?;
    let who = ben.who.clone();
    // What it did when it first came is behind this marker.
    ana.nothing_until_marker(&mut eve, "", |_| false).await?;
    ana.inbox.clear();
    ben.leave().await;
    let _ben = Peer::session(bench, who.clone()).await?;
    ana.nothing_until_marker(&mut eve, "announced", |frame| {
        ["peer_joined", "peer_left", "peer_returned"]
            .iter()
            .any(|event| is_event(frame, event, &who.key()))
    })
    .await
}

async fn a_session_in_grace_is_still_listed(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let key = ben.key();
    ben.leave().await;
    let reply = ana.ask(json!({ "type": "list_peers" })).await?;
    let listed = reply["peers"].as_array().is_some_and(|peers| {
        peers.iter().any(|peer| peer["pubkey"] == *key && peer["peerRole"] == "session")
    });
    ensure(listed, || "it is not listed".to_owned())
}

async fn a_message_sent_in_grace_arrives_on_return(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let who = ben.who.clone();
    ben.leave().await;
    let body = bench.word("in grace");
    ana.send(&who.key(), &body).await?;
    let mut ben = Peer::session(bench, who).await?;
    ben.message(&body).await?;
    Ok(())
}

async fn an_equal_session_id_of_another_member_evicts_nobody(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut other = bench.stranger();
    other.session_id.clone_from(&who.session_id);
    evicts_nobody(Peer::member(bench, who).await?, Peer::member(bench, other).await?).await
}

async fn an_equal_session_id_under_another_key_evicts_nobody(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut other = bench.fresh(&who);
    other.session_id.clone_from(&who.session_id);
    evicts_nobody(Peer::session(bench, who).await?, Peer::session(bench, other).await?).await
}

async fn evicts_nobody(mut first: Peer<'_>, mut second: Peer<'_>) -> Verdict {
    for peer in [&mut first, &mut second] {
        peer.is_served().await?;
    }
    let presences = (&first.greeting["presenceId"], &second.greeting["presenceId"]);
    ensure(presences.0 != presences.1, || "both have one presence".to_owned())
}

async fn a_claimed_session_key_that_another_has_proven_counts_as_none(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let thief = bench.stranger();
    let mut hello = thief.hello(bench.stamp());
    hello["sessionPubkey"] = json!(ben.key());
    let mut thief = Peer::greeted(bench, thief, hello).await?;
    let body = bench.word("for the owner");
    ana.send(&ben.key(), &body).await?;
    ben.message(&body).await?;
    // It speaks under its member's key, and what is sent there is what it gets.
    let said = bench.word("from the thief");
    thief.send(&ana.key(), &said).await?;
    let push = ana.message(&said).await?;
    same("senderPubkey", text(&push, "senderPubkey"), thief.who.member.pubkey.as_str())?;
    thief.is_served().await?;
    thief.has_not("the thief has it", |frame| is_message(frame, &body))
}
