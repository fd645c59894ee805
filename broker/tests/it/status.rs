//! Whether a peer may be disturbed, and that what waits comes as soon as it may (defect 7).

use serde_json::{Value, json};

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben, envelope};
use crate::support::socket::Habit;
use crate::support::until;

on_each_store!(
    a_busy_peer_gets_what_is_urgent_and_the_rest_when_it_is_idle,
    a_member_is_reached_through_whoever_is_not_busy,
    a_hooks_word_holds_for_a_while,
    nobody_is_working_for_ever,
    only_the_peer_itself_ends_dnd,
    a_hook_names_a_session_or_else_a_process,
    a_hook_that_could_mean_two_people_means_nobody,
    a_hook_ahead_of_its_session_waits_for_it,
    a_directory_alone_means_nobody_without_a_token,
    a_hooks_numbers_may_be_texts,
    a_status_outlives_its_connection,
);

async fn a_busy_peer_gets_what_is_urgent_and_the_rest_when_it_is_idle(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind, &[]).await;
    for status in ["working", "dnd"] {
        ben.post(&json!({"type": "set_status", "status": status})).await;
        ben.round_trip().await;
        for (text, priority) in [("a", "next"), ("b", "low"), ("c", "now")] {
            let mut send = envelope(&ben, &format!("{status} {text}"));
            send["priority"] = json!(priority);
            ana.send_frame(&send).await.acknowledged();
        }
        assert_eq!(ben.next().await, format!("{status} c"));
        assert_eq!(ben.texts().await, [""; 0]);
        ben.post(&json!({"type": "set_status", "status": "idle"})).await;
        assert_eq!(ben.next().await, format!("{status} a"));
        assert_eq!(ben.next().await, format!("{status} b"));
    }
}

async fn a_member_is_reached_through_whoever_is_not_busy(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind, &[]).await;
    let mut other = TestPeer::session(&node, &mesh, "ben").await;
    let key = mesh.member("ben").pubkey.clone();
    ben.post(&json!({"type": "set_status", "status": "working"})).await;
    ben.round_trip().await;
    ana.send(&key, "one").await.acknowledged();
    assert_eq!(other.next().await, "one");
    other.post(&json!({"type": "set_status", "status": "working"})).await;
    other.round_trip().await;
    ana.send(&key, "two").await.acknowledged();
    assert_eq!((other.texts().await, ben.texts().await), (vec![], vec![]));
    ben.post(&json!({"type": "set_status", "status": "idle"})).await;
    assert_eq!(ben.next().await, "two");
}

async fn a_hooks_word_holds_for_a_while(kind: Kind) {
    let (node, mut ana, mut ben, _) = two_peers(kind, &[("HOOK_FRESH_WINDOW_SECONDS", "1")]).await;
    let answer = hook(&node, &session_hook(&ben, "working")).await;
    assert_eq!(answer["presence_id"], ben.presence());
    ana.send(&ben, "later").await.acknowledged();
    // Nothing happens but that time passes.
    assert_eq!(ben.next().await, "later");
    assert_eq!(status_of(&mut ana, "ben").await, "idle");
}

async fn nobody_is_working_for_ever(kind: Kind) {
    let (node, mut ana, mut ben, _) = two_peers(kind, &[("STATUS_TTL_SECONDS", "1")]).await;
    ben.post(&json!({"type": "set_status", "status": "working"})).await;
    ben.round_trip().await;
    ana.send(&ben, "later").await.acknowledged();
    assert_eq!(ben.next().await, "later");
    assert_eq!(status_of(&mut ana, "ben").await, "idle");
    let swept = "broker_ttl_sweeps_total{flipped=\"some\"}";
    until("it is counted", async || node.metric(swept).await == Some(1.0)).await;
}

