//! The order of a connection's answers: that of its requests.
//!
//! Some clients match replies by order (protocol-core §11.2), so an answer that is ready early waits
//! for those before it, whoever makes them: the owner, or the edge in its stead. Acks of sends and
//! events have no place here.

use std::collections::VecDeque;

use protocol::server::Frame;
use router::link::WINDOW_COMMANDS;

/// See the module. Bounded by [`Order::is_full`], which stops the reading of the socket.
#[derive(Debug, Default)]
pub(super) struct Order(VecDeque<Place>);

#[derive(Debug)]
struct Place {
    /// Its answer may be long: there is one such place at most.
    lists: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The command of this number has no result yet.
    Open(u64),
    /// Decided: this is said, if anything.
    Ready(Option<Box<Frame>>),
}

impl Order {
    /// A request has been read, and numbered.
    pub(super) fn expect(&mut self, number: u64, lists: bool) {
        self.0.push_back(Place { lists, state: State::Open(number) });
    }

    /// The edge itself answers what was just read.
    pub(super) fn say(&mut self, frame: Frame) {
        let state = State::Ready(Some(Box::new(frame)));
        self.0.push_back(Place { lists: false, state });
    }

    /// A request has its result. Whether it had a place that was still open.
    pub(super) fn settle(&mut self, number: u64, frame: Option<Frame>) -> bool {
        let open = |place: &&mut Place| matches!(place.state, State::Open(n) if n == number);
        let Some(place) = self.0.iter_mut().find(open) else { return false };
        place.state = State::Ready(frame.map(Box::new));
        true
    }

    /// The next answer whose turn it is.
    pub(super) fn next(&mut self) -> Option<Frame> {
        while let Some(Place { state: State::Ready(_), .. }) = self.0.front() {
            if let Some(Place { state: State::Ready(Some(frame)), .. }) = self.0.pop_front() {
                return Some(*frame);
            }
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new(); // an idle connection keeps no room
        }
        None
    }

    /// Whether no more may be read: as many wait as may, or one whose answer may be long.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= WINDOW_COMMANDS || self.0.iter().any(|place| place.lists)
    }

    /// Nobody is there to be answered.
    pub(super) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }
}
