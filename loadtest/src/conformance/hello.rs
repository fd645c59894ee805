//! §2.2: what is asked of a `hello`, in its order.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, text};
use super::peer::Peer;
use super::persona::Persona;
use super::{Check, check};

/// More than the skew a hello's clock may have.
pub(super) const TOO_FAR_MS: i64 = 70_000;

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§2.2", a_session_key_of_another_shape_is_refused),
        check!("§2.2", a_clock_more_than_a_minute_off_is_refused),
        check!("§2.2", a_hello_with_bad_hex_is_malformed),
        check!("§2.2", a_hello_signed_by_another_key_is_refused),
        check!("§2.2", a_key_that_is_no_members_is_refused),
        check!("§2.2", a_mesh_that_does_not_exist_has_no_members),
        check!("§2.2", the_checks_of_a_hello_come_in_their_order),
        check!("§2.2", another_members_id_is_refused, [26], "the reference never compares it"),
        check!(
            "§2.2",
            a_hello_replayed_on_another_socket_is_refused,
            [28],
            "signatures count once"
        ),
        check!(
            "§2.2",
            a_hello_without_a_required_field_is_malformed,
            [15],
            "the reference is silent"
        ),
        check!("§2.2", an_empty_session_key_is_none),
        check!("§2.2", a_display_name_counts_unless_it_is_empty),
        check!("§2.2", fields_of_the_future_are_ignored),
    ]
}

/// Fails unless the hello is refused like this, by an `error` and then a close with its code.
pub(super) async fn refused(
    bench: &Bench,
    who: &Persona,
    hello: Value,
    code: &str,
    message: &str,
) -> Verdict {
    let mut peer = Peer::unknown(bench, who.clone()).await?;
    peer.say(hello).await?;
    let error = peer.until("an error", |_| true).await?;
    has(&error, &json!({ "type": "error", "code": code }))?;
    // More may follow, such as the time where a clock is off.
    ensure(text(&error, "message").starts_with(message), || format!("the message is {error}"))?;
    peer.closed(1008, code).await
}

async fn rejected(bench: &Bench, who: &Persona, hello: Value, code: &str) -> Verdict {
    refused(bench, who, hello, code, &format!("hello rejected: {code}")).await
}

async fn a_session_key_of_another_shape_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    for key in [who.key().to_uppercase(), "abc".to_owned()] {
        let mut hello = who.hello(bench.stamp());
        hello["sessionPubkey"] = json!(key);
        let message = "sessionPubkey must be 64 lowercase hex chars";
        refused(bench, &who, hello, "bad_session_pubkey", message).await?;
    }
    Ok(())
}

async fn a_clock_more_than_a_minute_off_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    for off in [TOO_FAR_MS, -TOO_FAR_MS] {
        rejected(bench, &who, who.hello(bench.stamp() + off), "timestamp_skew").await?;
    }
    Ok(())
}

async fn a_hello_with_bad_hex_is_malformed(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    for signature in ["zz".repeat(64), "ab".to_owned()] {
        let mut hello = who.hello(bench.stamp());
        hello["signature"] = json!(signature);
        rejected(bench, &who, hello, "malformed").await?;
    }
    let mut hello = who.hello(bench.stamp());
    hello["pubkey"] = json!("0123");
    who.sign_member(&mut hello);
    rejected(bench, &who, hello, "malformed").await
}

async fn a_hello_signed_by_another_key_is_refused(bench: &Bench) -> Verdict {
    let (who, other) = (bench.anyone(), bench.anyone());
    let mut hello = who.hello(bench.stamp());
    other.sign_member(&mut hello);
    rejected(bench, &who, hello, "bad_signature").await
}

async fn a_key_that_is_no_members_is_refused(bench: &Bench) -> Verdict {
    let who = nobody(bench);
    let hello = who.hello(bench.stamp());
    refused(bench, &who, hello, "unauthorized", "pubkey not found in mesh").await
}

async fn a_mesh_that_does_not_exist_has_no_members(bench: &Bench) -> Verdict {
    let mut who = bench.anyone();
    "NoSuchMesh0NoSuchMesh0NoSuchMesh".clone_into(&mut who.mesh_id);
    let hello = who.hello(bench.stamp());
    refused(bench, &who, hello, "unauthorized", "pubkey not found in mesh").await
}

