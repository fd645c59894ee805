//! The wire, frame by frame: what a peer may send, what it must not, and the exact JSON it is sent.

mod frames {
    mod incoming;
    mod outgoing;
}
