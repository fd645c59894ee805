//! Whose request it is, and how many an address may make.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName};

use crate::mesh::io::Ms;

/// Addresses remembered at once: some 4 MiB. Beyond it all begin anew, for whoever has so many is
/// not held by a limit for each, and others must not pay for it.
const ADDRESSES: usize = 65_536;

/// The client's address: what the proxy in front says in `header`, if there is one, else the
/// socket's.
pub(super) fn client(headers: &HeaderMap, header: Option<&HeaderName>, peer: SocketAddr) -> IpAddr {
    let told = header.and_then(|name| headers.get(name)?.to_str().ok());
    of(told.and_then(|text| text.trim().parse().ok()).unwrap_or(peer.ip()))
}

/// The client that an address stands for: one household of IPv6 is one client, the upper 64 bits
/// count.
pub(super) fn of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
        }
        address => address.to_canonical(),
    }
}

/// A token bucket for each address.
pub struct PerAddress {
    per_minute: u64,
    buckets: Mutex<HashMap<IpAddr, (u64, Ms)>>,
}

/// A minute in milliseconds: a token is so many grains, and a millisecond brings `per_minute`.
const TOKEN: u64 = 60_000;

impl PerAddress {
    /// So many requests per minute, as many at once.
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.into(), buckets: Mutex::default() }
    }

    /// Whether this address may make one more request.
    pub fn admit(&self, address: IpAddr, now: Ms) -> bool {
        let full = self.per_minute * TOKEN;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ADDRESSES && !buckets.contains_key(&address) {
            buckets.clear();
        }
        let (grains, since) = buckets.entry(address).or_insert((full, now));
        let earned = now.saturating_sub(*since).saturating_mul(self.per_minute);
        *grains = full.min(*grains + earned);
        *since = now;
        let admitted = *grains >= TOKEN;
        if admitted {
            *grains -= TOKEN;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_burst_and_then_go_on_at_its_rate() {
        let (bucket, one) = (PerAddress::new(2), IpAddr::from([127, 0, 0, 1]));
        assert!(bucket.admit(one, 0) && bucket.admit(one, 0) && !bucket.admit(one, 29_999));
        assert!(bucket.admit(one, 30_000));
        assert!(bucket.admit(IpAddr::from([127, 0, 0, 2]), 0));
    }

    #[test]
    fn a_proxy_is_believed_only_where_it_is_named() {
        let peer = SocketAddr::from(([10, 0, 0, 1], 1));
        let header = HeaderName::from_static("fly-client-ip");
        let mut headers = HeaderMap::new();
        headers.insert(&header, "203.0.113.7".parse().unwrap());
        assert_eq!(client(&headers, None, peer), peer.ip());
        assert_eq!(client(&headers, Some(&header), peer), IpAddr::from([203, 0, 113, 7]));
        headers.insert(&header, "nonsense".parse().unwrap());
        assert_eq!(client(&headers, Some(&header), peer), peer.ip());
        headers.insert(&header, "2001:db8:1:2:3:4:5:6".parse().unwrap());
        let household: IpAddr = "2001:db8:1:2::".parse().unwrap();
        assert_eq!(client(&headers, Some(&header), peer), household);
    }
}