/// A member that the mesh does not have: its key is its session's.
pub(super) fn nobody(bench: &Bench) -> Persona {
    let mut who = bench.stranger();
    who.parent = who.session.clone();
    who.member.pubkey = who.key();
    who
}

async fn the_checks_of_a_hello_come_in_their_order(bench: &Bench) -> Verdict {
    let who = nobody(bench);
    // Everything is wrong; each refusal mends what it names.
    let mut hello = who.hello(bench.stamp());
    hello["timestamp"] = json!(bench.stamp() - TOO_FAR_MS);
    hello["sessionPubkey"] = json!("x");
    hello["signature"] = json!("zz");
    let message = "sessionPubkey must be 64 lowercase hex chars";
    refused(bench, &who, hello.clone(), "bad_session_pubkey", message).await?;
    hello["sessionPubkey"] = json!("");
    rejected(bench, &who, hello.clone(), "timestamp_skew").await?;
    hello["timestamp"] = json!(bench.stamp());
    rejected(bench, &who, hello.clone(), "malformed").await?;
    hello["signature"] = json!("00".repeat(64));
    rejected(bench, &who, hello.clone(), "bad_signature").await?;
    who.sign_member(&mut hello);
    refused(bench, &who, hello, "unauthorized", "pubkey not found in mesh").await
}

async fn another_members_id_is_refused(bench: &Bench) -> Verdict {
    let (mut who, other) = (bench.anyone(), bench.anyone());
    who.member.id = other.member.id;
    let mut peer = Peer::unknown(bench, who.clone()).await?;
    peer.say(who.hello(bench.stamp())).await?;
    let error = peer.until("an error", |_| true).await?;
    has(&error, &json!({ "type": "error", "code": "member_id_mismatch" }))?;
    peer.closed(1008, "member_id_mismatch").await
}

async fn a_hello_replayed_on_another_socket_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    for hello in [who.hello(bench.stamp()), who.session_hello(bench.stamp())] {
        let _first = Peer::greeted(bench, who.clone(), hello.clone()).await?;
        let mut second = Peer::unknown(bench, who.clone()).await?;
        second.say(hello).await?;
        let error = second.until("an error", |_| true).await?;
        has(&error, &json!({ "type": "error", "code": "replayed" }))?;
        second.closed(1008, "replayed").await?;
    }
    Ok(())
}

async fn a_hello_without_a_required_field_is_malformed(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    for field in ["pubkey", "sessionId", "pid", "cwd", "timestamp", "signature"] {
        let mut hello = who.hello(bench.stamp());
        hello[field] = Value::Null;
        let mut peer = Peer::unknown(bench, who.clone()).await?;
        peer.say(hello).await?;
        let error = peer.until("an error", |_| true).await?;
        has(&error, &json!({ "type": "error", "code": "malformed" }))?;
        peer.closed(1008, "malformed").await?;
    }
    Ok(())
}

async fn an_empty_session_key_is_none(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.hello(bench.stamp());
    hello["sessionPubkey"] = json!("");
    let mut peer = Peer::greeted(bench, who.clone(), hello).await?;
    let mut other = Peer::session(bench, bench.anyone()).await?;
    let body = bench.word("to the member");
    peer.send(&other.key(), &body).await?;
    has(&other.message(&body).await?, &json!({ "senderPubkey": who.member.pubkey }))
}

async fn a_display_name_counts_unless_it_is_empty(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut peer = Peer::session(bench, who.clone().named("Somebody Else")).await?;
    has(&peer.greeting, &json!({ "memberDisplayName": "Somebody Else" }))?;
    // Taken over by one who gives no name: the name of the first one would stay.
    let stranger = bench.fresh(&who).named("");
    peer = Peer::session(bench, stranger).await?;
    has(&peer.greeting, &json!({ "memberDisplayName": who.member.display_name }))
}

async fn fields_of_the_future_are_ignored(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.hello(bench.stamp());
    hello["protocolVersion"] = json!(9);
    hello["capabilities"] = json!(["flight"]);
    hello["peerType"] = json!("bridge");
    Peer::greeted(bench, who, hello).await?;
    Ok(())
}
