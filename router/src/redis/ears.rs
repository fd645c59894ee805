//! Listening: this process's channel and the hints, through whatever happens to the connection.
//!
//! Subscribing is ours, not fred's: its own loop ends for good when it lags once. Whether it works
//! is not believed but tried: a message to ourselves every second has to come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::Message;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{COMMAND_TIMEOUT, Dropped, Error, Event, Incoming, Kind, Shared, frame};

/// Frames that wait between fred's reader and ours, which does nothing but check and pass on: at a
/// hundred thousand a second, 80 ms.
pub(super) const FRAMES: usize = 8_192;
/// Frames that wait for whoever takes them in.
const INBOX: usize = 8_192;
/// Their bytes.
const INBOX_BYTES: usize = 64 * 1024 * 1024;
/// Between messages to ourselves, at most: three fit into the time to live, as heartbeats do.
const CANARY: Duration = Duration::from_secs(1);
/// Between attempts to subscribe.
const RETRY: Duration = Duration::from_millis(100);

const SUBSCRIBE: &str = "subscribe to this node's channels";

/// Subscribes, and passes on what arrives from then on.
pub(super) async fn open(
    shared: &Arc<Shared>,
    stop: &CancellationToken,
) -> Result<mpsc::Receiver<Incoming>, Error> {
    let messages = shared.ears.message_rx();
    let reconnections = shared.ears.reconnect_rx();
    let deaf = Arc::new(Notify::new());
    let (listener, incoming) = Listener::new(shared.clone());
    shared.tasks.spawn(stop.clone().run_until_cancelled_owned(listener.run(messages)));
    shared.subscribe().await?;
    let kept = subscribed(shared.clone(), reconnections, deaf.clone());
    shared.tasks.spawn(stop.clone().run_until_cancelled_owned(kept));
    shared.tasks.spawn(stop.clone().run_until_cancelled_owned(canary(shared.clone(), deaf)));
    Ok(incoming)
}

impl Shared {
    /// Subscribes to this process's channel and the hints. Doing so again changes nothing.
    async fn subscribe(&self) -> Result<(), Error> {
        let (mine, hints) = (self.keys.channel(&self.me), self.keys.hints.clone());
        let subscribed = if self.ears.is_clustered() {
            match self.ears.ssubscribe(mine).await {
                Ok(()) => self.ears.ssubscribe(hints).await,
                failed => failed,
            }
        } else {
            self.ears.subscribe(vec![mine, hints]).await
        };
        self.counters.subscriptions.add(1);
        self.count(subscribed.map_err(|error| Error::Failed(SUBSCRIBE, error)))
    }
}

/// Subscribes again after each reconnection, and whenever nobody is known to listen.
async fn subscribed(
    shared: Arc<Shared>,
    mut reconnections: Receiver<impl Clone>,
    deaf: Arc<Notify>,
) {
    loop {
        tokio::select! {
            reconnected = reconnections.recv() => {
                if let Err(RecvError::Closed) = reconnected {
                    return;
                }
            }
            () = deaf.notified() => {}
        }
        while let Err(error) = shared.subscribe().await {
            tracing::debug!(%error, "not subscribed yet");
            sleep(RETRY).await;
        }
    }
}

/// Publishes to ourselves every so often, and does something about it if that does not come back.
async fn canary(shared: Arc<Shared>, deaf: Arc<Notify>) {
    let channel = shared.keys.channel(&shared.me);
    let third = Duration::from_millis((shared.timing.ttl_ms / 3).max(1));
    let mut ticks = interval(CANARY.min(third));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first that was published and has not come back.
    let mut awaited = None;
    loop {
        ticks.tick().await;
        let sent_at = shared.now();
        // Sealed anew each time: which secret is to be used may have changed.
        let frame = frame::seal(&shared.sealer, &shared.me, &shared.me, &[]).unwrap_or_default();
        match shared.publish(channel.clone(), frame.into(), "publish the canary").await {
            Ok(0) => deaf.notify_one(),
            Ok(_) => {}
            // Without Redis there is nothing to do but wait for it.
            Err(_) => continue,
        }
        let heard_at = shared.heard_at.load(Ordering::Relaxed);
        match awaited.filter(|since| *since > heard_at) {
            None => awaited = Some(sent_at),
            Some(since) if sent_at.saturating_sub(since) >= shared.timing.ttl_ms => {
                tracing::warn!(silence_ms = sent_at - since, "this node does not hear itself");
                awaited = None;
                reconnect(&shared.ears).await;
                deaf.notify_one();
            }
            Some(_) => {}
        }
    }
}

