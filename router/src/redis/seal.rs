//! Sealing: whatever lies in Redis or passes through it is encrypted and authenticated.
//!
//! ```text
//! version     1 byte
//! secret      8 bytes   which secret: a name that tells nothing of it
//! process    16 bytes   of whoever sealed it: random, drawn at its start
//! number      8 bytes   big-endian: how much that process has sealed before
//! ciphertext            and its tag of 16 bytes
//! ```
//!
//! AES-256-GCM (NIST SP 800-38D) under keys that HKDF-SHA256 (RFC 5869) derives from the cluster's
//! secret. Each key is for one cluster, one kind of thing and one process, and the number is its
//! nonce, so no nonce is used twice. What is sealed is bound to what it is about (a node, a lease, a
//! mesh): moved elsewhere it does not open.
//!
//! A secret is changed while nodes run: whoever knows two seals under the one before as long as some
//! living node knows only that one, and opens both.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use super::counters::Dropped;

/// Nodes of different versions live side by side during a deploy, and ignore what the others seal
/// if this differs. Version 1 was authenticated only.
pub(super) const VERSION: u8 = 2;
const NAME: usize = 8;
const PROCESS: usize = 16;
const HEADER: usize = 1 + NAME + PROCESS + 8;
const TAG: usize = 16;
/// Bytes that sealing adds.
pub(super) const OVERHEAD: usize = HEADER + TAG;
/// Keys of other processes that are kept. Beyond it all are derived anew, some microseconds each.
const KEYS_KEPT: usize = 1024;

/// The name of a secret: derived from it, and of no use to guess it.
pub(super) type SecretName = [u8; NAME];

/// Which cluster a node is of, and what it shows for it.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The cluster's id, from its store.
    pub cluster: &'a str,
    /// `CLUSTER_SECRET`.
    pub secret: &'a [u8],
    /// The one before it, while it is being changed.
    pub previous: Option<&'a [u8]>,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// What is sealed. Each kind has keys of its own, so that nothing passes for another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Frame,
    Hint,
    Node,
    Lease,
    Marker,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Frame, Self::Hint, Self::Node, Self::Lease, Self::Marker];

    fn label(self) -> &'static [u8] {
        match self {
            Self::Frame => b"frame",
            Self::Hint => b"hint",
            Self::Node => b"node",
            Self::Lease => b"lease",
            Self::Marker => b"marker",
        }
    }
}

/// A length that HKDF is asked for.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// A secret of this cluster.
struct Secret {
    name: SecretName,
    root: Prk,
    /// For what this process seals, by kind.
    own: Vec<LessSafeKey>,
}

impl Secret {
    fn new(cluster: &str, secret: &[u8], process: &[u8; PROCESS]) -> Result<Self, Unspecified> {
        let root = Salt::new(HKDF_SHA256, cluster.as_bytes()).extract(secret);
        let mut name = [0; NAME];
        root.expand(&[b"claudemesh secret's name"], Length(NAME))?.fill(&mut name)?;
        let own = Kind::ALL.iter().map(|kind| key(&root, *kind, process)).collect::<Result<_, _>>();
        Ok(Self { name, own: own?, root })
    }
}

fn key(root: &Prk, kind: Kind, process: &[u8]) -> Result<LessSafeKey, Unspecified> {
    let info = [b"claudemesh 2 ".as_slice(), kind.label(), b"\0", process];
    Ok(LessSafeKey::new(UnboundKey::from(root.expand(&info, &AES_256_GCM)?)))
}

fn nonce(number: [u8; 8]) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals, and opens what others have sealed with a secret that this node knows.
pub(super) struct Sealer {
    /// The newest first; two at most.
    secrets: Vec<Secret>,
    /// Somebody knows only the second.
    under_previous: AtomicBool,
    process: [u8; PROCESS],
    sealed: AtomicU64,
    /// Of other processes, and of which kind.
    keys: Mutex<Keys>,
}

/// By the secret's name, the kind, and the process that seals.
type Keys = HashMap<(SecretName, Kind, [u8; PROCESS]), Arc<LessSafeKey>>;

