//! Whatever bytes a peer sends, `client::parse` answers, and keeps what it promises.

#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::client::{self, Frame};
use protocol::limits;

fuzz_target!(|bytes: &[u8]| {
    // As the broker reads binary frames.
    let text = String::from_utf8_lossy(bytes);
    match client::parse(&text) {
        Ok(Frame::Send(send)) => {
            assert!(send.target_spec.len() <= limits::TARGET_BYTES);
            assert!(!send.ciphertext.contains('\0') && !send.nonce.contains('\0'));
            assert!(send.id.is_none_or(|id| id.len() <= limits::ID_BYTES && !id.contains('\0')));
        }
        Ok(_) => assert!(text.trim_start().starts_with('{')),
        Err(refused) => {
            assert!(!refused.reason.is_empty());
            for id in [refused.id, refused.req_id].into_iter().flatten() {
                assert!(id.len() <= limits::ECHO_BYTES && !id.contains('\0'));
            }
        }
    }
});
