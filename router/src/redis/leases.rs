//! Where leases are kept between owners.

use std::collections::HashMap;

use bytes::Bytes;
use fred::interfaces::HashesInterface;
use fred::types::Value;

use super::{Error, Redis, keys};

/// The script that saves.
pub(super) const SCRIPT: &str = include_str!("leases.lua");
/// How long a mesh's leases are kept after the last save: far longer than any grace, and short
/// enough that a mesh nobody uses costs nothing.
const KEPT_MS: u64 = 24 * 3_600_000;

const SAVE: &str = "save leases";
const LOAD: &str = "load leases";

/// What became of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is kept.
    Ok,
    /// An owner with this higher epoch has saved: nothing was changed.
    Stale(u64),
    /// What is there is not what the save before this one left, or nothing is: nothing was changed,
    /// and only the whole of it can be saved.
    Gone,
}

/// The leases of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leases {
    /// The epoch of whoever saved last.
    pub epoch: u64,
    /// His number of that save.
    pub seq: u64,
    /// What is kept for each presence, in no order.
    pub entries: Vec<(String, Bytes)>,
}

impl Redis {
    /// Saves what has changed: for each presence its bytes, or nothing where it has ended. Saves of
    /// an epoch are numbered, each one more than the one before: so a save that was lost, or whose
    /// outcome is unknown, is found out by the next. With `whole` all else is forgotten, and the
    /// number need only be greater.
    ///
    /// # Errors
    ///
    /// Redis did not answer: it may have saved or not.
    pub async fn save_leases(
        &self,
        mesh: &str,
        epoch: u64,
        seq: u64,
        changes: Vec<(String, Option<Bytes>)>,
        whole: bool,
    ) -> Result<Saved, Error> {
        let mut args: Vec<Value> = vec![
            keys::hex(epoch).into(),
            keys::hex(seq).into(),
            keys::hex(seq.wrapping_sub(1)).into(),
            if whole { "whole" } else { "part" }.into(),
            KEPT_MS.to_string().into(),
        ];
        for (presence, bytes) in changes {
            match bytes {
                Some(bytes) => args.extend(["+".into(), presence.into(), bytes.into()]),
                None => args.extend(["-".into(), presence.into()]),
            }
        }
        let answer = self.0.script(&self.0.saver, &keys::leases(mesh), args, SAVE).await?;
        let texts: Vec<_> = answer.iter().filter_map(Value::as_str).collect();
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        match texts[..] {
            ["ok"] => Ok(Saved::Ok),
            ["gone"] => Ok(Saved::Gone),
            ["stale", epoch] => keys::unhex(epoch).map(Saved::Stale).ok_or(Error::Answer(SAVE)),
            _ => Err(Error::Answer(SAVE)),
        }
    }

    /// What was saved for a mesh; nothing if nothing was, for a day, or if Redis has forgotten it.
    ///
    /// # Errors
    ///
    /// Redis did not answer, or with something that makes no sense.
    pub async fn load_leases(&self, mesh: &str) -> Result<Option<Leases>, Error> {
        let loaded = self.0.commands.hgetall::<HashMap<String, Bytes>, _>(keys::leases(mesh)).await;
        let mut fields = self.0.count(loaded.map_err(|error| Error::Failed(LOAD, error)))?;
        let Some(marker) = fields.remove("marker") else { return Ok(None) };
        let (epoch, seq) = parse(&marker).ok_or(Error::Answer(LOAD))?;
        let presence = |(field, bytes): (String, Bytes)| {
            Some((field.strip_prefix("presence ")?.to_owned(), bytes))
        };
        let entries = fields.into_iter().filter_map(presence).collect();
        Ok(Some(Leases { epoch, seq, entries }))
    }
}

fn parse(marker: &[u8]) -> Option<(u64, u64)> {
    let (epoch, seq) = std::str::from_utf8(marker).ok()?.split_once(' ')?;
    Some((keys::unhex(epoch)?, keys::unhex(seq)?))
}
