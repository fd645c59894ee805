//! Who is meant by the names in a message. Not in SQL: what is a lower-case letter there depends on
//! the database.

use crate::model::History;

/// Members that one message may notify.
const NOTIFIED: usize = 32;

/// Of a mesh's members (ids and names, in the order they came), those that a message mentions: its
/// sender never, and no more than [`NOTIFIED`].
pub(super) fn mentioned<'m>(history: &History, members: &'m [(String, String)]) -> Vec<&'m str> {
    let sender = history.envelope.sender.member.as_str();
    let meant = |name: &str| history.mentions.contains(&name.to_lowercase());
    members
        .iter()
        .filter(|(id, name)| id != sender && meant(name))
        .map(|(id, _)| id.as_str())
        .take(NOTIFIED)
        .collect()
}
