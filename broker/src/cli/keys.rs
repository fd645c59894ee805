//! Fresh keys and ids: the only randomness of the command line, all of it from the system.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::id::row_id;
use protocol::signature::Keypair;

use super::Failure;

/// A fresh signing key.
pub(super) fn keypair() -> Result<Keypair, Failure> {
    Ok(Keypair::from_seed(&random()?))
}

/// A fresh root key: 32 bytes, base64url without padding.
pub(super) fn root_key() -> Result<String, Failure> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

/// A fresh row id.
pub(super) fn id() -> Result<String, Failure> {
    Ok(row_id(u128::from_ne_bytes(random()?)))
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(format!("the system has no randomness: {error}")))?;
    Ok(bytes)
}
