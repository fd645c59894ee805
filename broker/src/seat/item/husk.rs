//! What is left of an item whose content only a later version can read.

use std::sync::Arc;

use protocol::MeshId;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Down, FromOwner, Item, LinkNo, ToOwner, Up};
use crate::mesh::io::{Command, ConnId, Numbered};
use crate::model::Epoch;

/// An item of a stream.
#[derive(Deserialize)]
enum Husk {
    ToOwner(UpHusk),
    FromOwner(DownHusk),
}

#[derive(Deserialize)]
enum UpHusk {
    Up { link: LinkNo, number: u64, expects: u64, up: UpContent },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum UpContent {
    Command {
        #[serde(rename = "Command")]
        numbers: Numbers,
    },
    Other(IgnoredAny),
}

/// A [`Numbered`] without its command.
#[derive(Deserialize)]
struct Numbers {
    conn: ConnId,
    epoch: Epoch,
    base: u64,
    number: u64,
}

#[derive(Deserialize)]
enum DownHusk {
    Down {
        link: LinkNo,
        number: u64,
        expects: u64,
        #[serde(rename = "down")]
        _down: IgnoredAny,
    },
}

pub(super) fn decode(bytes: &[u8]) -> Result<(MeshId, Item), rmp_serde::decode::Error> {
    let (mesh, husk): (MeshId, Husk) = rmp_serde::from_slice(bytes)?;
    let item = match husk {
        Husk::ToOwner(UpHusk::Up { link, number, expects, up }) => {
            let up = match up {
                UpContent::Command { numbers: Numbers { conn, epoch, base, number } } => {
                    let command = Arc::new(Command::Unknown);
                    Up::Command(Numbered { conn, epoch, base, number, command })
                }
                UpContent::Other(_) => Up::Unknown,
            };
            Item::ToOwner(ToOwner::Up { link, number, expects, up })
        }
        Husk::FromOwner(DownHusk::Down { link, number, expects, .. }) => {
            Item::FromOwner(FromOwner::Down { link, number, expects, down: Down::Unknown })
        }
    };
    Ok((mesh, item))
}
