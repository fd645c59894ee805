//! The line between one node and one server: it can be cut in either direction, or in both.
//!
//! A cut line loses nothing and says nothing, as a network without a way between two machines: bytes
//! wait, new connections are not answered, and an end is not heard of. What waited goes on when the
//! line is mended, unless one side has given up meanwhile.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Error;

/// Which directions work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// From the node to the server.
    pub(crate) there: bool,
    pub(crate) back: bool,
}

impl Line {
    const WHOLE: Self = Self { there: true, back: true };
}

#[derive(Debug, Clone, Copy)]
enum Way {
    There,
    Back,
}

impl Way {
    fn is_open(self, line: Line) -> bool {
        match self {
            Self::There => line.there,
            Self::Back => line.back,
        }
    }
}

/// Ends, with all its connections, when dropped.
pub(super) struct Proxy {
    pub(super) port: u16,
    line: watch::Sender<Line>,
    _work: JoinSet<()>,
}

impl Proxy {
    /// Before `port` of this machine.
    pub(super) async fn start(port: u16) -> Result<Self, Error> {
        // Any port will do: unlike the servers, a proxy keeps its own to the end.
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let own = listener.local_addr()?.port();
        let (line, lines) = watch::channel(Line::WHOLE);
        let mut work = JoinSet::new();
        work.spawn(accept(listener, port, lines));
        Ok(Self { port: own, line, _work: work })
    }

    pub(super) fn cut(&self, line: Line) {
        self.line.send_replace(line);
    }

    pub(super) fn mend(&self) {
        self.line.send_replace(Line::WHOLE);
    }
}

async fn accept(listener: TcpListener, port: u16, lines: watch::Receiver<Line>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((node, _)) = accepted else { continue };
                connections.spawn(serve(node, port, lines.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(node: TcpStream, port: u16, mut lines: watch::Receiver<Line>) {
    if lines.wait_for(|line| line.there).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (node.set_nodelay(true), server.set_nodelay(true));
    let ((from_node, to_node), (from_server, to_server)) = (node.into_split(), server.into_split());
    // An end of either side ends both, once it gets through.
    tokio::select! {
        () = carry(from_node, to_server, lines.clone(), Way::There) => {}
        () = carry(from_server, to_node, lines, Way::Back) => {}
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut lines: watch::Receiver<Line>,
    way: Way,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if lines.wait_for(|line| way.is_open(*line)).await.is_err() {
            return;
        }
        let read = tokio::select! {
            biased;
            _ = lines.changed() => continue,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(length) if length > 0 => {
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_cut_line_keeps_what_was_said_until_it_is_mended() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap().port()).await.unwrap();
        let mut node = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        let mut byte = [0; 1];

        proxy.cut(Line { there: false, back: true });
        node.write_all(b"a").await.unwrap();
        far.write_all(b"b").await.unwrap();
        node.read_exact(&mut byte).await.unwrap();
        assert!(timeout(MOMENT, far.read_exact(&mut byte)).await.is_err());
        proxy.mend();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"a");

        proxy.cut(Line { there: false, back: false });
        let mut other = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        other.write_all(b"c").await.unwrap();
        assert!(timeout(MOMENT, server.accept()).await.is_err(), "nobody comes through");
        drop(node);
        assert!(timeout(MOMENT, far.read(&mut byte)).await.is_err(), "nor is an end heard of");
        proxy.mend();
        server.accept().await.unwrap();
        assert_eq!(far.read(&mut byte).await.unwrap(), 0);
    }
}
