//! Bounds on what a peer may put into a frame. README publishes this table.

/// Ids and keys chosen by clients: `id`, `_reqId`, `client_message_id`, `request_fingerprint`,
/// `meshId`, `memberId`, `replyToId`. In bytes of UTF-8, as all bounds here.
pub const ID_BYTES: usize = 128;
/// `displayName`, `sessionId`, `hostname`, `channel`, `model`, `peerType`, a group's name and role.
pub const NAME_BYTES: usize = 256;
/// `cwd`: Linux's `PATH_MAX`.
pub const PATH_BYTES: usize = 4096;
/// `summary`, `avatar`, `bio`.
pub const TEXT_BYTES: usize = 4096;
/// `targetSpec`: `@` or `#` and a name.
pub const TARGET_BYTES: usize = NAME_BYTES + 1;
/// Groups one peer may be in.
pub const GROUPS: usize = 64;
/// `capabilities` one peer may tell.
pub const CAPABILITIES: usize = 64;
/// `mentions` one message may carry.
pub const MENTIONS: usize = 32;
/// The longest `id` or `_reqId` of a frame too broken to be read that its refusal still echoes.
pub const ECHO_BYTES: usize = 1024;
/// A frame before a hello is accepted. With every field at its bound a hello has 68 KiB of text
/// (groups 32 KiB, capabilities 16 KiB, four longer texts 16 KiB, the rest 4 KiB); JSON that escapes
/// all but ASCII needs three bytes for each of them.
pub const HELLO_BYTES: usize = 256 * 1024;
