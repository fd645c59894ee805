//! Whatever bytes a peer sends, `client::parse` answers, and keeps what it promises.

#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::client::{self, Frame};
use protocol::{EchoId, limits, names};

fuzz_target!(|bytes: &[u8]| {
    // As the broker reads binary frames.
    let text = String::from_utf8_lossy(bytes);
    match client::parse(&text) {
        Ok(Frame::Send(send)) => {
            assert!(send.target_spec.len() <= limits::TARGET_BYTES);
            assert!(!send.ciphertext.contains('\0') && !send.nonce.contains('\0'));
            assert!(
                !send.target_spec.starts_with('@') || !send.target_spec.contains(names::is_unsafe)
            );
            assert!(send.id.is_none_or(|id| fits(&id, limits::ID_BYTES)));
        }
        Ok(_) => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            assert!(text.trim_start().starts_with('{'));
        }
        Err(refused) => {
            assert!(!refused.reason.is_empty());
            for id in [refused.id, refused.req_id].into_iter().flatten() {
                assert!(fits(&id, limits::ECHO_BYTES));
            }
        }
    }
});

fn fits(id: &EchoId, most: usize) -> bool {
    id.as_text().is_none_or(|text| text.len() <= most && !text.contains('\0'))
}
