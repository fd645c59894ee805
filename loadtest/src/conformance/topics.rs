//! §4.5, and the verbs of topics (protocol-features §2.7).

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, is_message, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§4.5", an_unknown_topic_is_not_found, [11, 25], "the reference acks it"),
        check!("§2.7*", a_topic_is_created_once),
        check!("§2.7*", a_topic_lists_its_members),
        check!(
            "§4.5",
            a_message_to_a_topic_reaches_its_members_at_once,
            [11],
            "the reference pushes nobody"
        ),
        check!("§2.7*", a_topic_keeps_its_history),
        check!("§2.7*", a_verb_on_an_unknown_topic_gets_topic_not_found),
    ]
}

/// Asks; a broker may leave these verbs out, as long as it says so.
async fn verb(peer: &mut Peer<'_>, ask: Value) -> Verdict<Value> {
    let reply = peer.ask(ask).await?;
    if reply["code"] == "not_implemented" {
        return Err(Fault::skipped("the broker says that it does not implement topic verbs"));
    }
    Ok(reply)
}

/// Creates a topic of this name; gives its id.
async fn create(peer: &mut Peer<'_>, name: &str, created: bool) -> Verdict<String> {
    let ask = json!({ "type": "topic_create", "name": name, "visibility": "public" });
    let reply = verb(peer, ask).await?;
    let topic = json!({ "name": name, "visibility": "public" });
    let want = json!({ "type": "topic_created", "created": created, "topic": topic });
    has(&reply, &want)?;
    Ok(text(&reply["topic"], "id").to_owned())
}

async fn an_unknown_topic_is_not_found(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let error = ana.refused("#NoSuchTopic0NoSuchTopic0NoSuchTo", "c", json!({})).await?;
    ensure(error.contains("not_found"), || format!("the error is {error:?}"))
}

async fn a_topic_is_created_once(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let name = bench.word("topic");
    let first = create(&mut ana, &name, true).await?;
    let again = create(&mut ben, &name, false).await?;
    ensure(first == again, || format!("ids differ: {first} and {again}"))?;
    let list = ben.ask(json!({ "type": "topic_list" })).await?;
    has(&list, &json!({ "type": "topic_list_response" }))?;
    let topics = list["topics"].as_array().cloned().unwrap_or_default();
    let ours = topics.iter().find(|topic| topic["id"] == *first);
    let ours = ours.ok_or_else(|| Fault::failed("it is not listed"))?;
    has(ours, &json!({ "name": name }))?;
    ensure(ours["memberCount"].as_u64() > Some(0), || format!("the row is {ours}"))
}

async fn a_topic_lists_its_members(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let name = bench.word("topic");
    create(&mut ana, &name, true).await?;
    ben.say(json!({ "type": "topic_join", "topic": name })).await?;
    let ask = json!({ "type": "topic_members", "topic": name });
    let members = ben.ask(ask.clone()).await?;
    has(&members, &json!({ "type": "topic_members_response", "topic": name }))?;
    for (who, role) in [(&ana.who, "lead"), (&ben.who, "member")] {
        let pubkey = &who.member.pubkey;
        let row = member(&members, pubkey).ok_or_else(|| Fault::failed("a member is missing"))?;
        has(row, &json!({ "memberId": who.member.id, "role": role }))?;
    }
    ben.say(json!({ "type": "topic_leave", "topic": name })).await?;
    let members = ben.ask(ask).await?;
    let left = member(&members, &ben.who.member.pubkey).is_none();
    ensure(left, || "who left is still a member".to_owned())
}

fn member<'a>(reply: &'a Value, pubkey: &str) -> Option<&'a Value> {
    reply["members"].as_array()?.iter().find(|member| member["pubkey"] == *pubkey)
}

async fn a_message_to_a_topic_reaches_its_members_at_once(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut eve = Peer::session(bench, bench.anyone()).await?;
    let name = bench.word("topic");
    let id = create(&mut ana, &name, true).await?;
    ben.say(json!({ "type": "topic_join", "topic": id })).await?;
    ben.ask(json!({ "type": "topic_members", "topic": id })).await?;
    let body = bench.word("to the topic");
    ana.send(&format!("#{id}"), &body).await?;
    ben.message(&body).await?;
    let had = |frame: &Value| is_message(frame, &body);
    eve.nothing_until_marker(&mut ana, "an outsider has it", had).await
}

async fn a_topic_keeps_its_history(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let name = bench.word("topic");
    let id = create(&mut ana, &name, true).await?;
    let bodies = [bench.word("first"), bench.word("second")];
    for body in &bodies {
        ana.send(&format!("#{id}"), body).await?;
    }
    let reply = ana.ask(json!({ "type": "topic_history", "topic": name, "limit": 10 })).await?;
    let message = |body: &str| {
        json!({
            "ciphertext": body, "senderPubkey": ana.key(), "bodyVersion": 1,
            "senderMemberId": ana.who.member.id, "senderName": ana.who.display_name,
        })
    };
    has(&reply, &json!({ "type": "topic_history_response", "topic": name }))?;
    for (at, body) in bodies.iter().rev().enumerate() {
        has(&reply["messages"][at], &message(body))?;
    }
    Ok(())
}

async fn a_verb_on_an_unknown_topic_gets_topic_not_found(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    for name in ["topic_members", "topic_history"] {
        let ask = json!({ "type": name, "topic": "no such topic" });
        let error = verb(&mut ana, ask).await?;
        has(&error, &json!({ "type": "error", "code": "topic_not_found" }))?;
    }
    Ok(())
}
