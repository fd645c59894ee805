//! Connections: fred's settings, and commands with their counts.

use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::{ClientLike, PubsubInterface};
use fred::types::config::{
    ConnectionConfig, PerformanceConfig, ReconnectPolicy, TcpConfig, UnresponsiveConfig,
};
use fred::types::scripts::Script;
use fred::types::{Builder, ConnectHandle, Value, config::Config};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{COMMAND_TIMEOUT, Error, Shared};
use crate::membership::Ms;

/// Between attempts to connect. Constant: whoever waits for Redis waits for all of us, and a
/// restarted one must be found again well within the time to live.
const RECONNECT: Duration = Duration::from_millis(100);
/// Before a connection is made anew that fred has given up.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// Commands that wait for a connection. Lanes have one each, and so have meshes that save leases.
const COMMANDS: usize = 65_536;
/// Messages, connections and so on that a client which does not listen remembers.
pub(super) const EVENTS: usize = 32;

/// A client that is not connected yet and remembers so many messages.
pub(super) fn new(url: &str, messages: usize) -> Result<Client, Error> {
    let config = Config::from_url(url).map_err(Error::Url)?;
    let delay = u32::try_from(ms(RECONNECT)).unwrap_or(u32::MAX);
    Builder::from_config(config)
        .set_policy(ReconnectPolicy::new_constant(0, delay))
        .set_performance_config(PerformanceConfig {
            default_command_timeout: COMMAND_TIMEOUT,
            broadcast_channel_capacity: messages,
            ..PerformanceConfig::default()
        })
        .set_connection_config(ConnectionConfig {
            connection_timeout: COMMAND_TIMEOUT,
            internal_command_timeout: COMMAND_TIMEOUT,
            max_command_attempts: 1,
            max_command_buffer_len: COMMANDS,
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            // A connection whose other end is gone without a word looks like a slow answer.
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(COMMAND_TIMEOUT),
                interval: COMMAND_TIMEOUT / 4,
            },
            ..ConnectionConfig::default()
        })
        .build()
        .map_err(Error::Url)
}

/// Connects for the first time.
pub(super) async fn connect(client: &Client) -> Result<ConnectHandle, Error> {
    let failed = |error| Error::Failed("be connected to", error);
    match timeout(COMMAND_TIMEOUT * 2, client.init()).await {
        Ok(connected) => connected.map_err(failed),
        Err(_) => {
            Err(failed(fred::error::Error::new(fred::error::ErrorKind::Timeout, "no answer")))
        }
    }
}

/// Keeps a client connected until `stop`. It does so by itself, except after what fred deems final:
/// a misconfiguration that a reconnection meets, or a reconnection that its full queue has no room
/// for.
pub(super) async fn keep(client: Client, mut driven: ConnectHandle, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            ended = &mut driven => {
                tracing::warn!(?ended, "the connection to Redis has been given up, and is made anew");
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = sleep(GIVEN_UP) => driven = client.connect(),
        }
    }
    // Waits for nothing but its own command, and that is bounded.
    let _ = client.quit().await;
}

/// A time span in whole milliseconds.
pub(super) fn ms(span: Duration) -> Ms {
    Ms::try_from(span.as_millis()).unwrap_or(Ms::MAX)
}

impl Shared {
    /// Publishes to a channel and tells how many listened.
    pub(super) async fn publish(
        &self,
        channel: String,
        message: Bytes,
        what: &'static str,
    ) -> Result<u64, Error> {
        let published = if self.commands.is_clustered() {
            self.commands.spublish(channel, message).await
        } else {
            self.commands.publish(channel, message).await
        };
        self.count(published.map_err(|error| Error::Failed(what, error)))
    }

    /// Runs a script on one key.
    pub(super) async fn script(
        &self,
        script: &Script,
        key: &str,
        args: Vec<Value>,
        what: &'static str,
    ) -> Result<Vec<Value>, Error> {
        self.count(run(&self.commands, script, key, args, what).await)
    }

    pub(super) fn count<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        self.counters.commands.add(1);
        self.counters.failures.add(usize::from(outcome.is_err()));
        outcome
    }
}

/// Runs a script on one key. Redis forgets scripts when it restarts, and is then told again.
pub(super) async fn run(
    client: &Client,
    script: &Script,
    key: &str,
    args: Vec<Value>,
    what: &'static str,
) -> Result<Vec<Value>, Error> {
    let answer: Result<Value, _> = script.evalsha_with_reload(client, key, args).await;
    answer.map(Value::into_array).map_err(|error| Error::Failed(what, error))
}
