//! Hooks: a tool tells the status of the session it runs (protocol-core §5.3).
//!
//! A hook names a session, or a process by directory and pid, and nothing says who sends it. So it
//! must be plain whom it means: what could be two people's is nobody's.

use std::collections::{BTreeMap, BTreeSet};

use protocol::MeshId;
use protocol::client::Status;

use crate::model::{HookPresence, HookTarget};

/// What a hook says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The session, if it is named.
    pub session_id: Option<String>,
    /// Working directory.
    pub cwd: String,
    /// Process id, if it is named.
    pub pid: Option<i64>,
    /// What is told.
    pub status: Status,
    /// It has shown a token. Of one that has not, a directory alone means nobody: every peer of a
    /// mesh sees the directories of the others.
    pub trusted: bool,
}

impl Hook {
    /// What to look for, the surest first. Who is found by one is not looked for by the next.
    pub fn targets(&self) -> Vec<HookTarget> {
        let session = self.session_id.clone().map(HookTarget::Session);
        let process = HookTarget::Process { cwd: self.cwd.clone(), pid: self.pid };
        let process = Some(process).filter(|_| self.trusted || self.pid.is_some());
        session.into_iter().chain(process).collect()
    }

    /// Of those a target fits, those it plainly means.
    pub fn meant(target: &HookTarget, found: Vec<HookPresence>) -> Vec<HookPresence> {
        meant(target, found)
    }
}

/// Of those a target fits, those it plainly means. A session may be in several meshes, as another
/// member in each; a directory and a pid are many people's, unless all is one key's.
fn meant(target: &HookTarget, found: Vec<HookPresence>) -> Vec<HookPresence> {
    match target {
        HookTarget::Session(_) => {
            let mut members: BTreeMap<MeshId, BTreeSet<_>> = BTreeMap::new();
            for one in &found {
                members.entry(one.mesh.clone()).or_default().insert(one.member.clone());
            }
            let alone = |one: &HookPresence| members.get(&one.mesh).is_some_and(|m| m.len() == 1);
            found.into_iter().filter(alone).collect()
        }
        HookTarget::Process { .. } => {
            let keys: BTreeSet<_> = found.iter().map(|one| one.member_pubkey.clone()).collect();
            if keys.len() > 1 { Vec::new() } else { found }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(mesh: &str, member: &str, key: &str) -> HookPresence {
        HookPresence {
            mesh: mesh.into(),
            presence: format!("{mesh}-{member}").as_str().into(),
            member: member.into(),
            member_pubkey: key.to_owned(),
        }
    }

    #[test]
    fn a_process_that_could_be_two_peoples_is_nobodys() {
        let target = HookTarget::Process { cwd: "/app".to_owned(), pid: Some(1) };
        let two = vec![presence("red", "ana", "a"), presence("blue", "ben", "b")];
        assert_eq!(meant(&target, two), []);
        let one = vec![presence("red", "ana", "a"), presence("blue", "ana2", "a")];
        assert_eq!(meant(&target, one.clone()), one);
    }

    #[test]
    fn a_session_is_meant_in_each_of_its_meshes() {
        let target = HookTarget::Session("s".to_owned());
        let one = vec![presence("red", "ana", "a"), presence("blue", "ben", "b")];
        assert_eq!(meant(&target, one.clone()), one);
        let claimed = vec![presence("red", "ana", "a"), presence("red", "eve", "e")];
        assert_eq!(meant(&target, claimed), []);
    }
}
