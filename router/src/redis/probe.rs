//! What a Redis is like before a node stands on it.

use std::time::Duration;

use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::InfoKind;
use tokio::time::{Instant, timeout};

use super::{COMMAND_TIMEOUT, Error, client};

/// Round trips of which the median is told.
const ROUND_TRIPS: usize = 11;

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As the server calls it, for Valkey the Redis it is compatible with.
    pub version: String,
    /// It is a Redis Cluster.
    pub is_cluster: bool,
    /// The version suffices: 6, and 7 for a cluster.
    pub is_recent: bool,
    /// The median of a few.
    pub round_trip: Duration,
    /// What is published arrives where it is subscribed to.
    pub delivers: bool,
    /// What it does when its memory is full; anything but `noeviction` may drop what nodes keep there.
    pub eviction: String,
}

/// Finds out, over connections of its own.
///
/// # Errors
///
/// The URL is none, or Redis does not answer or refuses us.
pub async fn facts(url: &str) -> Result<Facts, Error> {
    let [commands, ears] = [client::new(url, client::EVENTS)?, client::new(url, client::EVENTS)?];
    client::connect(&commands).await?;
    client::connect(&ears).await?;
    let failed = |error| Error::Failed("say what it is", error);
    let server: String = commands.info(Some(InfoKind::Server)).await.map_err(failed)?;
    let memory: String = commands.info(Some(InfoKind::Memory)).await.map_err(failed)?;
    let version = field(&server, "redis_version").to_owned();
    let is_cluster = commands.is_clustered();
    let facts = Facts {
        is_recent: major(&version) >= if is_cluster { 7 } else { 6 },
        version,
        is_cluster,
        eviction: field(&memory, "maxmemory_policy").to_owned(),
        round_trip: round_trip(&commands).await?,
        delivers: delivers(&commands, &ears).await?,
    };
    for client in [commands, ears] {
        let _ = client.quit().await;
    }
    Ok(facts)
}

/// A line `name:value` of what INFO says; of a cluster, the first server's.
fn field<'a>(info: &'a str, name: &str) -> &'a str {
    let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_default().trim()
}

fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

async fn round_trip(commands: &fred::clients::Client) -> Result<Duration, Error> {
    let mut took = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        let answered = commands.ping::<()>(None).await;
        answered.map_err(|error| Error::Failed("answer a ping", error))?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    Ok(took[ROUND_TRIPS / 2])
}

/// Publishes to a channel that is named as a process's, so that a user's rights apply to it too.
async fn delivers(
    commands: &fred::clients::Client,
    ears: &fred::clients::Client,
) -> Result<bool, Error> {
    let unique = format!("{}-{:p}", std::process::id(), std::ptr::from_ref(ears));
    let channel = format!("claudemesh:{{probe-{unique}}}:0");
    let subscribing = |error| Error::Failed("let us subscribe", error);
    let publishing = |error| Error::Failed("let us publish", error);
    let mut messages = ears.message_rx();
    if ears.is_clustered() {
        ears.ssubscribe(channel.clone()).await.map_err(subscribing)?;
        commands.spublish::<(), _, _>(channel.clone(), "probe").await.map_err(publishing)?;
    } else {
        ears.subscribe(channel.clone()).await.map_err(subscribing)?;
        commands.publish::<(), _, _>(channel.clone(), "probe").await.map_err(publishing)?;
    }
    let arrived = timeout(COMMAND_TIMEOUT, async {
        loop {
            match messages.recv().await {
                Ok(message) if *message.channel == *channel => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    });
    Ok(arrived.await.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_says_is_found() {
        let info = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n";
        assert_eq!(field(info, "redis_version"), "7.0.15");
        assert_eq!(field(info, "redis_mode"), "standalone");
        assert_eq!(field(info, "maxmemory_policy"), "");
        assert_eq!((major("7.0.15"), major("10.1"), major("")), (7, 10, 0));
    }
}
