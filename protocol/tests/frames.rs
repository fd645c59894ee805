//! The wire, frame by frame: what a peer may send, what it must not, and the exact JSON it is sent.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod frames {
    mod incoming;
    mod javascript;
    mod outgoing;
}