async fn reconnect(ears: &Client) {
    let _ = timeout(COMMAND_TIMEOUT, ears.force_reconnection()).await;
}

/// Opens frames and passes them on.
struct Listener {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Incoming>,
    room: Arc<Semaphore>,
}

impl Listener {
    fn new(shared: Arc<Shared>) -> (Self, mpsc::Receiver<Incoming>) {
        let (inbox, incoming) = mpsc::channel(INBOX);
        let room = Arc::new(Semaphore::new(INBOX_BYTES));
        (Self { shared, inbox, room }, incoming)
    }

    async fn run(self, mut messages: Receiver<Message>) {
        loop {
            match messages.recv().await {
                Ok(message) => self.take(message),
                Err(RecvError::Lagged(missed)) => {
                    let missed = usize::try_from(missed).unwrap_or(usize::MAX);
                    self.shared.refuse(Dropped::Lagged, missed);
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn take(&self, message: Message) {
        let is_hint = *message.channel == *self.shared.keys.hints;
        let Some(bytes) = message.value.into_bytes() else { return };
        let taken = if is_hint { self.hint(&bytes) } else { self.frame(&bytes) };
        if let Err(why) = taken {
            self.shared.refuse(why, 1);
        }
    }

    /// Somebody says that the table is worth a look. One that is repeated costs a look.
    fn hint(&self, hint: &Bytes) -> Result<(), Dropped> {
        let from = self.shared.sealer.open(Kind::Hint, b"", hint)?;
        if from != self.shared.me.to_string().as_bytes() {
            self.shared.tell(Event::Hinted);
        }
        Ok(())
    }

    fn frame(&self, frame: &Bytes) -> Result<(), Dropped> {
        let shared = &self.shared;
        let (from, items) = frame::open(&shared.sealer, &shared.me, frame)?;
        if from == shared.me {
            shared.heard_at.store(shared.now(), Ordering::Relaxed);
        }
        let counters = &shared.counters;
        if items.is_empty() {
            return Ok(());
        }
        let room = u32::try_from(frame.len()).ok();
        let room = room.and_then(|room| self.room.clone().try_acquire_many_owned(room).ok());
        let room = room.ok_or(Dropped::InboxFull)?;
        let count = items.len();
        let incoming = Incoming { from, items, _room: room };
        self.inbox.try_send(incoming).map_err(|_| Dropped::InboxFull)?;
        counters.frames_in.add(1);
        counters.items_in.add(count);
        counters.bytes_in.add(frame.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fred::types::config::Server;
    use fred::types::{MessageKind, Value};
    use tokio::sync::broadcast;
    use tokio_util::task::TaskTracker;

    use super::super::Credentials;
    use super::*;
    use crate::membership::Timing;
    use crate::node::NodeKey;

    fn message(channel: String, value: Vec<u8>) -> Message {
        let value = Value::Bytes(value.into());
        let server = Server::from(("127.0.0.1", 6379));
        Message { channel: channel.into(), value, kind: MessageKind::Message, server }
    }

    /// fred's own loop would have ended here.
    #[tokio::test]
    async fn a_reader_that_lags_loses_the_oldest_and_goes_on() {
        let [a, b] = ["a", "b"].map(|id| NodeKey { id: id.into(), incarnation: 1 });
        let timing = Timing { heartbeat_ms: 500, ttl_ms: 3_000 };
        let tasks = TaskTracker::new();
        let credentials = Credentials { cluster: "c", secret: b"secret", previous: None };
        let shared = Shared::new("redis://127.0.0.1", b.clone(), &credentials, timing, &tasks);
        let (shared, _) = shared.unwrap();
        let (messages, read) = broadcast::channel(4);
        for n in 0..10 {
            let frame = frame::seal(&shared.sealer, &a, &b, &[vec![n]]).unwrap();
            let _ = messages.send(message(shared.keys.channel(&b), frame));
        }
        drop(messages);
        let (listener, mut incoming) = Listener::new(shared.clone());
        listener.run(read).await;
        let mut taken = Vec::new();
        while let Ok(incoming) = incoming.try_recv() {
            taken.extend(incoming.items);
        }
        assert_eq!(taken, [[6], [7], [8], [9]].map(|item| item.to_vec()));
        assert_eq!(shared.counters.dropped(Dropped::Lagged), 6);
    }
}
