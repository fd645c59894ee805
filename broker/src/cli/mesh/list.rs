//! `mesh list`.

use std::fmt::Write;

use clap::ArgMatches;
use serde::Serialize;

use super::show::pretty;
use crate::cli::Failure;
use crate::model::MeshRow;
use crate::store::Store;

/// What tools get of a mesh. No secrets.
#[derive(Serialize)]
struct Json<'a> {
    mesh_id: &'a str,
    slug: &'a str,
    name: &'a str,
    members: u64,
    owner_pubkey: Option<&'a str>,
    created_at: String,
}

impl<'a> From<&'a MeshRow> for Json<'a> {
    fn from(mesh: &'a MeshRow) -> Self {
        Self {
            mesh_id: mesh.id.as_str(),
            slug: &mesh.slug,
            name: &mesh.name,
            members: mesh.members,
            owner_pubkey: mesh.owner_pubkey.as_deref(),
            created_at: protocol::time::iso(mesh.created_at),
        }
    }
}

pub(super) async fn run(matches: &ArgMatches, store: &dyn Store) -> Result<String, Failure> {
    let meshes = store.meshes().await?;
    if matches.get_flag("json") {
        return pretty(&meshes.iter().map(Json::from).collect::<Vec<_>>());
    }
    if meshes.is_empty() {
        return Ok("No meshes yet; `mesh create <SLUG>` makes one.\n".into());
    }
    let width = meshes.iter().map(|mesh| mesh.slug.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  MEMBERS  ID                                NAME\n", "SLUG");
    for mesh in &meshes {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:width$}  {:>7}  {:32}  {}",
            mesh.slug,
            mesh.members,
            mesh.id.as_str(),
            mesh.name
        );
    }
    Ok(text)
}
