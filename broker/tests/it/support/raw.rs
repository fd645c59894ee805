//! A connection below HTTP and WebSocket: what no client in good order sends.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::SOON;

/// A connection that has sent nothing yet.
pub(crate) struct Raw(TcpStream);

impl Raw {
    /// From this loopback address: the broker tells them apart.
    pub(crate) async fn open(from: &str, to: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        Self(socket.connect(to.parse().unwrap()).await.unwrap())
    }

    /// Asks for a WebSocket, with more headers; the answer's head.
    pub(crate) async fn upgrade(&mut self, headers: &str) -> String {
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: broker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             {headers}\r\n"
        );
        self.send(request.as_bytes()).await;
        self.head().await
    }

    /// Sends bytes. What cannot be sent any more is lost, as on any network.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// Sends bytes; whether the connection took them.
    pub(crate) async fn takes(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// Asks on a connection that stays open; the answer's head.
    pub(crate) async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: broker\r\n\r\n");
        self.send(request.as_bytes()).await;
        self.head().await
    }

    /// What comes up to the end of a head; what there was if the connection ends before.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = self.0.read_u8().await else { return };
                head.push(byte);
            }
        };
        timeout(SOON, read).await.expect("an answer, or an end");
        String::from_utf8(head).unwrap()
    }

    /// What comes until the broker ends the connection; nothing if it does not in time.
    pub(crate) async fn rest(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let read = timeout(patience, self.0.read_to_end(&mut rest)).await;
        read.is_ok().then_some(rest)
    }
}

/// The beginning of a masked WebSocket frame, whose payload is sent as it is: the mask is zero.
pub(crate) fn frame_head(first: u8, length: usize) -> Vec<u8> {
    let length = u64::try_from(length).unwrap();
    [&[first, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat()
}

/// The code and the reason of a close frame that comes last.
pub(crate) fn closed_with(bytes: &[u8]) -> Option<(u16, String)> {
    let start = bytes.iter().rposition(|byte| *byte == 0x88)?;
    let body = bytes.get(start + 2..)?;
    let code = u16::from_be_bytes([*body.first()?, *body.get(1)?]);
    Some((code, String::from_utf8_lossy(&body[2..]).into_owned()))
}
