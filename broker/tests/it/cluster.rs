//! What holds of one broker holds of several that form one: any of them takes the socket, one of
//! them runs the mesh, and nothing is lost when parts die.

mod failures;
mod leaving;
mod readiness;

use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::node::Mesh;
use crate::support::peer::TestPeer;
use crate::support::socket::Socket;
use crate::support::until;

/// Three nodes, and a mesh on the first; Ana is connected to the second, Ben to the third.
pub(crate) async fn apart(settings: &[(&str, &str)]) -> (Cluster, Mesh, TestPeer, TestPeer) {
    let cluster = Cluster::of(3, settings).await;
    let mesh = cluster.mesh_on(0, &["ana", "ben", "eve"]).await;
    let mut ana = TestPeer::session(&cluster.nodes[1], &mesh, "ana").await;
    let ben = TestPeer::session(&cluster.nodes[2], &mesh, "ben").await;
    ana.expect_event("peer_joined", "ben").await;
    (cluster, mesh, ana, ben)
}

#[tokio::test]
async fn peers_at_different_nodes_are_in_one_mesh() {
    let (cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    ana.send(&ben, "one").await.acknowledged();
    assert_eq!(ben.next().await, "one");
    let all = ben.send("*", "to all").await.acknowledged();
    assert_eq!(ana.next().await, "to all");
    until("it is delivered", async || ben.is_delivered(&all).await).await;
    assert_eq!(ana.peers().await.len(), 2);
    assert_eq!(ben.peers().await.len(), 2);
    let mut audit = TestPeer::member(&cluster.nodes[0], &mesh, "ana").await;
    let verified = audit.ask(json!({"type": "audit_verify"})).await;
    assert_eq!(verified["valid"], true, "{verified}");
    let standing = cluster.status(&["--mesh", &mesh.id]).await;
    assert_eq!(standing["owner"], "n0", "{standing}");
    assert_eq!(standing["sessions"], 3, "{standing}");
    assert_eq!(standing["pending"], 0, "{standing}");
}

/// Ids of any kind travel to the owner and back as they are.
#[tokio::test]
async fn ids_of_any_kind_come_back_from_another_node() {
    let (_cluster, _mesh, mut ana, ben) = apart(&[]).await;
    for id in [json!(7), json!(-1.5), json!(true), json!("7")] {
        let mut send = crate::support::peer::envelope(&ben, &format!("text {id}"));
        send["id"] = id.clone();
        ana.post(&send).await;
        let ack = ana.take("the ack", |frame| frame["type"] == "ack" && frame["id"] == id).await;
        assert_eq!(ack["queued"], true, "{ack}");
        ana.post(&json!({"type": "list_peers", "_reqId": id})).await;
        let list = ana.take("the list", |frame| frame["_reqId"] == id).await;
        assert_eq!(list["type"], "peers_list", "{list}");
    }
    let ack = ana.send("*", "to all").await;
    ack.acknowledged();
    assert_eq!(ack.0["recipients"], 1, "{ack:?}");
}

#[tokio::test]
async fn status_shows_every_node_and_its_share() {
    let (cluster, _mesh, _ana, _ben) = apart(&[("REGION", "fra")]).await;
    until("what they say of themselves is seen", async || {
        let nodes = cluster.status(&[]).await;
        let nodes = nodes.as_array().unwrap();
        let sum = |field: &str| nodes.iter().filter_map(|node| node[field].as_u64()).sum::<u64>();
        let share: f64 = nodes.iter().filter_map(|node| node["ring_share"].as_f64()).sum();
        assert!((share - 1.0).abs() < 1e-6 && nodes.iter().all(|node| node["region"] == "fra"));
        sum("connections") == 2 && sum("meshes") >= 1
    })
    .await;
}

#[tokio::test]
async fn moderation_reaches_whoever_is_meant_wherever_it_is() {
    let (_cluster, _mesh, mut ana, mut ben) = apart(&[]).await;
    let kicked = ana.ask(json!({"type": "kick", "target": "ben"})).await;
    assert_eq!(kicked["kicked"].as_array().map(Vec::len), Some(1), "{kicked}");
    assert_eq!(ben.close_frame().await, (4001, "kicked".to_owned()));
    ana.expect_event("peer_left", "ben").await;
}

#[tokio::test]
async fn a_member_revoked_in_the_database_is_disconnected_wherever_it_is() {
    let (cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    cluster.nodes[0].revoke(&mesh, "ben").await;
    assert_eq!(ben.close_frame().await, (4002, "banned".to_owned()));
    ana.expect_event("peer_left", "ben").await;
}

/// The owner's word for why a socket ends is the same at every node.
#[tokio::test]
async fn a_member_that_says_hello_too_often_hears_so_wherever_it_is() {
    let settings = [("HELLO_RATE_PER_MINUTE", "1"), ("MAX_CONNECTIONS_PER_MESH", "10")];
    let (cluster, _mesh, ana, _ben) = apart(&settings).await;
    for node in &cluster.nodes {
        until("the member has said too many", async || {
            let mut socket = Socket::open(&node.address()).await;
            socket.post(&ana.hello.frame()).await;
            let answer = socket.take("an answer", |frame| frame["type"] != "push").await;
            if answer["type"] == "hello_ack" {
                return false;
            }
            assert_eq!(answer["code"], "rate_limit", "{answer}");
            assert_eq!(socket.close_frame().await, (1008, "rate_limit".to_owned()));
            true
        })
        .await;
    }
}

#[tokio::test]
async fn a_kicked_session_stays_out_at_every_node_and_under_the_next_owner() {
    let (mut cluster, _mesh, mut ana, mut ben) = apart(&[]).await;
    ana.ask(json!({"type": "kick", "target": "ben"})).await;
    assert_eq!(ben.close_frame().await, (4001, "kicked".to_owned()));
    cluster.nodes[0].kill();
    for node in &cluster.nodes[1..] {
        until("the next owner keeps it out", async || {
            let mut socket = Socket::open(&node.address()).await;
            socket.post(&ben.hello.frame()).await;
            let first = socket.take("an answer", |frame| frame["type"] != "push").await;
            assert_ne!(first["type"], "hello_ack", "{first}");
            first["code"] == "kicked"
        })
        .await;
    }
}

#[tokio::test]
async fn a_hook_finds_its_session_from_any_node() {
    let (cluster, _mesh, mut ana, ben) = apart(&[]).await;
    let session = ben.hello.fields["sessionId"].as_str().unwrap();
    let hook = json!({"cwd": "/", "session_id": session, "status": "working"}).to_string();
    let told = cluster.nodes[1].post("/hook/set-status", &hook).await.json();
    assert_eq!(told["presence_id"], ben.presence().as_str(), "{told}");
    until("ana sees it", async || {
        let peers = ana.peers().await;
        peers.iter().any(|peer| peer["displayName"] == "ben" && peer["status"] == "working")
    })
    .await;
}

/// On Fly.io a client that names its mesh lands on the node that runs it.
#[tokio::test]
async fn an_upgrade_that_names_its_mesh_is_replayed_once() {
    let cluster = Cluster::of(1, &[("FLY_MACHINE_ID", "n0")]).await;
    let on = [("FLY_MACHINE_ID", "n1"), ("FLY_REPLAY", "on")];
    let mut other = cluster.launch("n1", &on);
    other.serving().await;
    cluster.all_see(2).await;
    let mesh = cluster.mesh_on(0, &["ana"]).await;
    let path = format!("/ws?v=1&mesh={}", mesh.id);
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let replayed = other.request("GET", &path, upgrade, "").await;
    let header = Some("prefer_instance=n0;fallback=prefer_self");
    assert_eq!((replayed.status, replayed.header("fly-replay")), (409, header));
    let again = format!("{upgrade}fly-replay-src: instance=n0\r\n");
    for (node, headers) in [(&other, again.as_str()), (&cluster.nodes[0], upgrade)] {
        let answer = node.request("GET", &path, headers, "").await;
        assert_eq!(answer.header("fly-replay"), None, "{}", answer.head);
    }
}

#[tokio::test]
async fn a_full_mesh_is_full_at_every_node() {
    let (cluster, mesh, _ana, _ben) = apart(&[("MAX_CONNECTIONS_PER_MESH", "2")]).await;
    for node in &cluster.nodes {
        let mut late = crate::support::socket::Socket::open(&node.address()).await;
        late.post(&crate::support::peer::Hello::session(&mesh, "eve").frame()).await;
        assert_eq!(late.next_frame().await["code"], "capacity");
    }
}
