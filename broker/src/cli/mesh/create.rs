//! `mesh create`: a mesh, its keys, its first members and an invite.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;
use protocol::signature::Keypair;
use protocol::{MeshId, names};

use super::files::{self, Files};
use super::show::{Created, CreatedMember};
use crate::cli::invite::{DEFAULT_SECONDS, DEFAULT_USES, Signer, Terms, issue};
use crate::cli::{Failure, argument, keys};
use crate::clock::wall_ms;
use crate::config::Config;
use crate::model::{NewMember, NewMesh};
use crate::store::{Store, StoreError};

/// Who is in a mesh when nobody is named: the person who types.
const SOLE_MEMBER: &str = "me";

pub(super) async fn run(
    matches: &ArgMatches,
    config: &Config,
    store: &dyn Store,
) -> Result<String, Failure> {
    let slug: String = argument(matches, "slug")?;
    let name = names::tidied(matches.get_one::<String>("name").unwrap_or(&slug));
    let owner_user: String = argument(matches, "owner-user")?;
    if matches.value_source("owner-user") == Some(ValueSource::DefaultValue) {
        nobody_to_choose_from(store).await?;
    }
    let now = wall_ms();
    let owner = keys::keypair()?;
    let members = members(&member_names(matches))?;
    // What cannot be written is known before the mesh is made.
    let files = match matches.get_one::<PathBuf>("config-dir") {
        Some(folder) => {
            let names = members.iter().map(|member| member.display_name.as_str());
            Some(Files::prepare(folder, names)?)
        }
        None => None,
    };
    let mesh = NewMesh {
        id: MeshId::from(keys::id()?),
        slug,
        name,
        owner_pubkey: owner.public_hex(),
        owner_secret_key: owner.secret_hex(),
        root_key: keys::root_key()?,
        // The first member is the owner's own, and may do what an owner may.
        members: members
            .iter()
            .enumerate()
            .map(|(index, member)| member.row((index == 0).then(|| owner_user.clone())))
            .collect(),
        created_at: now,
        owner_user,
    };
    if !record(store, &mesh).await? {
        return Err(Failure::new(format!(
            "a mesh with the slug {} exists already; choose another, or see `mesh list`",
            mesh.slug
        )));
    }
    let invite = invite(store, config, &mesh, &owner, now).await;
    let (invite_url, failed) = match invite {
        Ok(url) => (url, None),
        Err(failure) => (String::new(), Some(failure)),
    };
    let created = Created { mesh, members, invite_url };
    let answer = shown(&created, &config.broker_ws_url, files, matches.get_flag("json"))?;
    match failed {
        None => Ok(answer),
        Some(failure) => Err(Failure::with_answer(
            format!("the mesh exists, its invite does not ({failure}); use `mesh invite`"),
            answer,
        )),
    }
}

/// What is to be printed. The keys are kept nowhere else, so they are shown if they cannot be written.
fn shown(
    created: &Created,
    url: &str,
    files: Option<Files>,
    as_json: bool,
) -> Result<String, Failure> {
    let show = |written: Option<&[PathBuf]>| {
        if as_json { created.json(url) } else { created.text(url, written) }
    };
    let Some(files) = files else { return show(None) };
    match write_configs(created, url, &files) {
        Ok(()) => show(Some(&files.paths)),
        Err(failure) => {
            let reason = format!("the mesh exists, the files of its members do not: {failure}");
            Err(Failure::with_answer(reason, show(None)?))
        }
    }
}

fn write_configs(created: &Created, url: &str, files: &Files) -> Result<(), Failure> {
    for (member, path) in created.members.iter().zip(&files.paths) {
        files::write(path, &created.client_config(member, url)?)?;
    }
    Ok(())
}

/// Where a web application shares the database, a mesh belongs to one of its users.
async fn nobody_to_choose_from(store: &dyn Store) -> Result<(), Failure> {
    let users = store.users().await?;
    if users.is_empty() {
        return Ok(());
    }
    let mut text = "a web application shares the database, so say with --owner-user which of its \
                    users the mesh belongs to:"
        .to_owned();
    for user in &users {
        let _ = write!(text, "\n  {}  {} <{}>", user.id, user.name, user.email);
    }
    Err(Failure::new(text))
}

async fn record(store: &dyn Store, mesh: &NewMesh) -> Result<bool, Failure> {
    store.create_mesh(mesh).await.map_err(|error| match error {
        StoreError::BadData(_) => Failure::new(format!(
            "{error}\nWhere a web application shares the database, --owner-user must be one of \
             its users (now: {}).",
            mesh.owner_user
        )),
        _ => error.into(),
    })
}

fn member_names(matches: &ArgMatches) -> Vec<String> {
    if let Some(count) = matches.get_one::<u64>("members") {
        return (0..*count).map(|index| format!("p{index}")).collect();
    }
    match matches.get_many::<String>("member") {
        Some(names) => names.cloned().collect(),
        None => vec![SOLE_MEMBER.to_owned()],
    }
}

/// A key for each; the first is an admin.
fn members(names: &[String]) -> Result<Vec<CreatedMember>, Failure> {
    let member = |(index, name): (usize, &String)| {
        let key = keys::keypair()?;
        Ok(CreatedMember {
            member_id: keys::id()?,
            display_name: names::tidied(name),
            role: if index == 0 { "admin" } else { "member" },
            pubkey: key.public_hex(),
            secret_key: key.secret_hex(),
        })
    };
    names.iter().enumerate().map(member).collect()
}

impl CreatedMember {
    fn row(&self, user: Option<String>) -> NewMember {
        NewMember {
            id: self.member_id.as_str().into(),
            pubkey: self.pubkey.clone(),
            display_name: self.display_name.clone(),
            role: self.role,
            user,
        }
    }
}

async fn invite(
    store: &dyn Store,
    config: &Config,
    mesh: &NewMesh,
    owner: &Keypair,
    now: i64,
) -> Result<String, Failure> {
    let signer = Signer {
        mesh: &mesh.id,
        slug: &mesh.slug,
        owner_user: &mesh.owner_user,
        root_key: &mesh.root_key,
        owner,
    };
    let terms = Terms {
        broker_url: &config.broker_ws_url,
        role: "member",
        uses: DEFAULT_USES,
        seconds: DEFAULT_SECONDS,
    };
    issue(store, &signer, &terms, now).await
}
