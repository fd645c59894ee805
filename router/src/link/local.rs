//! The link where edge and owner share a process: nothing is lost or repeated on the way, so only
//! the bound is left to keep. Edge to owner is a bounded tokio channel; owner to edge, an
//! [`Outbox`] per connection.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What waits for one connection, bounded in bytes. The owner never waits: a push that does not
/// fit closes the outbox, and the connection's task finds out when it next looks.
#[derive(Debug)]
pub struct Outbox<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    limit: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    overflowed: bool,
}

/// What a connection finds in its outbox.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Some items, moved to the caller's buffer.
    Items,
    /// More was pushed than fits: the reader is too slow.
    Overflow,
}

impl<T> Outbox<T> {
    /// An outbox for at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let state = State { items: VecDeque::new(), bytes: 0, overflowed: false };
        Self { state: Mutex::new(state), changed: Notify::new(), limit }
    }

    /// Adds an item of about `bytes`. One item always fits into an empty outbox.
    pub fn push(&self, item: T, bytes: usize) {
        let mut state = self.lock();
        if state.overflowed {
            return;
        }
        if !state.items.is_empty() && state.bytes + bytes > self.limit {
            state.overflowed = true;
            state.items = VecDeque::new();
            state.bytes = 0;
        } else {
            state.items.push_back((item, bytes));
            state.bytes += bytes;
            if state.items.len() > 1 {
                return; // the reader was already told
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for items and moves up to `most` of them behind those in `buffer`. Cancel safe.
    pub async fn take(&self, buffer: &mut Vec<T>, most: usize) -> Taken {
        loop {
            if let Some(taken) = self.try_take(buffer, most) {
                return taken;
            }
            self.changed.notified().await;
        }
    }

    fn try_take(&self, buffer: &mut Vec<T>, most: usize) -> Option<Taken> {
        let mut state = self.lock();
        if state.overflowed {
            return Some(Taken::Overflow);
        }
        let count = state.items.len().min(most);
        if count == 0 {
            return None;
        }
        let mut freed = 0;
        buffer.extend(state.items.drain(..count).map(|(item, bytes)| {
            freed += bytes;
            item
        }));
        state.bytes -= freed;
        if state.items.is_empty() {
            state.items = VecDeque::new(); // an idle connection keeps no room
        }
        Some(Taken::Items)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic elsewhere cannot leave the queue half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn overflow_is_found_out_instead_of_the_items() {
        let outbox = Outbox::new(10);
        outbox.push(1, 25);
        let mut buffer = Vec::new();
        assert_eq!(outbox.take(&mut buffer, 9).await, Taken::Items);
        outbox.push(2, 6);
        outbox.push(3, 6);
        assert_eq!(outbox.take(&mut buffer, 9).await, Taken::Overflow);
        assert_eq!(buffer, [1]);
    }

    #[tokio::test]
    async fn items_keep_their_order_across_takes() {
        let outbox = Outbox::new(1000);
        (0..10).for_each(|n| outbox.push(n, 1));
        let mut buffer = Vec::new();
        outbox.take(&mut buffer, 4).await;
        outbox.take(&mut buffer, 100).await;
        assert!(buffer.iter().copied().eq(0..10));
    }
}
