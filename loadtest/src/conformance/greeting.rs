//! §2.4, §2.5: what a `hello_ack` says, and that it is first.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, brief, ensure, has, is_row_id, same, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§2.4", a_member_is_greeted_with_presence_profile_and_policy),
        check!("§2.4", a_session_is_greeted_with_presence_profile_and_policy),
        check!(
            "§2.5",
            a_hello_ack_comes_before_what_waited,
            [],
            "the reference only usually sends it first"
        ),
    ]
}

fn complete(greeting: &Value, name: &str) -> Verdict {
    let presence = text(greeting, "presenceId");
    ensure(is_row_id(presence), || format!("presenceId is {presence:?}"))?;
    has(greeting, &json!({ "type": "hello_ack", "memberDisplayName": name }))?;
    let profile = &greeting["memberProfile"];
    ensure(profile["groups"].is_array() && profile["messageMode"].is_string(), || {
        format!("memberProfile is {}", brief(profile))
    })?;
    ensure(profile.get("roleTag").is_some(), || "no roleTag".to_owned())?;
    ensure(greeting["services"].is_array(), || "services is no list".to_owned())?;
    for right in ["displayName", "roleTag", "groups", "messageMode"] {
        let policy = &greeting["meshPolicy"];
        ensure(policy.is_null() || policy["selfEditable"][right].is_boolean(), || {
            format!("meshPolicy is {}", brief(policy))
        })?;
    }
    Ok(())
}

async fn a_member_is_greeted_with_presence_profile_and_policy(bench: &Bench) -> Verdict {
    let who = bench.stranger();
    let peer = Peer::member(bench, who.clone()).await?;
    complete(&peer.greeting, &who.display_name)
}

async fn a_session_is_greeted_with_presence_profile_and_policy(bench: &Bench) -> Verdict {
    let who = bench.stranger();
    let peer = Peer::session(bench, who.clone()).await?;
    complete(&peer.greeting, &who.display_name)
}

async fn a_hello_ack_comes_before_what_waited(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let who = ben.who.clone();
    ben.leave().await;
    let bodies = [bench.word("waiting"), bench.word("waiting")];
    for body in &bodies {
        ana.send(&who.key(), body).await?;
    }
    let mut ben = Peer::unknown(bench, who).await?;
    let hello = ben.who.session_hello(bench.stamp());
    ben.say(hello).await?;
    let first = ben.until("a first frame", |_| true).await?;
    same("the first frame", text(&first, "type"), "hello_ack")?;
    for body in &bodies {
        ben.message(body).await?;
    }
    Ok(())
}
