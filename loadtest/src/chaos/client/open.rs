//! From nothing to a socket, and from that to a `hello_ack`.

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

/// Why there is no connection.
pub(crate) enum Failed {
    /// No socket: connection refused, or an HTTP error instead of the upgrade.
    Refused(String),
    /// A socket, and no answer to its hello, or a bad one.
    Hello(String),
}

impl Failed {
    pub(super) fn why(self) -> String {
        match self {
            Self::Refused(why) | Self::Hello(why) => why,
        }
    }
}

/// A socket at this port of the loopback, and which server it leads to, where a balancer says so.
pub(crate) async fn connect(port: u16) -> Result<(Pipe, Option<String>), Failed> {
    let url = format!("ws://127.0.0.1:{port}/ws");
    match timeout(HELLO, Pipe::connect(&url)).await {
        Ok(connected) => connected.map_err(|error| Failed::Refused(error.to_string())),
        // The connection was accepted by a process that does not run: a timeout is no refusal.
        Err(_) => Err(Failed::Hello("upgrade unanswered".to_owned())),
    }
}

/// The presence that a hello gets.
pub(crate) async fn greet(
    pipe: &mut Pipe,
    kind: Kind,
    identity: &Identity,
) -> Result<String, Failed> {
    let now = wall_ms();
    let hello = match kind {
        Kind::Session => identity.session_hello(now),
        Kind::Daemon => identity.daemon_hello(now),
        Kind::Silent => identity.hello(now),
    };
    let text = match timeout(HELLO, pipe.greet(hello)).await {
        Ok(greeted) => greeted.map_err(|error| Failed::Hello(error.to_string()))?,
        Err(_) => return Err(Failed::Hello("hello unanswered".to_owned())),
    };
    let greeting: Greeting =
        serde_json::from_str(&text).map_err(|error| Failed::Hello(error.to_string()))?;
    Ok(greeting.presence_id)
}
