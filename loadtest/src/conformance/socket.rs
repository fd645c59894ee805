//! Opening a WebSocket and closing it.

use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout_at};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::web::Address;

/// How long anything expected may take: clients allow five seconds at the least.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a WebSocket.
pub(crate) async fn open(address: &Address, path: &str) -> Result<Socket, String> {
    let connecting = connect_async(address.ws(path));
    match timeout_at(Instant::now() + PATIENCE, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Closes a WebSocket and waits until the broker has closed it, too.
pub(crate) async fn farewell(mut socket: Socket) {
    if socket.close(None).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
}

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// 1005 if the close frame had none, 1006 if there was no close frame.
    pub(crate) code: u16,
    pub(crate) reason: String,
}
