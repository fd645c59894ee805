//! A broker in miniature, without rules or storage: it acks, it pushes, and it can be told to
//! fail. It proves that the generator finds what it is there to find.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use protocol::client::{self, Frame};
use protocol::server::{Ack, Push};
use protocol::signature::Keypair;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::mesh::{Member, Mesh};

/// Frames that may wait for one peer.
const OUTBOX: usize = 10_000;

/// What goes wrong with every tenth message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Drop,
    Duplicate,
    /// It is held back until the next one of the same pair has gone.
    Reorder,
    Refuse,
    /// Its first attempt gets no answer, and is not delivered either.
    Ignore,
    /// Its first attempt is refused in words that ask for another.
    Postpone,
    Misroute,
    /// The socket it came on ends.
    Hang,
}

#[derive(Default)]
struct Shared {
    peers: HashMap<String, mpsc::Sender<String>>,
    held: HashMap<String, String>,
    attempts: HashMap<String, u32>,
    client_acks: u32,
}

pub(crate) struct Fake {
    pub(crate) url: String,
    shared: Arc<Mutex<Shared>>,
    _tasks: JoinSet<()>,
}

/// A mesh of members whose keys are made up.
pub(crate) fn mesh(members: u8) -> Mesh {
    let members = (0..members).map(|n| {
        let pair = Keypair::from_seed(&[n; 32]);
        Member {
            id: format!("member-{n}"),
            display_name: format!("Member {n}"),
            pubkey: pair.public_hex(),
            secret_key: pair.secret_hex(),
        }
    });
    Mesh { id: "mesh".into(), members: members.collect(), invite_url: None, owner_secret_key: None }
}

/// Such a mesh as the file the generator reads, with the fields it does not need.
pub(crate) struct MeshFile(pub(crate) PathBuf);

impl MeshFile {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("loadtest-{}-{number}.json", std::process::id());
        let members: Vec<_> = mesh(2)
            .members
            .iter()
            .map(|member| {
                json!({"member_id": member.id, "display_name": member.display_name,
                    "role": "member", "pubkey": member.pubkey, "secret_key": member.secret_key})
            })
            .collect();
        let text = json!({"mesh_id": "mesh", "slug": "red", "members": members});
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text.to_string()).unwrap();
        Self(path)
    }
}

impl Drop for MeshFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Fake {
    pub(crate) async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(Shared::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let shared = Arc::clone(&shared);
            async move {
                let mut sockets = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    sockets.spawn(serve(stream, Arc::clone(&shared), fault));
                }
            }
        });
        Self { url, shared, _tasks: tasks }
    }

    pub(crate) fn client_acks(&self) -> u32 {
        self.shared.lock().unwrap().client_acks
    }
}

async fn serve(stream: TcpStream, shared: Arc<Mutex<Shared>>, fault: Fault) {
    stream.set_nodelay(true).unwrap();
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    let (outbox, mut inbox) = mpsc::channel(OUTBOX);
    let mut me = String::new();
    loop {
        tokio::select! {
            biased;
            Some(text) = inbox.recv() => {
                if socket.send(Message::text(text)).await.is_err() { return }
            }
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => {
                    let frame = client::parse(&text).unwrap();
                    if handle(frame, &mut me, &outbox, &shared, fault).is_none() { return }
                }
                Some(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

/// Nothing, if the socket is to end.
fn handle(
    frame: Frame,
    me: &mut String,
    outbox: &mpsc::Sender<String>,
    shared: &Mutex<Shared>,
    fault: Fault,
) -> Option<()> {
    let mut shared = shared.lock().unwrap();
    match frame {
        Frame::SessionHello(hello) => *me = hello.session_pubkey,
        Frame::Hello(hello) => *me = hello.session_pubkey.unwrap(),
        Frame::ClientAck(_) => {
            shared.client_acks += 1;
            return Some(());
        }
        Frame::Send(send) => return deliver(&send, me, outbox, &mut shared, fault),
        other => panic!("{other:?}"),
    }
    outbox.try_send(r#"{"type":"hello_ack","presenceId":"p"}"#.into()).unwrap();
    shared.peers.insert(me.clone(), outbox.clone());
    Some(())
}

fn deliver(
    send: &client::Send,
    me: &str,
    outbox: &mpsc::Sender<String>,
    shared: &mut Shared,
    fault: Fault,
) -> Option<()> {
    let id = send.id.as_ref().and_then(protocol::EchoId::as_text).unwrap();
    let attempt = shared.attempts.entry(id.to_owned()).or_default();
    *attempt += 1;
    let first = *attempt == 1;
    let faulty = id.ends_with('3');
    let ack = |error: Option<&str>| {
        let ack = Ack {
            queued: error.is_none(),
            message_id: format!("m-{id}"),
            ..Ack::refused(Some(id.into()), error.unwrap_or_default())
        };
        let error = error.map(str::to_owned);
        outbox.try_send(protocol::server::Frame::Ack(Ack { error, ..ack }).to_json()).unwrap();
    };
    match fault {
        Fault::Refuse if faulty => ack(Some("queue_full: \"later\"")),
        Fault::Postpone if faulty && first => ack(Some("unavailable")),
        Fault::Ignore if faulty && first => {}
        Fault::Hang if faulty && first => return None,
        _ => {
            ack(None);
            forward(send, me, shared, fault, faulty);
        }
    }
    Some(())
}

fn forward(send: &client::Send, me: &str, shared: &mut Shared, fault: Fault, faulty: bool) {
    let push = push(send, me);
    let pair = format!("{me} {}", send.target_spec);
    let misrouted = fault == Fault::Misroute && faulty;
    let target = if misrouted { me } else { &send.target_spec };
    let to = &shared.peers[target];
    match fault {
        Fault::Drop if faulty => {}
        Fault::Reorder if faulty => drop(shared.held.insert(pair, push)),
        _ => {
            if fault == Fault::Duplicate && faulty {
                to.try_send(push.clone()).unwrap();
            }
            // A peer that reconnects is not there for a moment; the test is not about that.
            let _ = to.try_send(push);
            if let Some(held) = shared.held.remove(&pair) {
                to.try_send(held).unwrap();
            }
        }
    }
}

fn push(send: &client::Send, me: &str) -> String {
    Push {
        message_id: &format!("m-{}", send.client_message_id.as_deref().unwrap()),
        mesh_id: "mesh",
        sender_pubkey: me,
        priority: send.priority,
        nonce: &send.nonce,
        ciphertext: &send.ciphertext,
        created_at: "2026-01-31T08:15:00.000Z",
        sender_member_pubkey: None,
        sender_member_id: "member",
        sender_name: "Ana",
        reply_to_id: None,
        subtype: None,
        topic: None,
        client_message_id: send.client_message_id.as_deref(),
        request_fingerprint: None,
    }
    .to_json()
}
