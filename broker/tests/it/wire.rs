//! What is on the wire when all goes well: fields, targets, verbs, HTTP.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, envelope};
use crate::support::socket::{Habit, Socket, is_envelope, is_event};
use crate::support::until;

on_each_store!(
    a_hello_ack_tells_who_one_is,
    a_push_says_where_it_comes_from,
    a_broadcast_reaches_the_other_members,
    a_group_reaches_those_in_it_and_below,
    mail_to_a_member_reaches_one_of_its_connections,
    mail_to_ones_own_member_reaches_a_session,
    peers_are_listed_with_their_own_particulars,
    joining_is_announced,
    a_messages_status_follows_it,
    a_message_is_found_by_the_beginning_of_its_id,
    health_and_readiness_are_told,
);

async fn a_hello_ack_tells_who_one_is(kind: Kind) {
    let (node, _ana, mut ben, mesh) = two_peers(kind).await;
    let fields = ["presenceId", "memberDisplayName", "memberProfile", "meshPolicy", "services"];
    let ack = &ben.hello_ack;
    for field in fields {
        assert!(!ack[field].is_null(), "no {field} in {ack}");
    }
    assert_eq!(ben.presence().len(), 32);
    assert_eq!(ack["memberDisplayName"], "ben");
    let profile = json!({"roleTag": null, "groups": [], "messageMode": "push"});
    assert_eq!(ack["memberProfile"], profile);
    let editable =
        json!({"displayName": true, "roleTag": true, "groups": true, "messageMode": true});
    assert_eq!(ack["meshPolicy"]["selfEditable"], editable);
    assert_eq!(ack["services"], json!([]));
    // A session that comes back gets no profile; a member's own connection does.
    ben.reconnect().await;
    assert!(ben.hello_ack["memberProfile"].is_null(), "{}", ben.hello_ack);
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    daemon.reconnect().await;
    assert_eq!(daemon.hello_ack["memberProfile"], profile);
    assert_eq!(daemon.hello_ack["memberDisplayName"], "ben");
}

async fn a_push_says_where_it_comes_from(kind: Kind) {
    let (_node, mut ana, mut ben, mesh) = two_peers(kind).await;
    let send = json!({
        "type": "send", "id": "s1", "targetSpec": ben.hello.pubkey(), "priority": "now",
        "nonce": "bm9uY2U=", "ciphertext": "aGVsbG8=", "client_message_id": "c1",
        "request_fingerprint": "f1", "replyToId": "m0",
    });
    let id = ana.send_frame(&send).await.acknowledged();
    let mut push = ben.next_push().await;
    let created = push.as_object_mut().unwrap().remove("createdAt").unwrap();
    let ana_member = mesh.member("ana");
    assert_eq!(
        push,
        json!({
            "type": "push", "messageId": id, "meshId": mesh.id, "senderPubkey": ana.hello.pubkey(),
            "priority": "now", "nonce": "bm9uY2U=", "ciphertext": "aGVsbG8=",
            "senderMemberPubkey": ana_member.pubkey, "senderMemberId": ana_member.id,
            "senderName": "ana", "replyToId": "m0", "client_message_id": "c1",
            "request_fingerprint": "f1",
        })
    );
    is_iso(&created);
    // What the reference's clients may leave out is left out.
    let send = json!({"type": "send", "targetSpec": "*", "nonce": "", "ciphertext": "plain"});
    ana.post(&send).await;
    assert_eq!(ana.ack_of("").await.acknowledged().len(), 32);
    let push = ben.next_push().await;
    assert_eq!(push["priority"], "next");
    for absent in ["client_message_id", "request_fingerprint", "replyToId", "subtype"] {
        assert!(push[absent].is_null(), "{absent} in {push}");
    }
}

async fn a_broadcast_reaches_the_other_members(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind).await;
    let mut sister = TestPeer::session(&node, &mesh, "ana").await;
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    for target in ["*", "@all"] {
        let id = ana.send(target, target).await.acknowledged();
        for peer in [&mut ben, &mut daemon] {
            let push = peer.next_push().await;
            assert_eq!((&push["messageId"], &push["ciphertext"]), (&json!(id), &json!(target)));
            assert_eq!(push["senderMemberPubkey"], mesh.member("ana").pubkey);
        }
    }
    assert_eq!(sister.texts().await, [""; 0]);
    assert_eq!(ana.texts().await, [""; 0]);
}

