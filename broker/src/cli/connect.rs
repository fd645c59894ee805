//! `check-config --connect`: tries what the settings name, and says how each thing stands.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use router::redis::probe as redis;

use super::Failure;
use crate::config::{Config, Secret};
use crate::store::open::{POSTGRES_LANES, sqlite_path};
use crate::store::postgres::probe as postgres;
use crate::store::sqlite::Sqlite;
use crate::store::{Store, StoreError};

/// What was found, in the order in which it is shown.
#[derive(Default)]
struct Findings {
    text: String,
    refused: usize,
}

impl Findings {
    fn heading(&mut self, what: &str) {
        let _ = writeln!(self.text, "{what}");
    }

    fn good(&mut self, what: &str) {
        let _ = writeln!(self.text, "  ok       {what}");
    }

    /// A node starts, and something does not hold that should.
    fn warning(&mut self, what: &str) {
        let _ = writeln!(self.text, "  warning  {what}");
    }

    /// A node does not start, or does not work.
    fn refused(&mut self, what: &str) {
        self.refused += 1;
        let _ = writeln!(self.text, "  REFUSED  {what}");
    }
}

pub(super) async fn run(config: &Config) -> Result<String, Failure> {
    let mut findings = Findings::default();
    match &config.database_url {
        Some(url) => database(&mut findings, url).await,
        None => file(&mut findings, &sqlite_path(config)).await,
    }
    if let Some(url) = &config.redis_url {
        pub_sub(&mut findings, url).await;
    }
    let Findings { text, refused } = findings;
    match refused {
        0 => Ok(text),
        1 => Err(Failure::with_answer("one thing has to be mended before a node can run", text)),
        n => Err(Failure::with_answer(format!("{n} things have to be mended"), text)),
    }
}

async fn database(findings: &mut Findings, url: &Secret) {
    findings.heading(&format!("Postgres at {url}"));
    let facts = match postgres::facts(url.expose()).await {
        Ok(facts) => facts,
        Err(StoreError::Unavailable(why) | StoreError::Unusable(why)) => {
            return findings.refused(&why);
        }
        Err(error) => return findings.refused(&error.to_string()),
    };
    let postgres::Facts { version, round_trip, .. } = &facts;
    findings.good(&format!("version {version}, encoding UTF8, sessions of its own (no pooler)"));
    match version.split('.').next().and_then(|major| major.trim().parse::<u32>().ok()) {
        Some(major) if major >= 14 => {}
        _ => findings.refused("Postgres 14 or later is needed"),
    }
    findings.good(&format!("a round trip takes {}", shown(*round_trip)));
    if facts.is_read_only {
        findings.refused("it is read-only: a standby, or default_transaction_read_only");
    }
    if facts.missing_rights.is_empty() {
        findings.good("this user has every right that is needed");
    }
    for lack in &facts.missing_rights {
        findings.refused(&format!("this user {lack}"));
    }
    let (left, needed) = (facts.connections_left, postgres::connections_of_a_node(POSTGRES_LANES));
    let connections = format!("{left} connections are left, a node opens {needed} at most");
    if left >= needed {
        findings.good(&connections);
    } else {
        findings.warning(&connections);
    }
    for sentence in &facts.unsafe_settings {
        findings.warning(sentence);
    }
    if facts.unsafe_settings.is_empty() {
        findings.good("what it acknowledges is on disk (fsync, synchronous_commit)");
    }
}

async fn file(findings: &mut Findings, path: &Path) {
    findings.heading(&format!("SQLite at {}", path.display()));
    // Nothing is made here: who asks is perhaps not who will run the node.
    if !path.exists() {
        let there = path
            .ancestors()
            .skip(1)
            .find(|folder| folder.as_os_str().is_empty() || folder.exists());
        let there = there.filter(|folder| !folder.as_os_str().is_empty());
        let there = there.unwrap_or(Path::new("."));
        return match tempfile_in(there) {
            Ok(()) => findings.good("it does not exist yet, and can be made"),
            Err(error) => {
                let there = there.display();
                findings.refused(&format!(
                    "it cannot be made, nothing can be written to {there}: {error}"
                ));
            }
        };
    }
    let store = match Sqlite::open(path).await {
        Ok(store) => store,
        Err(error) => return findings.refused(&error.to_string()),
    };
    match store.healthy().await {
        Ok(()) => findings.good("it can be written to"),
        // A file of a version before has no such table yet.
        Err(error) => findings.warning(&format!("a test write failed: {error}")),
    }
    match store.claim(false).await {
        Ok(Some(_)) => findings.good("no node runs on it"),
        Ok(None) => findings.warning("a node runs on it now; another waits for it to stop"),
        Err(error) => findings.refused(&error.to_string()),
    }
    match store.unsafe_settings().await {
        Ok(found) if found.is_empty() => findings.good("what it acknowledges is on disk"),
        Ok(found) => found.iter().for_each(|sentence| findings.warning(sentence)),
        Err(error) => findings.warning(&error.to_string()),
    }
    store.close().await;
}

/// Whether a file can be made there: rights say less than trying does.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".claudemesh-{}", std::process::id()));
    std::fs::File::create_new(&path)?;
    std::fs::remove_file(path)
}

async fn pub_sub(findings: &mut Findings, url: &Secret) {
    findings.heading(&format!("Redis at {url}"));
    let facts = match redis::facts(url.expose()).await {
        Ok(facts) => facts,
        Err(error) => return findings.refused(&error.to_string()),
    };
    let kind = if facts.is_cluster { "a Redis Cluster of version" } else { "version" };
    let version = format!("{kind} {}", facts.version);
    if facts.is_recent {
        findings.good(&version);
    } else {
        findings.refused(&format!("{version}: 6 or later is needed, 7 for a Redis Cluster"));
    }
    findings.good(&format!("a round trip takes {}", shown(facts.round_trip)));
    if facts.delivers {
        findings.good("what is published arrives");
    } else {
        findings.refused("what is published does not arrive: nodes could not talk to each other");
    }
    match facts.eviction.as_str() {
        "noeviction" | "" => findings.good("it keeps what it is given (noeviction)"),
        policy => findings.warning(&format!(
            "maxmemory-policy is {policy}: with its memory full it may drop what nodes keep there; \
             set noeviction"
        )),
    }
}

fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
