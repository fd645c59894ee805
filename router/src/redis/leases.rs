//! Where leases are kept between owners.

use std::collections::HashMap;

use bytes::Bytes;
use fred::types::Value;

use super::seal::Kind;
use super::{Dropped, Error, Redis, Shared, keys};

/// The script that saves, and the one that loads.
pub(super) const SAVER: &str = include_str!("leases.lua");
pub(super) const LOADER: &str = include_str!("load.lua");
/// Presences of a mesh that are loaded at most, and bytes of all of them: some hundreds are saved, of
/// a few kilobytes each.
const MOST: (usize, usize) = (20_000, 64 * 1024 * 1024);
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
        let how = if whole { "whole" } else { "part" };
        let args = self.0.save_args(mesh, (epoch, seq), how, &changes);
        let (said, marker) = match self.0.save(mesh, args).await? {
            Answer::Ok => return Ok(Saved::Ok),
            Answer::Stale(marker) => ("stale", marker),
            Answer::Gone(marker) => ("gone", marker),
        };
        match (said, self.0.believe(mesh, &marker)) {
            ("stale", Some((epoch, _))) => return Ok(Saved::Stale(epoch)),
            // Nobody of us has written what is there: it goes.
            (_, None) if whole && !marker.0.is_empty() => {}
            _ => return Ok(Saved::Gone),
        }
        let args = self.0.save_args(mesh, (epoch, seq), "forced", &changes);
        let saved = self.0.save(mesh, args).await?;
        Ok(if matches!(saved, Answer::Ok) { Saved::Ok } else { Saved::Gone })
    }

    /// What was saved for a mesh; nothing if nothing was, for a day, or if Redis has forgotten it, or
    /// what is there is none of ours.
    ///
    /// # Errors
    ///
    /// Redis did not answer, or with something that makes no sense.
    pub async fn load_leases(&self, mesh: &str) -> Result<Option<Leases>, Error> {
        let shared = &self.0;
        let args = vec![MOST.0.to_string().into(), MOST.1.to_string().into()];
        let loaded = shared.script(&shared.loader, &shared.keys.leases(mesh), args, LOAD).await?;
        if loaded.len() == 1 {
            shared.refuse(Dropped::Malformed, 1);
            return Ok(None);
        }
        let mut fields = HashMap::new();
        let mut loaded = loaded.into_iter();
        while let (Some(field), Some(value)) = (loaded.next(), loaded.next()) {
            if let (Some(field), Some(value)) = (field.into_string(), value.into_bytes()) {
                fields.insert(field, value);
            }
        }
        let Some(marker) = fields.remove("marker") else { return Ok(None) };
        let Some((epoch, seq)) = shared.believe(mesh, &split(&marker)) else { return Ok(None) };
        let mut entries = Vec::with_capacity(fields.len());
        for (field, sealed) in fields {
            let Some(presence) = field.strip_prefix("presence ") else { continue };
            match shared.sealer.open(Kind::Lease, &about(mesh, presence, epoch), &sealed) {
                Ok(bytes) => entries.push((presence.to_owned(), bytes)),
                Err(why) => shared.refuse(why, 1),
            }
        }
        Ok(Some(Leases { epoch, seq, entries }))
    }
}

/// A marker: what stands in clear, and what is sealed.
type Marker = (String, Bytes);

enum Answer {
    Ok,
    Stale(Marker),
    Gone(Marker),
}

impl Shared {
    fn save_args(
        &self,
        mesh: &str,
        (epoch, seq): (u64, u64),
        how: &str,
        changes: &[(String, Option<Bytes>)],
    ) -> Vec<Value> {
        let marker = self.sealer.seal(Kind::Marker, mesh.as_bytes(), |plain| {
            plain.extend(clear(epoch, seq).as_bytes());
        });
        let mut args: Vec<Value> = vec![
            keys::hex(epoch).into(),
            keys::hex(seq).into(),
            keys::hex(seq.wrapping_sub(1)).into(),
            how.into(),
            Bytes::from(marker.unwrap_or_default()).into(),
            KEPT_MS.to_string().into(),
        ];
        for (presence, bytes) in changes {
            let sealed = bytes.as_ref().and_then(|bytes| {
                let about = about(mesh, presence, epoch);
                self.sealer.seal(Kind::Lease, &about, |plain| plain.extend(bytes))
            });
            match sealed {
                Some(sealed) => {
                    args.extend(["+".into(), presence.as_str().into(), Bytes::from(sealed).into()]);
                }
                None => args.extend(["-".into(), presence.as_str().into()]),
            }
        }
        args
    }

    async fn save(&self, mesh: &str, args: Vec<Value>) -> Result<Answer, Error> {
        let answer = self.script(&self.saver, &self.keys.leases(mesh), args, SAVE).await?;
        let mut parts = answer.into_iter();
        let word = parts.next().and_then(Value::into_string).unwrap_or_default();
        let there = parts.next().and_then(Value::into_string).unwrap_or_default();
        let sealed = parts.next().and_then(Value::into_bytes).unwrap_or_default();
        match word.as_str() {
            "ok" => Ok(Answer::Ok),
            "stale" => Ok(Answer::Stale((there, sealed))),
            "gone" => Ok(Answer::Gone((there, sealed))),
            _ => Err(Error::Answer(SAVE)),
        }
    }

    /// The epoch and the number of a marker, if one of us has sealed just these.
    fn believe(&self, mesh: &str, (there, sealed): &Marker) -> Option<(u64, u64)> {
        if there.is_empty() {
            return None;
        }
        let opened = self.sealer.open(Kind::Marker, mesh.as_bytes(), sealed);
        let plain = opened.inspect_err(|why| self.refuse(*why, 1)).ok()?;
        (plain == there.as_bytes()).then(|| parse(there))?
    }
}

/// What a lease is sealed for: whose it is, and under which epoch it was saved.
fn about(mesh: &str, presence: &str, epoch: u64) -> Vec<u8> {
    format!("{} {mesh} {presence} {epoch:x}", mesh.len()).into_bytes()
}

fn clear(epoch: u64, seq: u64) -> String {
    format!("{} {}", keys::hex(epoch), keys::hex(seq))
}

/// A marker as it stands in Redis: two numbers in clear, 16 digits each, and what is sealed.
fn split(marker: &Bytes) -> Marker {
    const CLEAR: usize = 33;
    match marker.get(..CLEAR).and_then(|clear| std::str::from_utf8(clear).ok()) {
        Some(clear) if marker.get(CLEAR) == Some(&b' ') => {
            (clear.to_owned(), marker.slice(CLEAR + 1..))
        }
        _ => ("none".to_owned(), Bytes::new()),
    }
}

fn parse(clear: &str) -> Option<(u64, u64)> {
    let (epoch, seq) = clear.split_once(' ')?;
    Some((keys::unhex(epoch)?, keys::unhex(seq)?))
}
