//! What travels between nodes: who sends to whom, and items. Sealed as a [`Kind::Frame`].
//!
//! ```text
//! head     2 bytes   length, big-endian, of:
//!                    [from, to] in MessagePack, each [id, incarnation]
//! items              each 4 bytes length, big-endian, and as many bytes
//! ```
//!
//! Whoever can publish in Redis can neither make a frame up nor read one nor send one on to another
//! node. He can repeat one: that is the link's to notice. Items are apart from each other, so that
//! one that its receiver does not understand is refused alone.

use bytes::{Buf, Bytes};

use super::counters::Dropped;
use super::seal::{Kind, Sealer};
use crate::node::NodeKey;

/// Bytes that an item takes beside its own.
pub(super) const ITEM_OVERHEAD: usize = 4;

/// A sealed frame. An item longer than 4 GiB, which nobody has the room for, is left out.
pub(super) fn seal(
    sealer: &Sealer,
    from: &NodeKey,
    to: &NodeKey,
    items: &[Vec<u8>],
) -> Option<Vec<u8>> {
    let head = rmp_serde::to_vec(&(from, to)).ok()?;
    let head_length = u16::try_from(head.len()).ok()?;
    let length: usize = items.iter().map(|item| ITEM_OVERHEAD + item.len()).sum();
    sealer.seal(Kind::Frame, b"", |frame| {
        frame.reserve(2 + head.len() + length);
        frame.extend(head_length.to_be_bytes());
        frame.extend(head);
        for item in items {
            let Ok(length) = u32::try_from(item.len()) else { continue };
            frame.extend(length.to_be_bytes());
            frame.extend(item);
        }
    })
}

/// Who sent a frame to `me`, and the items in it, which share their memory.
pub(super) fn open(
    sealer: &Sealer,
    me: &NodeKey,
    frame: &[u8],
) -> Result<(NodeKey, Vec<Bytes>), Dropped> {
    read(me, sealer.open(Kind::Frame, b"", frame)?)
}

fn read(me: &NodeKey, mut rest: Bytes) -> Result<(NodeKey, Vec<Bytes>), Dropped> {
    let length = usize::from(rest.try_get_u16().map_err(|_| Dropped::Malformed)?);
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

fn item(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    (rest.len() >= length).then(|| rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::seal::Credentials;
    use super::*;

    fn key(name: &str, incarnation: u64) -> NodeKey {
        NodeKey { id: name.into(), incarnation }
    }

    fn sealer() -> Sealer {
        Sealer::new(&Credentials { cluster: "c", secret: b"secret", previous: None }).unwrap()
    }

    fn frame(from: &NodeKey, to: &NodeKey, items: &[Vec<u8>]) -> Vec<u8> {
        seal(&sealer(), from, to, items).unwrap()
    }

    fn opened(me: &NodeKey, frame: &[u8]) -> Result<(NodeKey, Vec<Bytes>), Dropped> {
        open(&sealer(), me, frame)
    }

    #[test]
    fn a_frame_is_opened_only_by_whom_it_is_meant_for() {
        let (a, b) = (key("a", 1), key("b", 7));
        let sealed = frame(&a, &b, &[vec![1, 2], vec![]]);
        assert_eq!(opened(&b, &sealed), Ok((a.clone(), vec![vec![1, 2].into(), Bytes::new()])));
        assert_eq!(opened(&key("b", 8), &sealed), Err(Dropped::Misdirected));
        assert_eq!(opened(&a, &sealed), Err(Dropped::Misdirected));
    }

    #[test]
    fn a_frame_of_a_namesake_is_refused_as_such() {
        let b = key("b", 7);
        assert_eq!(opened(&b, &frame(&key("b", 6), &b, &[])), Err(Dropped::Namesake));
        assert_eq!(opened(&b, &frame(&b, &b, &[])), Ok((b.clone(), vec![])));
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_out_again(
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
            name in ".{0,40}",
            incarnation in any::<u64>(),
        ) {
            let (from, to) = (key(&name, incarnation), key("to", 1));
            let opened = opened(&to, &frame(&from, &to, &items)).unwrap();
            let items = items.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(opened, (from, items));
        }

        /// Sealed by one of us, so all of it is read.
        #[test]
        fn whatever_is_sealed_is_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(&key("b", 7), body.into());
        }
    }
}
