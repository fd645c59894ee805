//! `POST /join` with a v1 invite (protocol-features §3.1).

use protocol::invite::Invite;
use protocol::signature::Keypair;
use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, is_row_id, same, text};
use super::peer::Peer;
use super::persona::Persona;
use super::web::{Request, Response};
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§3.1*", a_key_joins_by_invite_and_says_hello),
        check!("§3.1*", a_member_that_joins_again_is_already_one),
        check!("§3.1*", a_join_that_is_no_json_is_a_bad_request, [], "400, not 500"),
        check!("§3.1*", an_invite_that_was_changed_has_a_bad_signature),
        check!("§3.1*", an_invite_of_another_key_has_another_owner),
        check!("§3.1*", an_invite_that_was_never_made_is_not_found),
        check!("§3.1*", an_invite_to_no_mesh_finds_no_mesh),
        check!(
            "§3.1*",
            a_payload_that_is_not_the_tokens_is_a_mismatch,
            [],
            "the reference believes the payload"
        ),
        check!("§8", a_join_that_is_too_large_is_413),
    ]
}

/// The mesh's invite.
fn invite(bench: &Bench) -> Verdict<Invite> {
    let url = bench.mesh.invite_url.as_deref();
    let token = url.and_then(|url| url.rsplit('/').next());
    let token = token.ok_or_else(|| Fault::skipped("no invite_url in the mesh file"))?;
    Invite::from_token(token).ok_or_else(|| Fault::failed("invite_url is no v1 invite"))
}

/// The key that signs the mesh's invites.
fn owner(bench: &Bench) -> Verdict<Keypair> {
    let secret = bench.mesh.owner_secret_key.as_deref();
    let secret = secret.ok_or_else(|| Fault::skipped("no owner_secret_key in the mesh file"))?;
    Keypair::from_secret_hex(secret).map_err(|error| Fault::Failed(error.to_string()))
}

/// A key that is the same in every run, so that runs do not use the invite up.
fn newcomer(bench: &Bench, seed: u8) -> Keypair {
    let grown = bench.admin().parent.sign(&format!("conformance newcomer {seed}"));
    let mut bytes = [seed; 32];
    for (byte, digit) in bytes.iter_mut().zip(grown.into_bytes()) {
        *byte = byte.wrapping_add(digit);
    }
    Keypair::from_seed(&bytes)
}

async fn post(bench: &Bench, body: &str) -> Verdict<Response> {
    bench.http(Request { method: "POST", path: "/join", headers: &[], body }).await
}

async fn join(
    bench: &Bench,
    invite: &Invite,
    payload: Value,
    key: &str,
    name: &str,
) -> Verdict<Response> {
    let body = json!({
        "invite_token": invite.token(), "invite_payload": payload,
        "peer_pubkey": key, "display_name": name,
    });
    post(bench, &body.to_string()).await
}

fn said(invite: &Invite) -> Value {
    serde_json::to_value(invite).unwrap_or_default()
}

/// Makes a key a member under this name, if it is none yet, and gives the persona.
pub(super) async fn joined(bench: &Bench, seed: u8, name: &str) -> Verdict<Persona> {
    let (invite, pair) = (invite(bench)?, newcomer(bench, seed));
    let key = pair.public_hex();
    let response = join(bench, &invite, said(&invite), &key, name).await?;
    let reply = response.json();
    same("status", response.status, 200)?;
    has(&reply, &json!({ "ok": true }))?;
    let id = text(&reply, "memberId");
    ensure(is_row_id(id), || format!("memberId is {id:?}"))?;
    let mut who = bench.stranger();
    id.clone_into(&mut who.member.id);
    who.member.pubkey = key;
    name.clone_into(&mut who.member.display_name);
    name.clone_into(&mut who.display_name);
    who.parent = pair;
    Ok(who)
}

/// Joins with this key and is refused with this code.
pub(super) async fn refused(bench: &Bench, key: &str, code: &str) -> Verdict {
    let invite = invite(bench)?;
    let payload = said(&invite);
    refusal(&join(bench, &invite, payload, key, "nobody").await?, code)
}

fn refusal(response: &Response, code: &str) -> Verdict {
    same("status", response.status, 400)?;
    has(&response.json(), &json!({ "ok": false, "error": code }))
}

async fn spoilt(bench: &Bench, invite: Invite, code: &str) -> Verdict {
    let key = newcomer(bench, 2).public_hex();
    let payload = said(&invite);
    refusal(&join(bench, &invite, payload, &key, "nobody").await?, code)
}

async fn a_key_joins_by_invite_and_says_hello(bench: &Bench) -> Verdict {
    let who = joined(bench, 0, "Newcomer").await?;
    let peer = Peer::session(bench, who.named("")).await?;
    has(&peer.greeting, &json!({ "memberDisplayName": "Newcomer" }))
}

async fn a_member_that_joins_again_is_already_one(bench: &Bench) -> Verdict {
    let (invite, who) = (invite(bench)?, bench.anyone());
    let response = join(bench, &invite, said(&invite), &who.member.pubkey, "Again").await?;
    same("status", response.status, 200)?;
    let want = json!({ "ok": true, "alreadyMember": true, "memberId": who.member.id });
    has(&response.json(), &want)
}

async fn a_join_that_is_no_json_is_a_bad_request(bench: &Bench) -> Verdict {
    for body in ["{", "null"] {
        let response = post(bench, body).await?;
        same("status", response.status, 400)?;
        has(&response.json(), &json!({ "ok": false }))?;
    }
    Ok(())
}

async fn an_invite_that_was_changed_has_a_bad_signature(bench: &Bench) -> Verdict {
    let mut changed = invite(bench)?;
    "admin".clone_into(&mut changed.role);
    spoilt(bench, changed, "invite_bad_signature").await
}

async fn an_invite_of_another_key_has_another_owner(bench: &Bench) -> Verdict {
    let mut invite = invite(bench)?;
    let forger = newcomer(bench, 3);
    invite.owner_pubkey = forger.public_hex();
    spoilt(bench, invite.signed(&forger), "invite_owner_mismatch").await
}

async fn an_invite_that_was_never_made_is_not_found(bench: &Bench) -> Verdict {
    let mut other = invite(bench)?;
    other.expires_at += 1;
    spoilt(bench, other.signed(&owner(bench)?), "invite_not_found").await
}

async fn an_invite_to_no_mesh_finds_no_mesh(bench: &Bench) -> Verdict {
    let mut other = invite(bench)?;
    "NoSuchMesh0NoSuchMesh0NoSuchMesh".clone_into(&mut other.mesh_id);
    spoilt(bench, other.signed(&owner(bench)?), "mesh_not_found").await
}

async fn a_payload_that_is_not_the_tokens_is_a_mismatch(bench: &Bench) -> Verdict {
    let good = invite(bench)?;
    let mut other = good.clone();
    "admin".clone_into(&mut other.role);
    let payload = said(&other.signed(&owner(bench)?));
    let key = newcomer(bench, 4).public_hex();
    refusal(&join(bench, &good, payload, &key, "nobody").await?, "invite_mismatch")
}

async fn a_join_that_is_too_large_is_413(bench: &Bench) -> Verdict {
    let body = json!({ "invite_token": "x".repeat(70_000) }).to_string();
    same("status", post(bench, &body).await?.status, 413)
}