impl Sealer {
    /// # Errors
    ///
    /// The system gives no random bytes.
    pub(super) fn new(credentials: &Credentials<'_>) -> Result<Self, Unspecified> {
        let mut process = [0; PROCESS];
        SystemRandom::new().fill(&mut process)?;
        let secrets = [Some(credentials.secret), credentials.previous].into_iter().flatten();
        let secret = |secret| Secret::new(credentials.cluster, secret, &process);
        let secrets: Vec<_> = secrets.map(secret).collect::<Result<_, _>>()?;
        Ok(Self {
            under_previous: AtomicBool::new(secrets.len() > 1),
            secrets,
            process,
            sealed: AtomicU64::new(0),
            keys: Mutex::default(),
        })
    }

    /// The names of the secrets that it knows.
    pub(super) fn names(&self) -> Vec<SecretName> {
        self.secrets.iter().map(|secret| secret.name).collect()
    }

    /// Whether a secret is being changed.
    pub(super) fn has_previous(&self) -> bool {
        self.secrets.len() > 1
    }

    /// The living nodes know these secrets, each its own. Whether another one is sealed with now.
    pub(super) fn known_by_others<'a>(
        &self,
        others: impl IntoIterator<Item = &'a [SecretName]>,
    ) -> bool {
        let newest = self.secrets[0].name;
        let behind = others.into_iter().any(|names| !names.contains(&newest));
        let under_previous = behind && self.has_previous();
        self.under_previous.swap(under_previous, Ordering::Relaxed) != under_previous
    }

    /// Seals what `write` adds, bound to what it is `about`. Nothing only where that is longer than
    /// the cipher allows, 64 GiB.
    pub(super) fn seal(
        &self,
        kind: Kind,
        about: &[u8],
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Vec<u8>> {
        let secret = &self.secrets[usize::from(self.under_previous.load(Ordering::Relaxed))];
        let number = self.sealed.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut sealed = Vec::with_capacity(OVERHEAD + 64);
        sealed.push(VERSION);
        sealed.extend(secret.name);
        sealed.extend(self.process);
        sealed.extend(number);
        write(&mut sealed);
        let key = &secret.own[kind as usize];
        let text = &mut sealed[HEADER..];
        let tag = key.seal_in_place_separate_tag(nonce(number), Aad::from(about), text).ok()?;
        sealed.extend(tag.as_ref());
        Some(sealed)
    }

    /// What was sealed as this kind of thing, about this.
    ///
    /// # Errors
    ///
    /// Why it is nothing that a node of this cluster has sealed.
    pub(super) fn open(&self, kind: Kind, about: &[u8], sealed: &[u8]) -> Result<Bytes, Dropped> {
        if sealed.first().is_some_and(|version| *version != VERSION) {
            return Err(Dropped::Version);
        }
        let Some(Header { name, process, number, text }) = Header::of(sealed) else {
            return Err(Dropped::Malformed);
        };
        let secret = self.secrets.iter().find(|secret| secret.name == name);
        let secret = secret.ok_or(Dropped::Foreign)?;
        let known = self.keys().get(&(name, kind, process)).cloned();
        let fresh = known.is_none();
        let key = match known {
            Some(key) => key,
            None => Arc::new(key(&secret.root, kind, &process).map_err(|_| Dropped::Forged)?),
        };
        let mut text = text.to_vec();
        let plain = key.open_in_place(nonce(number), Aad::from(about), &mut text);
        let length = plain.map_err(|_| Dropped::Forged)?.len();
        text.truncate(length);
        if fresh {
            let mut keys = self.keys();
            if keys.len() >= KEYS_KEPT {
                keys.clear();
            }
            keys.insert((name, kind, process), key);
        }
        Ok(text.into())
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        // A panic elsewhere cannot leave it half changed.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands before the ciphertext, and the ciphertext with its tag.
struct Header<'a> {
    name: SecretName,
    process: [u8; PROCESS],
    number: [u8; 8],
    text: &'a [u8],
}

impl<'a> Header<'a> {
    fn of(sealed: &'a [u8]) -> Option<Self> {
        let (_, rest) = sealed.split_first()?;
        let (name, rest) = rest.split_first_chunk()?;
        let (process, rest) = rest.split_first_chunk()?;
        let (number, text) = rest.split_first_chunk()?;
        let whole = text.len() >= TAG;
        whole.then_some(Self { name: *name, process: *process, number: *number, text })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(cluster: &str, secret: &[u8], previous: Option<&[u8]>) -> Sealer {
        Sealer::new(&Credentials { cluster, secret, previous }).unwrap()
    }

    fn seal(sealer: &Sealer, kind: Kind, about: &[u8], text: &[u8]) -> Vec<u8> {
        sealer.seal(kind, about, |plain| plain.extend(text)).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_only_as_what_it_is() {
        let [one, other] = [(); 2].map(|()| sealer("c", b"secret", None));
        let sealed = seal(&one, Kind::Lease, b"ana", b"text");
        assert_eq!(sealed.len(), OVERHEAD + 4);
        assert_eq!(other.open(Kind::Lease, b"ana", &sealed), Ok("text".into()));
        assert_eq!(other.open(Kind::Lease, b"ana", &sealed), Ok("text".into()), "from its key");
        assert_eq!(other.open(Kind::Lease, b"ben", &sealed), Err(Dropped::Forged));
        assert_eq!(other.open(Kind::Node, b"ana", &sealed), Err(Dropped::Forged));
        for stranger in [sealer("d", b"secret", None), sealer("c", b"guess", None)] {
            assert_eq!(stranger.open(Kind::Lease, b"ana", &sealed), Err(Dropped::Foreign));
        }
    }

    #[test]
    fn nothing_is_sealed_twice_alike() {
        let one = sealer("c", b"secret", None);
        let sealed: Vec<_> = (0..100).map(|_| seal(&one, Kind::Frame, b"", b"text")).collect();
        let numbers: std::collections::HashSet<_> =
            sealed.iter().map(|sealed| sealed[HEADER - 8..].to_vec()).collect();
        assert_eq!(numbers.len(), 100);
        assert!(sealed.iter().all(|sealed| !sealed.windows(4).any(|part| part == b"text")));
        let other = seal(&sealer("c", b"secret", None), Kind::Frame, b"", b"text");
        assert_ne!(other[1 + NAME..HEADER - 8], sealed[0][1 + NAME..HEADER - 8]);
    }

    /// Old, both, both, new: at every step each opens what the others seal.
    #[test]
    fn a_secret_is_changed_while_nodes_run() {
        let old = sealer("c", b"old", None);
        let both = sealer("c", b"new", Some(b"old"));
        let new = sealer("c", b"new", None);
        let [of_old, of_both, of_new] = [&old, &both, &new].map(Sealer::names);
        assert_eq!(of_both, [of_new[0], of_old[0]]);
        let opens = |by: &Sealer, of: &Sealer| {
            by.open(Kind::Frame, b"", &seal(of, Kind::Frame, b"", b"text")).is_ok()
        };
        assert!(opens(&old, &both) && opens(&both, &old), "before it has seen anybody");
        assert!(!both.known_by_others([&of_old[..], &of_both]), "as before");
        assert!(opens(&old, &both));
        assert!(both.known_by_others([&of_both[..], &of_both]));
        assert!(opens(&new, &both) && opens(&both, &new) && !opens(&old, &both));
        assert!(!both.known_by_others([&of_new[..], &of_both]));
        assert!(both.known_by_others([&of_old[..]]), "one of the old has come back");
        assert!(opens(&old, &both));
    }

    proptest! {
        #[test]
        fn one_changed_bit_is_noticed(
            text in prop::collection::vec(any::<u8>(), 0..40),
            place in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let [one, other] = [(); 2].map(|()| sealer("c", b"secret", None));
            let mut sealed = seal(&one, Kind::Frame, b"about", &text);
            prop_assert_eq!(other.open(Kind::Frame, b"about", &sealed), Ok(Bytes::from(text)));
            let place = place.index(sealed.len());
            sealed[place] ^= 1 << bit;
            let why = match place {
                0 => Dropped::Version,
                1..=NAME => Dropped::Foreign,
                _ => Dropped::Forged,
            };
            prop_assert_eq!(other.open(Kind::Frame, b"about", &sealed), Err(why));
        }

        #[test]
        fn anything_at_all_is_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let one = sealer("c", b"secret", None);
            prop_assert!(one.open(Kind::Frame, b"", &bytes).is_err());
        }
    }
}
