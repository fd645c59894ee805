//! From nothing to a `hello_ack`.

use serde::Deserialize;
use tokio::time::{Duration, timeout};

use crate::chaos::log::Kind;
use crate::clock::wall_ms;
use crate::identity::Identity;
use crate::pipe::Pipe;

/// What clients give a node to acknowledge their hello.
const HELLO: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Greeting {
    presence_id: String,
}

/// The connection and the presence it has, or why there is none.
pub(super) async fn greet(
    port: u16,
    kind: Kind,
    identity: &Identity,
) -> Result<(Pipe, String), String> {
    let now = wall_ms();
    let hello = match kind {
        Kind::Session => identity.session_hello(now),
        Kind::Daemon => identity.daemon_hello(now),
        Kind::Silent => identity.hello(now),
    };
    let url = format!("ws://127.0.0.1:{port}/ws");
    let opening = timeout(HELLO, Pipe::open_greeted(&url, hello));
    let (pipe, text) = match opening.await {
        Ok(opened) => opened.map_err(|error| error.to_string())?,
        Err(_) => return Err("hello unanswered".to_owned()),
    };
    let greeting: Greeting = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok((pipe, greeting.presence_id))
}