async fn only_the_peer_itself_ends_dnd(kind: Kind) {
    let (node, mut ana, mut ben, _) = two_peers(kind, &[]).await;
    ben.post(&json!({"type": "set_status", "status": "dnd"})).await;
    ben.round_trip().await;
    for status in ["idle", "working"] {
        assert_eq!(hook(&node, &session_hook(&ben, status)).await["ok"], true);
        assert_eq!(status_of(&mut ana, "ben").await, "dnd");
    }
    let refused = node.post("/hook/set-status", &session_hook(&ben, "dnd").to_string()).await;
    assert_eq!((refused.status, &refused.json()["ok"]), (400, &json!(false)));
}

async fn a_hook_names_a_session_or_else_a_process(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind, &[]).await;
    let at = |id: &str, pid: u32| {
        let place = json!({"sessionId": id, "cwd": "/app", "pid": pid, "displayName": id});
        Hello::session(&mesh, "eve").with(&place)
    };
    let _one = TestPeer::join(&node, at("one", 1)).await;
    let _two = TestPeer::join(&node, at("two", 2)).await;
    let told = |id: Value, pid: u32, status: &str| json!({"session_id": id, "cwd": "/app", "pid": pid, "status": status});
    // The session's name counts, whatever else is said.
    hook(&node, &told(json!("one"), 2, "working")).await;
    assert_eq!(statuses(&mut ana, ["one", "two"]).await, ["working", "idle"]);
    // A session nobody knows is found by where it runs.
    hook(&node, &told(json!("unknown"), 2, "working")).await;
    hook(&node, &told(Value::Null, 1, "idle")).await;
    assert_eq!(statuses(&mut ana, ["one", "two"]).await, ["idle", "working"]);
}

/// Defects 18 and 23: one tenant's `/app`, pid 1, must not flip another's.
async fn a_hook_that_could_mean_two_people_means_nobody(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind, &[]).await;
    let other = node.mesh("blue", &["dan"]).await;
    let place = json!({"cwd": "/app", "pid": 1});
    let _eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&place)).await;
    let mut dan = TestPeer::join(&node, Hello::session(&other, "dan").with(&place)).await;
    let answer = hook(&node, &json!({"cwd": "/app", "pid": 1, "status": "working"})).await;
    assert_eq!(answer, json!({"ok": true, "pending": true}));
    assert_eq!(status_of(&mut ana, "eve").await, "idle");
    assert_eq!(status_of(&mut dan, "dan").await, "idle");
    // Nor does it wait for whoever comes next.
    let more = Hello::session(&other, "dan").with(&json!({"displayName": "more"})).with(&place);
    let _more = TestPeer::join(&node, more).await;
    assert_eq!(status_of(&mut dan, "more").await, "idle");
}

async fn a_hook_ahead_of_its_session_waits_for_it(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind, &[]).await;
    let place = json!({"sessionId": "s-9", "cwd": "/new", "pid": 9, "displayName": "new"});
    let answer = hook(&node, &json!({"cwd": "/new", "pid": 9, "status": "working"})).await;
    assert_eq!(answer, json!({"ok": true, "pending": true}));
    let _eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&place)).await;
    assert_eq!(status_of(&mut ana, "new").await, "working");
    // It was for one.
    let next = Hello::session(&mesh, "eve").with(&place).with(&json!({"displayName": "next"}));
    let _next = TestPeer::join(&node, next).await;
    assert_eq!(status_of(&mut ana, "next").await, "idle");
}