async fn a_group_reaches_those_in_it_and_below(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind).await;
    let within = |group: &str| {
        Hello::session(&mesh, "eve").with(&json!({"groups": [{"name": group, "role": "lead"}]}))
    };
    let mut team = TestPeer::join(&node, within("team")).await;
    let mut below = TestPeer::join(&node, within("team/red")).await;
    let mut beside = TestPeer::join(&node, within("teams")).await;
    ana.send("@team", "all of the team").await.acknowledged();
    ana.send("@team/red", "the red ones").await.acknowledged();
    // Nobody is in it: accepted, as in the reference.
    ana.send("@nobody", "nobody").await.acknowledged();
    assert_eq!(team.next().await, "all of the team");
    assert_eq!(below.next().await, "all of the team");
    assert_eq!(below.next().await, "the red ones");
    for peer in [&mut team, &mut below, &mut beside, &mut ben] {
        assert_eq!(peer.texts().await, [""; 0]);
    }
}

async fn mail_to_a_member_reaches_one_of_its_connections(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind).await;
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    let key = mesh.member("ben").pubkey.clone();
    ana.send(&key, "one").await.acknowledged();
    assert_eq!(ben.next().await, "one");
    assert_eq!(daemon.texts().await, [""; 0]);
    let mut sole = TestPeer::member(&node, &mesh, "eve").await;
    ana.send(&mesh.member("eve").pubkey, "two").await.acknowledged();
    let push = sole.next_push().await;
    assert_eq!(push["senderMemberPubkey"], mesh.member("ana").pubkey);
}

/// A member's own connection drops what comes from its own member (protocol-core §11.2).
async fn mail_to_ones_own_member_reaches_a_session(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind).await;
    let mut daemon = TestPeer::member(&node, &mesh, "ana").await;
    let key = mesh.member("ana").pubkey.clone();
    daemon.send(&key, "from the daemon").await.acknowledged();
    assert_eq!(ana.next().await, "from the daemon");
    let mut sister = TestPeer::session(&node, &mesh, "ana").await;
    ana.send(&key, "from a session").await.acknowledged();
    assert_eq!(sister.next().await, "from a session");
    assert_eq!(daemon.texts().await, [""; 0]);
    // With nobody else but the daemon, it gets it, and is not told that it comes from itself.
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    let mut eves = TestPeer::member(&node, &mesh, "eve").await;
    eve.send(&mesh.member("eve").pubkey, "to the daemon").await.acknowledged();
    let push = eves.next_push().await;
    assert!(push["senderMemberPubkey"].is_null(), "{push}");
    assert_eq!(push["senderPubkey"], eve.hello.pubkey());
}

async fn peers_are_listed_with_their_own_particulars(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind).await;
    let own = json!({
        "displayName": "the eve", "sessionId": "s-1", "cwd": "/work", "hostname": "h",
        "channel": "claudemesh-session", "model": "m", "peerType": "ai",
        "groups": [{"name": "g", "role": "r"}, {"name": "h"}],
    });
    let eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&own)).await;
    TestPeer::member(&node, &mesh, "eve").await;
    let mut peers = ana.peers().await;
    let names: Vec<_> = peers.iter().map(|peer| peer["displayName"].clone()).collect();
    assert_eq!(names, ["ana", "ben", "the eve", "eve"]);
    let roles: Vec<_> = peers.iter().map(|peer| peer["peerRole"].clone()).collect();
    assert_eq!(roles, ["session", "session", "session", "control-plane"]);
    assert_eq!(peers[3]["pubkey"], mesh.member("eve").pubkey);
    let row = peers[2].as_object_mut().unwrap();
    is_iso(&row.remove("connectedAt").unwrap());
    assert_eq!(
        peers[2],
        json!({
            "pubkey": eve.hello.pubkey(), "memberPubkey": mesh.member("eve").pubkey,
            "displayName": "the eve", "status": "idle", "summary": null,
            "groups": [{"name": "g", "role": "r"}, {"name": "h"}], "sessionId": "s-1", "cwd": "/work",
            "peerRole": "session", "hostname": "h", "peerType": "ai", "channel": "claudemesh-session",
            "model": "m", "visible": true,
        })
    );
    // Without an id the list comes without one.
    ana.post(&json!({"type": "list_peers"})).await;
    let list = ana.take("the list", |frame| frame["type"] == "peers_list").await;
    assert!(list.get("_reqId").is_none(), "{list}");
}

