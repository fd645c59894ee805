//! A TCP proxy that misbehaves when told: cuts, stalls, or keeps what the server answers.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the proxy does with the bytes it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Passes them on.
    Pass,
    /// Reads nothing in either direction; new connections wait as well.
    Pause,
    /// Passes requests on and drops answers: the server lives and works, nobody hears of it.
    Swallow,
}

/// A proxy before one server. Ends, with all its connections, when dropped.
pub(crate) struct ChaosProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counts cuts: connections of an earlier count end.
    cuts: watch::Sender<u64>,
    _work: JoinSet<()>,
}

impl ChaosProxy {
    /// Starts one before `port` of this machine.
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Pass);
        let (cuts, cut) = watch::channel(0);
        let mut work = JoinSet::new();
        work.spawn(accept(listener, port, modes, cut));
        Self { address, mode, cuts, _work: work }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Closes every connection. New ones are served as before.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Lets nothing through until [`ChaosProxy::resume`].
    pub(crate) fn pause(&self) {
        self.mode.send_replace(Mode::Pause);
    }

    /// Drops what the server answers from now on, until [`ChaosProxy::resume`].
    pub(crate) fn swallow_replies(&self) {
        self.mode.send_replace(Mode::Swallow);
    }

    /// Passes everything on again.
    pub(crate) fn resume(&self) {
        self.mode.send_replace(Mode::Pass);
    }
}

async fn accept(
    listener: TcpListener,
    port: u16,
    modes: watch::Receiver<Mode>,
    cut: watch::Receiver<u64>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(serve(client, port, modes.clone(), cut.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(
    client: TcpStream,
    port: u16,
    modes: watch::Receiver<Mode>,
    mut cut: watch::Receiver<u64>,
) {
    cut.mark_unchanged();
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    // The server's half outlives the client's while answers are swallowed, so that a commit in
    // progress ends by itself and not because its client seems gone.
    let held = Arc::new(tokio::sync::Mutex::new(to_server));
    tokio::select! {
        biased;
        _ = cut.changed() => {}
        () = requests(from_client, held.clone(), modes.clone()) => {}
        () = answers(from_server, to_client, modes) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    to: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    mut modes: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if modes.wait_for(|mode| *mode != Mode::Pause).await.is_err() {
            return;
        }
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                // Whoever hangs up on a swallowed answer is not reported to the server.
                let _ = modes.wait_for(|mode| *mode != Mode::Swallow).await;
                return;
            }
            Ok(n) => {
                if to.lock().await.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if modes.wait_for(|mode| *mode != Mode::Pause).await.is_err() {
            return;
        }
        let Ok(n) = from.read(&mut buffer).await else { return };
        if n == 0 {
            return;
        }
        // What was read before a pause waits here with the rest.
        let Ok(mode) = modes.wait_for(|mode| *mode != Mode::Pause).await.map(|mode| *mode) else {
            return;
        };
        if mode == Mode::Pass && to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