/// Every mate sees the directories of the others; what `pid` it is, nobody does.
async fn a_directory_alone_means_nobody_without_a_token(kind: Kind) {
    let place = json!({"sessionId": "s-1", "cwd": "/app", "pid": 1, "displayName": "eve"});
    let told = json!({"cwd": "/app", "status": "working"}).to_string();
    let (node, mut ana, _ben, mesh) = two_peers(kind, &[]).await;
    let _eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&place)).await;
    for body in [
        told.clone(),
        json!({"cwd": "/app", "status": "working", "pid": null, "session_id": ""}).to_string(),
        json!({"cwd": "/app", "status": "working", "session_id": "another"}).to_string(),
        json!({"cwd": "/app", "status": "working", "pid": "none"}).to_string(),
    ] {
        let answer = node.post("/hook/set-status", &body).await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"ok": true, "pending": true})),
            "{body}"
        );
        assert_eq!(status_of(&mut ana, "eve").await, "idle", "{body}");
    }
    // Nor does it wait for whoever comes next.
    let next = Hello::session(&mesh, "eve").with(&place).with(&json!({"displayName": "next"}));
    let _next = TestPeer::join(&node, next).await;
    assert_eq!(status_of(&mut ana, "next").await, "idle");

    let (node, mut ana, _ben, mesh) = two_peers(kind, &[("HOOK_TOKEN", "sesame")]).await;
    let eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&place)).await;
    // A token is enough, whatever page it comes from.
    let token = "Authorization: Bearer sesame\r\nOrigin: https://app.example\r\n";
    let answer = node.request("POST", "/hook/set-status", token, &told).await;
    assert_eq!(answer.json()["presence_id"], eve.presence(), "{answer:?}");
    assert_eq!(status_of(&mut ana, "eve").await, "working");
}

async fn a_hooks_numbers_may_be_texts(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind, &[]).await;
    let place = json!({"cwd": "/app", "pid": 123, "displayName": "eve"});
    let eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&place)).await;
    let mut status = "working";
    for pid in ["123", "\"123\"", "\" 123\"", "123.0", "1.23e2"] {
        let body = format!(r#"{{"cwd":"/app","status":"{status}","pid":{pid}}}"#);
        let answer =
            node.request("POST", "/hook/set-status", "Content-Type: text/plain\r\n", &body).await;
        assert_eq!(answer.json(), json!({"ok": true, "presence_id": eve.presence()}), "{body}");
        assert_eq!(status_of(&mut ana, "eve").await, status, "{body}");
        status = if status == "idle" { "working" } else { "idle" };
    }
}

async fn a_status_outlives_its_connection(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind, &[]).await;
    ben.post(&json!({"type": "set_status", "status": "dnd"})).await;
    ben.round_trip().await;
    ben.become_one_that(Habit::Acks);
    ben.vanish();
    ana.send(&ben, "for later").await.acknowledged();
    ben.reconnect().await;
    assert_eq!(ben.texts().await, [""; 0]);
    ben.post(&json!({"type": "set_status", "status": "idle"})).await;
    assert_eq!(ben.next().await, "for later");
}

