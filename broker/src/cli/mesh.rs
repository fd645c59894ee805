//! `mesh create`, `mesh list`, `mesh invite`.

mod create;
mod files;
mod list;
mod show;

use std::sync::Arc;

use clap::ArgMatches;
use protocol::signature::Keypair;

pub(super) use self::show::pretty;
use super::invite::{DEFAULT_SECONDS, DEFAULT_USES, Signer, Terms, issue};
use super::{Failure, argument};
use crate::clock::wall_ms;
use crate::config::Config;
use crate::model::MeshRow;
use crate::store::Store;
use crate::store::open::open_store;

/// Does one of them. The store is brought up to date first, so that all of them work before the
/// first `serve`; beside a running node that changes nothing.
pub(super) async fn run(matches: &ArgMatches, config: &Config) -> Result<String, Failure> {
    let store = open_store(config).await?;
    if !config.skip_migrate {
        store.migrate().await?;
    }
    match matches.subcommand() {
        Some(("create", matches)) => create::run(matches, config, store.as_ref()).await,
        Some(("list", matches)) => list::run(matches, store.as_ref()).await,
        Some(("invite", matches)) => invite(matches, config, &store).await,
        // clap has refused every other name.
        _ => Err(Failure::new("`mesh` needs a command; see `mesh --help`")),
    }
}

async fn invite(
    matches: &ArgMatches,
    config: &Config,
    store: &Arc<dyn Store>,
) -> Result<String, Failure> {
    let mesh = find(store.as_ref(), &argument::<String>(matches, "mesh")?).await?;
    let lacks = |what: &str| {
        Failure::new(format!(
            "the mesh {} has no {what} in the store, so nobody can sign for it",
            mesh.slug
        ))
    };
    let secret = mesh.owner_secret_key.as_deref().ok_or_else(|| lacks("owner key"))?;
    let root_key = mesh.root_key.as_deref().ok_or_else(|| lacks("root key"))?;
    let owner = Keypair::from_secret_hex(secret).map_err(|_| lacks("readable owner key"))?;
    // A joiner is refused if the two differ; better to say so here.
    if mesh.owner_pubkey.as_deref() != Some(owner.public_hex().as_str()) {
        return Err(lacks("matching pair of owner keys"));
    }
    let signer = Signer {
        mesh: &mesh.id,
        slug: &mesh.slug,
        owner_user: &mesh.owner_user,
        root_key,
        owner: &owner,
    };
    let terms = Terms {
        broker_url: &config.broker_ws_url,
        role: &argument::<String>(matches, "role")?,
        uses: matches.get_one("uses").copied().unwrap_or(DEFAULT_USES),
        seconds: matches.get_one("expires").copied().unwrap_or(DEFAULT_SECONDS),
    };
    Ok(issue(store.as_ref(), &signer, &terms, wall_ms()).await? + "\n")
}

/// The mesh with this id, or else the only one with this slug: databases of the reference may hold
/// several.
pub(super) async fn find(store: &dyn Store, wanted: &str) -> Result<MeshRow, Failure> {
    let mut meshes = store.meshes().await?;
    if let Some(index) = meshes.iter().position(|mesh| mesh.id.as_str() == wanted) {
        return Ok(meshes.swap_remove(index));
    }
    meshes.retain(|mesh| mesh.slug == wanted);
    match (meshes.pop(), meshes.is_empty()) {
        (Some(mesh), true) => Ok(mesh),
        (Some(_), false) => {
            Err(Failure::new(format!("several meshes have the slug {wanted}; name one by its id")))
        }
        (None, _) => Err(Failure::new(format!(
            "there is no mesh {wanted}; `mesh list` shows those there are"
        ))),
    }
}