async fn joining_is_announced(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind).await;
    let groups = json!({"groups": [{"name": "g"}]});
    let eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&groups)).await;
    let event = ana.take("the event", is_event).await;
    let data = json!({
        "name": "eve", "displayName": "eve", "pubkey": eve.hello.pubkey(),
        "groups": [{"name": "g"}],
    });
    assert_eq!(event["eventData"], data);
    let expected = [
        ("event", "peer_joined"),
        ("senderPubkey", "system"),
        ("priority", "low"),
        ("nonce", ""),
        ("ciphertext", ""),
        ("meshId", &mesh.id),
    ];
    for (field, value) in expected {
        assert_eq!(event[field], value, "{field}");
    }
    assert_eq!(event["messageId"].as_str().unwrap().len(), 36);
    is_iso(&event["createdAt"]);
}

async fn a_messages_status_follows_it(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind).await;
    ben.become_one_that(Habit::Reads);
    let id = ana.send(&ben, "one").await.acknowledged();
    let ask = json!({"type": "message_status", "messageId": id});
    let held =
        |status: &str| json!([{"name": "ben", "pubkey": ben.hello.pubkey(), "status": status}]);
    let (waiting, done) = (held("held"), held("delivered"));
    let status = ana.ask(ask.clone()).await;
    assert_eq!(status["type"], "message_status_result");
    assert_eq!(status["messageId"], id);
    assert_eq!(status["targetSpec"], ben.hello.pubkey());
    assert_eq!((&status["delivered"], &status["deliveredAt"]), (&json!(false), &Value::Null));
    assert_eq!(status["recipients"], waiting);
    ben.post(&json!({"type": "client_ack", "brokerMessageId": id})).await;
    until("the ack confirms", async || ana.is_delivered(&id).await).await;
    let status = ana.ask(ask).await;
    is_iso(&status["deliveredAt"]);
    assert_eq!(status["recipients"], done);
}

async fn a_message_is_found_by_the_beginning_of_its_id(kind: Kind) {
    let (_node, mut ana, ben, _) = two_peers(kind).await;
    let id = ana.send(&ben, "one").await.acknowledged();
    for length in [8, 20, 32] {
        let prefix = &id[..length];
        let status = ana.ask(json!({"type": "message_status", "messageId": prefix})).await;
        assert_eq!(
            (&status["messageId"], &status["targetSpec"]),
            (&json!(prefix), &json!(ben.hello.pubkey()))
        );
    }
    let ask = |id: &str| json!({"type": "message_status", "messageId": id});
    let errors = [
        ("zzzzzzzz", "not_found", "message not found"),
        ("1234567", "invalid_argument", "messageId must be 8-32 base62 chars (got 7)"),
        ("1234567-", "invalid_argument", "messageId must be 8-32 base62 chars (got 8)"),
        ("", "invalid_argument", "messageId must be 8-32 base62 chars (got 0)"),
    ];
    for (id, code, message) in errors {
        let error = ana.ask(ask(id)).await;
        assert_eq!((&error["code"], &error["message"]), (&json!(code), &json!(message)));
        assert_eq!(error["id"], error["_reqId"]);
    }
}

async fn health_and_readiness_are_told(kind: Kind) {
    let node = Node::start(kind, &[("GIT_SHA", "abc123")]).await;
    until("the node is ready", async || node.http("GET", "/health/ready").await.status == 200)
        .await;
    let ready = node.http("GET", "/health/ready").await.json();
    assert_eq!((&ready["status"], &ready["gitSha"]), (&json!("ready"), &json!("abc123")));
    let health = node.http("GET", "/health").await;
    assert_eq!(health.status, 200);
    assert!(health.header("content-type").unwrap().starts_with("application/json"));
    let health = health.json();
    let version = env!("CARGO_PKG_VERSION");
    let expected = [("status", "ok"), ("db", "up"), ("gitSha", "abc123"), ("version", version)];
    for (field, value) in expected {
        assert_eq!(health[field], value, "{health}");
    }
    assert!(health["uptime"].is_number(), "{health}");
}

#[tokio::test]
async fn other_verbs_are_not_implemented_yet() {
    let (_node, mut ana, ..) = two_peers(Kind::Sqlite).await;
    for verb in ["set_state", "create_task", "mcp_call", "topic_list", "remember"] {
        let error = ana.ask(json!({"type": verb, "id": "ignored"})).await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("not_implemented")));
        assert_eq!(error["id"], error["_reqId"]);
    }
    // Without an id nobody waits: older clients would take it for the answer to something else.
    ana.post(&json!({"type": "remember", "content": "s"})).await;
    ana.round_trip().await;
    assert_eq!(ana.take_kept(|_| true), Vec::<Value>::new());
}

