//! Sockets that have not said hello, per address: a set, so that none is ever counted that is gone.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sockets of all addresses. Cheap to clone.
#[derive(Clone)]
pub struct HalfOpen {
    sockets: Arc<Mutex<HashMap<IpAddr, HashSet<u64>>>>,
    most: usize,
}

/// One socket's place in the set; given back when dropped.
pub struct Place {
    all: HalfOpen,
    address: IpAddr,
    socket: u64,
}

impl HalfOpen {
    /// At most `most` sockets per address.
    pub fn new(most: usize) -> Self {
        Self { sockets: Arc::default(), most }
    }

    /// A place for a socket, unless its address has too many.
    pub fn enter(&self, address: IpAddr, socket: u64) -> Option<Place> {
        let mut sockets = self.lock();
        let own = sockets.entry(address).or_default();
        if own.len() >= self.most {
            return None;
        }
        own.insert(socket);
        Some(Place { all: self.clone(), address, socket })
    }

    /// Sockets of all addresses.
    pub fn count(&self) -> usize {
        self.lock().values().map(HashSet::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, HashSet<u64>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sockets = self.all.lock();
        if let Some(own) = sockets.get_mut(&self.address) {
            own.remove(&self.socket);
            if own.is_empty() {
                sockets.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_places_back() {
        let all = HalfOpen::new(2);
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = all.enter(one, 1);
        let second = all.enter(one, 2);
        assert!(first.is_some() && second.is_some() && all.enter(one, 3).is_none());
        assert!(all.enter(other, 4).is_some());
        drop(first);
        assert!(all.enter(one, 5).is_some());
        drop(second);
        assert_eq!(all.count(), 0);
    }
}
