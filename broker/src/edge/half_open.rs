//! Connections that have not become a WebSocket with a hello: a set, so that none is ever counted
//! that is gone. Bounded per address and together.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections of all addresses. Cheap to clone.
#[derive(Clone)]
pub struct HalfOpen {
    connections: Arc<Mutex<Connections>>,
    /// Of one address.
    most: usize,
    /// Of all.
    most_together: usize,
}

#[derive(Default)]
struct Connections {
    known: HashMap<u64, Known>,
    addresses: HashMap<IpAddr, HashSet<u64>>,
}

struct Known {
    /// Not known before the request, if a proxy names it there.
    address: Option<IpAddr>,
    /// It has become a WebSocket.
    upgraded: bool,
}

/// One connection's place in the set; given back when dropped.
pub struct Place {
    all: HalfOpen,
    number: u64,
}

impl HalfOpen {
    /// At most `most` connections of an address, and `most_together` of all.
    pub fn new(most: usize, most_together: usize) -> Self {
        Self { connections: Arc::default(), most, most_together }
    }

    /// A place for a connection that was just accepted, unless there are too many. `address` is
    /// its client's, if that is known already.
    pub fn accept(&self, number: u64, address: Option<IpAddr>) -> Option<Place> {
        let mut connections = self.lock();
        if connections.known.len() >= self.most_together {
            return None;
        }
        if let Some(address) = address
            && !connections.join(number, address, self.most)
        {
            return None;
        }
        connections.known.insert(number, Known { address, upgraded: false });
        drop(connections);
        Some(Place { all: self.clone(), number })
    }

    /// WebSockets without a hello, of all addresses.
    pub fn sockets(&self) -> usize {
        self.lock().known.values().filter(|known| known.upgraded).count()
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    fn join(&mut self, number: u64, address: IpAddr, most: usize) -> bool {
        let own = self.addresses.entry(address).or_default();
        own.len() < most && own.insert(number)
    }

    fn part(&mut self, number: u64, address: IpAddr) {
        if let Some(own) = self.addresses.get_mut(&address) {
            own.remove(&number);
            if own.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }
}

impl Place {
    /// The number of its connection.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The connection becomes a WebSocket of the client at `address`, unless that has too many.
    pub fn upgrade(&self, address: IpAddr) -> bool {
        let mut connections = self.all.lock();
        let counted = connections.known.get(&self.number).is_some_and(|k| k.address.is_some());
        if !counted && !connections.join(self.number, address, self.all.most) {
            return false;
        }
        if let Some(known) = connections.known.get_mut(&self.number) {
            known.address.get_or_insert(address);
            known.upgraded = true;
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.all.lock();
        if let Some(Known { address: Some(address), .. }) = connections.known.remove(&self.number) {
            connections.part(self.number, address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_places_back() {
        let all = HalfOpen::new(2, 10);
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = all.accept(1, Some(one));
        let second = all.accept(2, Some(one));
        assert!(first.is_some() && second.is_some() && all.accept(3, Some(one)).is_none());
        assert!(all.accept(4, Some(other)).is_some());
        drop(first);
        assert!(all.accept(5, Some(one)).is_some());
        drop(second);
        assert!(all.lock().known.is_empty() && all.lock().addresses.is_empty());
    }

    #[test]
    fn behind_a_proxy_the_address_counts_from_the_upgrade_on() {
        let all = HalfOpen::new(1, 3);
        let (one, other) = (IpAddr::from([203, 0, 113, 7]), IpAddr::from([203, 0, 113, 8]));
        let places: Vec<_> = (1..=4).map_while(|number| all.accept(number, None)).collect();
        assert_eq!((places.len(), all.sockets()), (3, 0), "together they are bounded");
        assert!(places[0].upgrade(one) && !places[1].upgrade(one) && places[2].upgrade(other));
        assert_eq!(all.sockets(), 2);
        drop(places);
        assert!(all.lock().known.is_empty() && all.lock().addresses.is_empty());
    }
}