#[tokio::test]
async fn metrics_have_the_references_names() {
    let (node, mut ana, ben, _) = two_peers(Kind::Sqlite).await;
    ana.send(&ben, "hello").await.acknowledged();
    let answer = node.http("GET", "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for name in [
        "broker_connections_total",
        "broker_connections_active",
        "broker_queue_depth",
        "broker_db_healthy",
        "broker_legacy_auth_hits_total",
        "broker_hook_requests_total",
        "broker_hook_requests_rate_limited_total",
        "broker_connections_rejected_total",
        "broker_messages_routed_total",
        "broker_messages_rejected_total",
        "broker_messages_dropped_by_grant_total",
        "broker_ttl_sweeps_total",
    ] {
        assert!(answer.body.lines().any(|line| line.starts_with(name)), "no {name}");
    }
    assert_eq!(node.metric("broker_connections_active").await, Some(2.0));
    assert_eq!(node.metric("broker_connections_total").await, Some(2.0));
    let routed = "broker_messages_routed_total{priority=\"next\"}";
    until("the push is counted", async || node.metric(routed).await == Some(1.0)).await;
    for histogram in ["ack", "delivery", "commit"] {
        let named = |line: &&str| line.contains(histogram) && line.contains("_bucket{");
        assert!(answer.body.lines().any(|line| named(&line)), "no histogram of {histogram}");
    }
}

#[tokio::test]
async fn refusals_are_counted() {
    let (node, mut ana, _ben, mesh) = two_peers(Kind::Sqlite).await;
    ana.send("nobody", "one").await.refused();
    ana.post_text("{").await;
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&Hello::session(&mesh, "ana").frame_at(0)).await;
    socket.ended().await;
    ana.round_trip().await;
    for metric in [
        "broker_messages_rejected_total{reason=\"no_recipient\"}",
        "broker_messages_rejected_total{reason=\"parse_or_handler\"}",
    ] {
        assert_eq!(node.metric(metric).await, Some(1.0), "{metric}");
    }
    let expired = "broker_connections_rejected_total{reason=\"attestation_expired\"}";
    assert_eq!(node.metric(expired).await, Some(1.0));
}

#[tokio::test]
async fn other_paths_are_not_found() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    for (method, path) in [("GET", "/ws"), ("GET", "/"), ("POST", "/health"), ("GET", "/nowhere")] {
        let answer = node.http(method, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "not found"), "{method} {path}");
        assert_eq!(answer.header("content-type"), None, "{method} {path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    for path in ["/ws", "/health", "/nowhere"] {
        let answer = node.http("OPTIONS", path).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let methods = answer.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("POST, GET, OPTIONS"), "{methods}");
        let headers = answer.header("access-control-allow-headers").unwrap();
        assert!(headers.contains("X-Mesh-Id"), "{headers}");
    }
}

/// RFC 6455 §5.5.1; browsers and clients that wait for it see 1006 otherwise.
#[tokio::test]
async fn a_clients_close_is_answered() {
    let (node, _ana, mut ben, _) = two_peers(Kind::Sqlite).await;
    let code = tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Normal;
    let close = tokio_tungstenite::tungstenite::protocol::CloseFrame { code, reason: "bye".into() };
    ben.post_message(Message::Close(Some(close.clone()))).await;
    assert_eq!(ben.close_frame().await.0, 1000);
    let mut silent = Socket::open(&node.address()).await;
    silent.post_message(Message::Close(Some(close))).await;
    assert_eq!(silent.close_frame().await.0, 1000);
}

/// Frames as large as clients send them.
#[tokio::test]
async fn a_large_message_passes_whole() {
    let settings = [("MAX_MESSAGE_BYTES", "2000000")];
    let node = Node::start(Kind::Sqlite, &settings).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    let body = "x".repeat(1_400_000);
    for number in 0..4 {
        let mut send = envelope(&ben, &number.to_string());
        send["ciphertext"] = json!(body);
        ana.send_frame(&send).await.acknowledged();
        let push = ben.take("the large push", is_envelope).await;
        assert_eq!(push["ciphertext"].as_str().unwrap().len(), body.len());
    }
}

fn is_iso(time: &Value) {
    let text = time.as_str().unwrap();
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");
}

async fn two_peers(kind: Kind) -> (Node, TestPeer, TestPeer, Mesh) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    ana.expect_event("peer_joined", "ben").await;
    (node, ana, ben, mesh)
}
