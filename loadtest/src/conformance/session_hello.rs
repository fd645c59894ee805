//! §2.3: what is asked of a `session_hello`, in its order.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::Verdict;
use super::hello::{TOO_FAR_MS, nobody, refused};
use super::persona::Persona;
use super::{Check, check};

const DAY_MS: i64 = 86_400_000;
const MISMATCH: &str = "parentAttestation does not bind the claimed session+parent pubkeys";
const BAD_SESSION: &str = "sessionPubkey must be 64 lowercase hex chars";
const BAD_PARENT: &str = "parentMemberPubkey must be 64 lowercase hex chars";

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§2.3", an_uppercase_session_key_is_refused),
        check!("§2.3", an_uppercase_parent_key_is_refused),
        check!("§2.3", an_attestation_of_another_key_or_none_is_a_mismatch),
        check!("§2.3", an_attestation_in_the_past_has_expired),
        check!("§2.3", an_attestation_longer_than_a_day_is_refused),
        check!("§2.3", an_attestation_with_bad_hex_is_malformed),
        check!("§2.3", an_attestation_that_another_key_signed_is_refused),
        check!("§2.3", a_session_whose_clock_is_off_is_refused),
        check!("§2.3", a_session_signature_with_bad_hex_is_malformed),
        check!("§2.3", a_session_that_another_key_signed_is_refused),
        check!("§2.3", a_parent_that_is_no_member_is_refused),
        check!("§2.3", another_parents_id_is_refused),
        check!("§2.3", the_checks_of_a_session_hello_come_in_their_order),
    ]
}

async fn attestation_refused(bench: &Bench, who: &Persona, hello: Value, code: &str) -> Verdict {
    refused(bench, who, hello, code, &format!("attestation rejected: {code}")).await
}

async fn session_refused(bench: &Bench, who: &Persona, hello: Value, code: &str) -> Verdict {
    refused(bench, who, hello, code, &format!("session_hello rejected: {code}")).await
}

async fn an_uppercase_session_key_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.session_hello(bench.stamp());
    hello["sessionPubkey"] = json!(who.key().to_uppercase());
    refused(bench, &who, hello, "bad_session_pubkey", BAD_SESSION).await
}

async fn an_uppercase_parent_key_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.session_hello(bench.stamp());
    hello["parentMemberPubkey"] = json!(who.member.pubkey.to_uppercase());
    refused(bench, &who, hello, "bad_parent_pubkey", BAD_PARENT).await
}

async fn an_attestation_of_another_key_or_none_is_a_mismatch(bench: &Bench) -> Verdict {
    let (who, other) = (bench.anyone(), bench.anyone());
    for attestation in [other.attestation(bench.stamp() + DAY_MS / 2), Value::Null] {
        let mut hello = who.session_hello(bench.stamp());
        hello["parentAttestation"] = attestation;
        refused(bench, &who, hello, "attestation_mismatch", MISMATCH).await?;
    }
    Ok(())
}

async fn an_attestation_in_the_past_has_expired(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.session_hello(bench.stamp());
    hello["parentAttestation"] = who.attestation(bench.stamp() - 1000);
    attestation_refused(bench, &who, hello, "expired").await
}

async fn an_attestation_longer_than_a_day_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.session_hello(bench.stamp());
    hello["parentAttestation"] = who.attestation(bench.stamp() + DAY_MS + 60_000);
    attestation_refused(bench, &who, hello, "ttl_too_long").await
}

async fn an_attestation_with_bad_hex_is_malformed(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.session_hello(bench.stamp());
    hello["parentAttestation"]["signature"] = json!("zz");
    attestation_refused(bench, &who, hello, "malformed").await
}

async fn an_attestation_that_another_key_signed_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.session_hello(bench.stamp());
    hello["parentAttestation"]["signature"] = hello["signature"].clone();
    attestation_refused(bench, &who, hello, "bad_signature").await
}

async fn a_session_whose_clock_is_off_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    for off in [TOO_FAR_MS, -TOO_FAR_MS] {
        let hello = who.session_hello(bench.stamp() + off);
        session_refused(bench, &who, hello, "timestamp_skew").await?;
    }
    Ok(())
}

async fn a_session_signature_with_bad_hex_is_malformed(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.session_hello(bench.stamp());
    hello["signature"] = json!("zz");
    session_refused(bench, &who, hello, "malformed").await
}

async fn a_session_that_another_key_signed_is_refused(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut hello = who.session_hello(bench.stamp());
    bench.anyone().sign_session(&mut hello);
    session_refused(bench, &who, hello, "bad_signature").await
}

async fn a_parent_that_is_no_member_is_refused(bench: &Bench) -> Verdict {
    let who = nobody(bench);
    let hello = who.session_hello(bench.stamp());
    refused(bench, &who, hello, "unauthorized", "parent pubkey not found in mesh").await
}

async fn another_parents_id_is_refused(bench: &Bench) -> Verdict {
    let (who, other) = (bench.anyone(), bench.anyone());
    let mut hello = who.session_hello(bench.stamp());
    hello["parentMemberId"] = json!(other.member.id);
    let message = "parentMemberId does not match parentMemberPubkey";
    refused(bench, &who, hello, "parent_member_id_mismatch", message).await
}

async fn the_checks_of_a_session_hello_come_in_their_order(bench: &Bench) -> Verdict {
    let who = nobody(bench);
    let good = who.session_hello(bench.stamp());
    // Everything is wrong; each refusal mends what it names.
    let mut hello = good.clone();
    hello["sessionPubkey"] = json!("x");
    hello["parentMemberPubkey"] = json!("x");
    hello["parentAttestation"] = Value::Null;
    hello["timestamp"] = json!(bench.stamp() - TOO_FAR_MS);
    hello["signature"] = json!("zz");
    hello["parentMemberId"] = json!("x");
    refused(bench, &who, hello.clone(), "bad_session_pubkey", BAD_SESSION).await?;
    hello["sessionPubkey"] = good["sessionPubkey"].clone();
    refused(bench, &who, hello.clone(), "bad_parent_pubkey", BAD_PARENT).await?;
    hello["parentMemberPubkey"] = good["parentMemberPubkey"].clone();
    refused(bench, &who, hello.clone(), "attestation_mismatch", MISMATCH).await?;
    hello["parentAttestation"] = who.attestation(1000);
    hello["parentAttestation"]["signature"] = json!("zz");
    attestation_refused(bench, &who, hello.clone(), "expired").await?;
    hello["parentAttestation"] = good["parentAttestation"].clone();
    session_refused(bench, &who, hello.clone(), "timestamp_skew").await?;
    hello["timestamp"] = json!(bench.stamp());
    session_refused(bench, &who, hello.clone(), "malformed").await?;
    who.sign_session(&mut hello);
    refused(bench, &who, hello, "unauthorized", "parent pubkey not found in mesh").await
}
