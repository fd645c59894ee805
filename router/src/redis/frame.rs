//! What travels between nodes: a version, a seal, who sends to whom, and items.
//!
//! ```text
//! version  1 byte
//! seal    16 bytes   HMAC-SHA256 of the version and all that follows, cut off
//! head     2 bytes   length, big-endian, of:
//!                    [from, to] in MessagePack, each [id, incarnation]
//! items              each 4 bytes length, big-endian, and as many bytes
//! ```
//!
//! Whoever can publish in Redis can neither make a frame up nor send one on to another node. He
//! can repeat one: that is the link's to notice. Items are apart from each other, so that one that
//! its receiver does not understand is refused alone.

use bytes::{Buf, Bytes};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::counters::Dropped;
use crate::node::NodeKey;

/// Nodes of different versions live side by side during a deploy, and ignore each other's frames if
/// this differs.
const VERSION: u8 = 1;
const SEAL: usize = 16;
/// Before the head: version, seal and the head's length.
const BEFORE_HEAD: usize = 1 + SEAL + 2;
/// Bytes that an item takes beside its own.
pub(super) const ITEM_OVERHEAD: usize = 4;

/// Seals frames, and opens those that others sealed with the same secret.
pub(super) struct Sealer(Hmac<Sha256>);

impl Sealer {
    pub(super) fn new(secret: &[u8]) -> Self {
        // A digest, so that the secret may be of any length, and nothing else is sealed with it.
        let key = Sha256::new().chain_update(b"claudemesh frame\0").chain_update(secret).finalize();
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(&key);
        Self(Hmac::new(&block.into()))
    }

    /// A frame. An item longer than 4 GiB, which nobody has the room for, is left out.
    pub(super) fn seal(&self, from: &NodeKey, to: &NodeKey, items: &[Vec<u8>]) -> Option<Vec<u8>> {
        let head = rmp_serde::to_vec(&(from, to)).ok()?;
        let length: usize = items.iter().map(|item| ITEM_OVERHEAD + item.len()).sum();
        let mut frame = Vec::with_capacity(BEFORE_HEAD + head.len() + length);
        frame.push(VERSION);
        frame.extend([0; SEAL]);
        frame.extend(u16::try_from(head.len()).ok()?.to_be_bytes());
        frame.extend(head);
        for item in items {
            let Ok(length) = u32::try_from(item.len()) else { continue };
            frame.extend(length.to_be_bytes());
            frame.extend(item);
        }
        let seal = self.mac(&frame).finalize().into_bytes();
        frame[1..=SEAL].copy_from_slice(&seal[..SEAL]);
        Some(frame)
    }

    /// Who sent a frame to `me`, and the items in it, which share its memory.
    pub(super) fn open(
        &self,
        me: &NodeKey,
        frame: &Bytes,
    ) -> Result<(NodeKey, Vec<Bytes>), Dropped> {
        if frame.first().is_some_and(|version| *version != VERSION) {
            return Err(Dropped::Version);
        }
        let Some((before, mut rest)) = split(frame, BEFORE_HEAD) else {
            return Err(Dropped::Malformed);
        };
        let mac = self.mac(frame);
        mac.verify_truncated_left(&before[1..=SEAL]).map_err(|_| Dropped::Forged)?;
        let length =
            usize::from(u16::from_be_bytes([before[BEFORE_HEAD - 2], before[BEFORE_HEAD - 1]]));
        if rest.len() < length {
            return Err(Dropped::Malformed);
        }
        let head = rest.split_to(length);
        let (from, to): (NodeKey, NodeKey) =
            rmp_serde::from_slice(&head).map_err(|_| Dropped::Malformed)?;
        if to != *me {
            return Err(Dropped::Misdirected);
        }
        if from.id == me.id && from != *me {
            return Err(Dropped::Namesake);
        }
        let mut items = Vec::new();
        while !rest.is_empty() {
            items.push(item(&mut rest).ok_or(Dropped::Malformed)?);
        }
        Ok((from, items))
    }

    /// Over everything but the seal's place.
    fn mac(&self, frame: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(frame.get(..1).unwrap_or_default());
        mac.update(frame.get(1 + SEAL..).unwrap_or_default());
        mac
    }
}

fn split(frame: &Bytes, at: usize) -> Option<(Bytes, Bytes)> {
    (frame.len() >= at).then(|| (frame.slice(..at), frame.slice(at..)))
}

fn item(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    (rest.len() >= length).then(|| rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str, incarnation: u64) -> NodeKey {
        NodeKey { id: name.into(), incarnation }
    }

    fn frame(from: &NodeKey, to: &NodeKey, items: &[Vec<u8>]) -> Bytes {
        Sealer::new(b"secret").seal(from, to, items).unwrap().into()
    }

    fn open(me: &NodeKey, frame: &Bytes) -> Result<(NodeKey, Vec<Bytes>), Dropped> {
        Sealer::new(b"secret").open(me, frame)
    }

    #[test]
    fn a_frame_is_opened_only_by_whom_it_is_meant_for() {
        let (a, b) = (key("a", 1), key("b", 7));
        let sealed = frame(&a, &b, &[vec![1, 2], vec![]]);
        assert_eq!(open(&b, &sealed), Ok((a.clone(), vec![vec![1, 2].into(), Bytes::new()])));
        assert_eq!(open(&key("b", 8), &sealed), Err(Dropped::Misdirected));
        assert_eq!(open(&a, &sealed), Err(Dropped::Misdirected));
        assert_eq!(Sealer::new(b"other").open(&b, &sealed), Err(Dropped::Forged));
    }

    #[test]
    fn a_frame_of_a_namesake_or_of_another_version_is_refused_as_such() {
        let b = key("b", 7);
        assert_eq!(open(&b, &frame(&key("b", 6), &b, &[])), Err(Dropped::Namesake));
        assert_eq!(open(&b, &frame(&b, &b, &[])), Ok((b.clone(), vec![])));
        let mut newer = frame(&key("a", 1), &b, &[]).to_vec();
        newer[0] = VERSION + 1;
        assert_eq!(open(&b, &newer.into()), Err(Dropped::Version));
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_out_again(
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
            name in ".{0,40}",
            incarnation in any::<u64>(),
        ) {
            let (from, to) = (key(&name, incarnation), key("to", 1));
            let opened = open(&to, &frame(&from, &to, &items)).unwrap();
            let items = items.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(opened, (from, items));
        }

        #[test]
        fn one_changed_bit_is_noticed(place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (a, b) = (key("a", 1), key("b", 7));
            let mut bytes = frame(&a, &b, &[b"kick".to_vec()]).to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let why = if place == 0 { Dropped::Version } else { Dropped::Forged };
            prop_assert_eq!(open(&b, &bytes.into()), Err(why));
        }

        /// Sealed by one of us, so all of it is read.
        #[test]
        fn whatever_is_sealed_is_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let sealer = Sealer::new(b"secret");
            let mut bytes = [vec![VERSION], vec![0; SEAL], body].concat();
            let seal = sealer.mac(&bytes).finalize().into_bytes();
            bytes[1..=SEAL].copy_from_slice(&seal[..SEAL]);
            let _ = open(&key("b", 7), &bytes.into());
        }

        #[test]
        fn anything_at_all_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(open(&key("b", 7), &bytes.into()).is_err());
        }
    }
}
