//! `audit verify`.

use std::fmt::Write;

use clap::ArgMatches;
use serde::Serialize;

use super::{Failure, mesh};
use crate::config::Config;
use crate::model::{MeshRow, Verified, VerifiedSlice};
use crate::seat::verify;
use crate::store::Store;
use crate::store::open::open_store;

/// A mesh's chain.
#[derive(Serialize)]
struct Json {
    mesh_id: String,
    slug: String,
    valid: bool,
    /// Entries that are right, up to where one is not.
    entries: u64,
    /// The row that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_at: Option<i64>,
}

/// Verifies whole chains, whatever their length, and fails if one is broken.
pub(super) async fn run(matches: &ArgMatches, config: &Config) -> Result<String, Failure> {
    let Some(("verify", matches)) = matches.subcommand() else {
        // clap has refused every other name.
        return Err(Failure::new("`audit` needs a command; see `audit --help`"));
    };
    let store = open_store(config).await?;
    if !config.skip_migrate {
        store.migrate().await?;
    }
    let meshes = match matches.get_one::<String>("mesh") {
        Some(wanted) => vec![mesh::find(store.as_ref(), wanted).await?],
        None => store.meshes().await?,
    };
    let mut chains = Vec::new();
    for mesh in meshes {
        chains.push(chain(store.as_ref(), mesh).await?);
    }
    let broken = chains.iter().filter(|chain| !chain.valid).count();
    let answer = if matches.get_flag("json") { mesh::pretty(&chains)? } else { table(&chains) };
    match broken {
        0 => Ok(answer),
        count => {
            Err(Failure::with_answer(format!("broken chains: {count} of {}", chains.len()), answer))
        }
    }
}

async fn chain(store: &dyn Store, mesh: MeshRow) -> Result<Json, Failure> {
    let mut so_far = Verified::default();
    loop {
        let slice = verify(store, &mesh.id, so_far).await?;
        let VerifiedSlice { so_far: verified, broken_at, ended } = slice;
        if ended {
            let (mesh_id, slug) = (mesh.id.to_string(), mesh.slug);
            let (valid, entries) = (broken_at.is_none(), verified.entries);
            return Ok(Json { mesh_id, slug, valid, entries, broken_at });
        }
        so_far = verified;
    }
}

fn table(chains: &[Json]) -> String {
    let width = chains.iter().map(|chain| chain.slug.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Json { mesh_id, slug, entries, broken_at, .. } in chains {
        let stands = match broken_at {
            None => format!("ok, {entries} entries"),
            Some(row) => format!("broken at row {row}, behind {entries} entries that are right"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{slug:width$}  {mesh_id}  {stands}");
    }
    if chains.is_empty() {
        text.push_str("No meshes yet.\n");
    }
    text
}
