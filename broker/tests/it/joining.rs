//! `POST /join`: becoming a member by invite (protocol-features §3.1).

use protocol::invite::Invite;
use serde_json::{Value, json};

use crate::support::node::{Answer, Kind, Member, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, fresh_key};

on_each_store!(
    an_invite_makes_a_member,
    a_member_does_not_use_an_invite_up,
    an_invite_is_used_as_often_as_it_says,
    an_invite_that_ended_is_refused,
    token_and_payload_say_the_same,
    a_key_that_is_anothers_makes_no_member,
);

fn token(mesh: &Mesh) -> String {
    mesh.invite_token().to_owned()
}

async fn join(node: &Node, token: &str, key: &str) -> Answer {
    let body = json!({"invite_token": token, "peer_pubkey": key, "display_name": "new"});
    node.post("/join", &body.to_string()).await
}

fn refused(answer: &Answer) -> String {
    assert_eq!((answer.status, &answer.json()["ok"]), (400, &json!(false)), "{answer:?}");
    answer.json()["error"].as_str().unwrap().to_owned()
}

async fn an_invite_makes_a_member(kind: Kind) {
    let (node, mesh) = scene(kind).await;
    let key = fresh_key();
    // Keys are kept in lower case, however they are written.
    let answer = join(&node, &token(&mesh), &key.public_hex().to_uppercase()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let told = answer.json();
    assert_eq!(told["ok"], true);
    let id = told["memberId"].as_str().unwrap().to_owned();
    let member = Member { id, name: "new".to_owned(), pubkey: key.public_hex(), key };
    let members = vec![member];
    let mesh = Mesh { members, invite_url: String::new(), id: mesh.id };
    let peer = TestPeer::join(&node, Hello::member(&mesh, "new")).await;
    assert_eq!(peer.hello_ack["memberDisplayName"], "new");
}

async fn a_member_does_not_use_an_invite_up(kind: Kind) {
    let (node, mesh) = scene(kind).await;
    node.sql("UPDATE mesh.invite SET max_uses = 1").await;
    let (one, two) = (fresh_key().public_hex(), fresh_key().public_hex());
    let first = join(&node, &token(&mesh), &one).await.json();
    let again = join(&node, &token(&mesh), &one).await.json();
    assert_eq!(first["memberId"], again["memberId"]);
    assert_eq!((first.get("alreadyMember"), &again["alreadyMember"]), (None, &json!(true)));
    assert_eq!(refused(&join(&node, &token(&mesh), &two).await), "invite_exhausted");
}

async fn an_invite_is_used_as_often_as_it_says(kind: Kind) {
    let (node, mesh) = scene(kind).await;
    node.sql("UPDATE mesh.invite SET max_uses = 3").await;
    let token = token(&mesh);
    let attempts = (0..8).map(|_| async { join(&node, &token, &fresh_key().public_hex()).await });
    let answers = futures_util::future::join_all(attempts).await;
    let joined = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(joined, 3, "{answers:?}");
    assert_eq!(node.count("SELECT count(*) FROM mesh.member").await, 4);
    // Two at once with one key are one member.
    node.sql("UPDATE mesh.invite SET max_uses = 100").await;
    let key = fresh_key().public_hex();
    let attempts = (0..4).map(|_| async { join(&node, &token, &key).await.json() });
    let answers = futures_util::future::join_all(attempts).await;
    let ids: Vec<_> = answers.iter().map(|told| told["memberId"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && id.is_string()), "{answers:?}");
    assert_eq!(node.count("SELECT count(*) FROM mesh.member").await, 5);
}

async fn an_invite_that_ended_is_refused(kind: Kind) {
    let (node, mesh) = scene(kind).await;
    let key = fresh_key().public_hex();
    let expired = match kind {
        Kind::Postgres => "UPDATE mesh.invite SET expires_at = now() - interval '1 minute'",
        Kind::Sqlite => "UPDATE mesh.invite SET expires_at = 1",
    };
    node.sql(expired).await;
    assert_eq!(refused(&join(&node, &token(&mesh), &key).await), "invite_expired");
    node.sql("UPDATE mesh.invite SET revoked_at = now()").await;
    assert_eq!(refused(&join(&node, &token(&mesh), &key).await), "invite_revoked");
    node.sql("DELETE FROM mesh.invite").await;
    assert_eq!(refused(&join(&node, &token(&mesh), &key).await), "invite_not_found");
    node.sql("UPDATE mesh.mesh SET archived_at = now()").await;
    assert_eq!(refused(&join(&node, &token(&mesh), &key).await), "mesh_not_found");
}

async fn token_and_payload_say_the_same(kind: Kind) {
    let (node, mesh) = scene(kind).await;
    let key = fresh_key().public_hex();
    let token = token(&mesh);
    let invite = Invite::from_token(&token).unwrap();
    let with = |payload: Value| {
        json!({
            "invite_token": token, "invite_payload": payload, "peer_pubkey": key,
            "display_name": "new",
        })
    };
    let mut other = json!(invite);
    other["role"] = json!("admin");
    let answer = node.post("/join", &with(other).to_string()).await;
    assert_eq!(refused(&answer), "invite_mismatch");
    // One's own signature is not the owner's.
    let thief = fresh_key();
    let forged =
        Invite { owner_pubkey: thief.public_hex(), role: "admin".into(), ..invite.clone() };
    let forged = forged.signed(&thief);
    assert_eq!(refused(&join(&node, &forged.token(), &key).await), "invite_owner_mismatch");
    let unsigned = Invite { role: "admin".into(), ..invite.clone() };
    assert_eq!(refused(&join(&node, &unsigned.token(), &key).await), "invite_bad_signature");
    assert_eq!(refused(&join(&node, "nonsense", &key).await), "invite_bad_signature");
    assert_eq!(node.post("/join", &with(json!(invite)).to_string()).await.status, 200);
    for (field, value) in [("peer_pubkey", "short"), ("display_name", " ")] {
        let mut body = with(json!(invite));
        body[field] = json!(value);
        let answer = node.post("/join", &body.to_string()).await;
        assert!(refused(&answer).starts_with(field), "{answer:?}");
    }
    assert_eq!(node.post("/join", "{").await.status, 400);
}

/// Nobody shows with a join that the key is its own.
async fn a_key_that_is_anothers_makes_no_member(kind: Kind) {
    let (node, mesh) = scene(kind).await;
    let mut session = TestPeer::session(&node, &mesh, "ana").await;
    let owner = Invite::from_token(&token(&mesh)).unwrap().owner_pubkey;
    for key in [session.hello.pubkey(), owner] {
        for key in [key.to_uppercase(), key] {
            assert_eq!(refused(&join(&node, &token(&mesh), &key).await), "key_taken");
        }
    }
    assert_eq!(node.count("SELECT count(*) FROM mesh.member").await, 1);
    assert_eq!(node.count("SELECT count(*) FROM mesh.invite WHERE used_count > 0").await, 0);
    let presence = session.presence();
    session.vanish();
    session.reconnect().await;
    assert_eq!(session.presence(), presence);
}

async fn scene(kind: Kind) -> (Node, Mesh) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    (node, mesh)
}
