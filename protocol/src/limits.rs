//! Bounds on what a peer may put into a frame. README publishes this table.

/// Ids and keys chosen by clients: `id`, `_reqId`, `client_message_id`, `request_fingerprint`,
/// `meshId`, `memberId`, `replyToId`. In bytes of UTF-8, as all bounds here.
pub const ID_BYTES: usize = 128;
/// `displayName`, `sessionId`, `hostname`, `channel`, `model`, `peerType`, a group's name and role.
pub const NAME_BYTES: usize = 256;
/// `cwd`: Linux's `PATH_MAX`.
pub const PATH_BYTES: usize = 4096;
/// `targetSpec`: `@` or `#` and a name.
pub const TARGET_BYTES: usize = NAME_BYTES + 1;
/// Groups one hello may carry.
pub const GROUPS: usize = 64;
