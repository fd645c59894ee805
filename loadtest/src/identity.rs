//! Who a connection claims to be, and the signed hello that says so.

use protocol::canonical;
use protocol::signature::{Keypair, Refused};
use serde_json::{Value, json};

use crate::mesh::{Member, Mesh};

/// How long a parent vouches for a session: what the daemon asks for.
const ATTESTATION_MS: i64 = 12 * 60 * 60 * 1000;

/// One session of one member.
pub(crate) struct Identity {
    mesh_id: String,
    member: Member,
    parent: Keypair,
    session: Keypair,
    /// The client's id of the session, unique in the run.
    session_id: String,
}

impl Identity {
    /// The `index`-th session of the mesh; members take turns. Its key grows from its member's, so
    /// that the next run returns to the presences of the last one instead of waiting for their
    /// graces to end.
    pub(crate) fn new(mesh: &Mesh, index: u32) -> Result<Self, Refused> {
        let member = &mesh.members[index as usize % mesh.members.len()];
        let parent = Keypair::from_secret_hex(&member.secret_key)?;
        let mut seed = [0; 32];
        let signed = parent.sign(&format!("load-test session {index}"));
        for (byte, digit) in seed.iter_mut().zip(signed.into_bytes()) {
            *byte = digit;
        }
        let session = Keypair::from_seed(&seed);
        Ok(Self {
            mesh_id: mesh.id.clone(),
            parent,
            session_id: format!("load-{}", &session.public_hex()[..16]),
            session,
            member: member.clone(),
        })
    }

    /// What others send to.
    pub(crate) fn address(&self) -> String {
        self.session.public_hex()
    }

    /// A session's hello, vouched for by its member.
    pub(crate) fn session_hello(&self, now_ms: i64) -> String {
        let (parent, session) = (&self.member.pubkey, self.address());
        let expires = now_ms + ATTESTATION_MS;
        let vouched = canonical::session_attestation(parent, &session, expires);
        let said = canonical::session_hello(&self.mesh_id, parent, &session, now_ms);
        self.with_profile(
            json!({
                "type": "session_hello",
                "meshId": self.mesh_id,
                "parentMemberId": self.member.id,
                "parentMemberPubkey": parent,
                "sessionPubkey": session,
                "parentAttestation": {
                    "sessionPubkey": session,
                    "parentMemberPubkey": parent,
                    "expiresAt": expires,
                    "signature": self.parent.sign(&vouched),
                },
                "timestamp": now_ms,
                "signature": self.session.sign(&said),
            }),
            "claudemesh-session",
        )
    }

    /// A member's hello with a session key it does not prove, as one-shot commands send it.
    pub(crate) fn hello(&self, now_ms: i64) -> String {
        let mut hello = self.member_hello(now_ms);
        hello["sessionPubkey"] = json!(self.address());
        self.with_profile(hello, "claude-code")
    }

    /// A member's own connection, as its daemon keeps it.
    pub(crate) fn daemon_hello(&self, now_ms: i64) -> String {
        self.with_profile(self.member_hello(now_ms), "claudemesh-daemon")
    }

    /// What others send to, to reach the member.
    pub(crate) fn member_address(&self) -> &str {
        &self.member.pubkey
    }

    fn member_hello(&self, now_ms: i64) -> Value {
        let Member { id: member_id, pubkey, .. } = &self.member;
        let said = canonical::hello(&self.mesh_id, member_id, pubkey, now_ms);
        json!({
            "type": "hello",
            "meshId": self.mesh_id,
            "memberId": member_id,
            "pubkey": pubkey,
            "timestamp": now_ms,
            "signature": self.parent.sign(&said),
        })
    }

    fn with_profile(&self, mut hello: Value, channel: &str) -> String {
        hello["displayName"] = json!(self.member.display_name);
        hello["sessionId"] = json!(self.session_id);
        hello["pid"] = json!(std::process::id());
        hello["cwd"] = json!("/load");
        hello["hostname"] = json!("loadtest");
        hello["peerType"] = json!("ai");
        hello["channel"] = json!(channel);
        hello.to_string()
    }
}

#[cfg(test)]
mod tests {
    use protocol::client::{self, Frame};
    use protocol::signature::verify;

    use super::*;
    use crate::fake::mesh;

    #[test]
    fn hellos_parse_and_verify() {
        let identity = Identity::new(&mesh(2), 3).unwrap();
        let Ok(Frame::SessionHello(hello)) = client::parse(&identity.session_hello(5)) else {
            panic!("a session_hello")
        };
        let (parent, session) = (&hello.parent_member_pubkey, &hello.session_pubkey);
        let word = hello.parent_attestation.unwrap();
        let said = canonical::session_hello(&hello.mesh_id, parent, session, 5);
        let vouched = canonical::session_attestation(parent, session, 5 + ATTESTATION_MS);
        assert_eq!(verify(session, &hello.signature, &said), Ok(()));
        assert_eq!(verify(parent, &word.signature, &vouched), Ok(()));
        assert_eq!(*session, identity.address());

        for (text, key) in
            [(identity.hello(5), Some(identity.address())), (identity.daemon_hello(5), None)]
        {
            let Ok(Frame::Hello(hello)) = client::parse(&text) else { panic!("a hello") };
            let said = canonical::hello(&hello.mesh_id, &hello.member_id, &hello.pubkey, 5);
            assert_eq!(verify(&hello.pubkey, &hello.signature, &said), Ok(()));
            assert_eq!(hello.pubkey, identity.member_address());
            assert_eq!(hello.session_pubkey.as_deref().map(ToString::to_string), key);
        }
    }

    #[test]
    fn sessions_of_one_run_differ_and_take_turns_over_members() {
        let mesh = mesh(2);
        let all: Vec<_> = (0..600).map(|n| Identity::new(&mesh, n).unwrap()).collect();
        let addresses: std::collections::BTreeSet<_> = all.iter().map(Identity::address).collect();
        assert_eq!(addresses.len(), 600);
        assert_eq!(all[0].member.pubkey, all[2].member.pubkey);
        assert_ne!(all[0].member.pubkey, all[1].member.pubkey);
    }
}