#[tokio::test]
async fn a_hook_is_refused_in_words() {
    let node = Node::start(Kind::Sqlite, &[("MAX_MESSAGE_BYTES", "2000")]).await;
    let refused = [
        ("{", 400, "a JSON object is expected"),
        ("null", 400, "a JSON object is expected"),
        ("{}", 200, "cwd and status required"),
        (r#"{"cwd":"/a"}"#, 200, "cwd and status required"),
        (r#"{"cwd":7,"status":"idle"}"#, 200, "cwd and status required"),
        (r#"{"cwd":"/a","status":"asleep"}"#, 400, "status must be idle or working"),
        (r#"{"cwd":"a\u0000","status":"idle"}"#, 400, "cwd or session_id is too long"),
    ];
    for (body, status, error) in refused {
        let answer = node.post("/hook/set-status", body).await;
        let expected = json!({"ok": false, "error": error});
        assert_eq!((answer.status, answer.json()), (status, expected), "{body}");
    }
    let large = format!(r#"{{"cwd":"{}","status":"idle"}}"#, "x".repeat(3000));
    let answer = node.post("/hook/set-status", &large).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json(), json!({"ok": false, "error": "payload too large"}));
}

/// A page that somebody opens could let their browser post what it likes.
#[tokio::test]
async fn a_web_page_is_no_hook() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let body = r#"{"cwd":"/x","status":"idle","pid":1}"#;
    for origin in ["https://evil.example", "null", "http://127.0.0.1:7900"] {
        let header = format!("Origin: {origin}\r\n");
        let answer = node.request("POST", "/hook/set-status", &header, body).await;
        assert_eq!((answer.status, &answer.json()["ok"]), (403, &json!(false)), "{origin}");
    }
    assert_eq!(node.request("POST", "/hook/set-status", "", body).await.status, 200);
    let node = Node::start(Kind::Sqlite, &[("HOOK_TOKEN", "sesame")]).await;
    let bare =
        node.request("POST", "/hook/set-status", "Origin: https://a.example\r\n", body).await;
    assert_eq!(bare.status, 401);
}

#[tokio::test]
async fn hooks_are_limited_by_address() {
    let node = Node::start(Kind::Sqlite, &[("HOOK_RATE_LIMIT_PER_MIN", "3")]).await;
    for number in 0..3 {
        let body = json!({"cwd": format!("/{number}"), "status": "idle"}).to_string();
        assert_eq!(node.post("/hook/set-status", &body).await.status, 200);
    }
    let answer = node.post("/hook/set-status", r#"{"cwd":"/x","status":"idle"}"#).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.json(), json!({"ok": false, "error": "rate limited"}));
    let limited = "broker_hook_requests_rate_limited_total";
    assert_eq!(node.metric(limited).await, Some(1.0));
    assert_eq!(node.metric("broker_hook_requests_total").await, Some(4.0));
}

#[tokio::test]
async fn a_proxy_names_the_address() {
    let settings = [("HOOK_RATE_LIMIT_PER_MIN", "1"), ("CLIENT_ADDRESS_HEADER", "Fly-Client-IP")];
    let node = Node::start(Kind::Sqlite, &settings).await;
    let body = r#"{"cwd":"/x","status":"idle"}"#;
    let from = |address: &str| format!("Fly-Client-IP: {address}\r\n");
    let mut statuses = Vec::new();
    for address in ["203.0.113.1", "203.0.113.2", "203.0.113.1"] {
        let answer = node.request("POST", "/hook/set-status", &from(address), body).await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [200, 200, 429]);
}

#[tokio::test]
async fn hooks_may_need_a_token() {
    let node = Node::start(Kind::Sqlite, &[("HOOK_TOKEN", "sesame")]).await;
    let body = r#"{"cwd":"/x","status":"idle"}"#;
    let mut statuses = Vec::new();
    for shown in ["", "Authorization: Bearer no\r\n", "Authorization: Bearer sesame\r\n"] {
        let answer = node.request("POST", "/hook/set-status", shown, body).await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [401, 401, 200]);
    assert!(!node.log().contains("sesame"));
}

fn session_hook(peer: &TestPeer, status: &str) -> Value {
    let hello = peer.hello.frame();
    json!({"session_id": hello["sessionId"], "cwd": hello["cwd"], "pid": hello["pid"], "status": status})
}

async fn hook(node: &Node, body: &Value) -> Value {
    let answer = node.post("/hook/set-status", &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn status_of(peer: &mut TestPeer, name: &str) -> String {
    let [status] = statuses(peer, [name]).await;
    status
}

async fn statuses<const N: usize>(peer: &mut TestPeer, names: [&str; N]) -> [String; N] {
    let rows = peer.peers().await;
    names.map(|name| {
        let row = rows.iter().find(|row| row["displayName"] == name).unwrap();
        row["status"].as_str().unwrap().to_owned()
    })
}

async fn two_peers(kind: Kind, settings: &[(&str, &str)]) -> (Node, TestPeer, TestPeer, Mesh) {
    let mut all = vec![("HOOK_RATE_LIMIT_PER_MIN", "1000")];
    all.extend(settings);
    ana_and_ben(kind, &all).await
}
