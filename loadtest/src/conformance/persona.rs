//! Who a check speaks as, and the hellos that say so: built whole, so that a check can spoil one
//! field and sign again.

use protocol::canonical;
use protocol::signature::Keypair;
use serde_json::{Value, json};

use crate::mesh::Member;

/// How long a parent vouches for a session.
const ATTESTATION_MS: i64 = 60 * 60 * 1000;

/// One session of one member.
#[derive(Clone)]
pub(crate) struct Persona {
    pub(crate) mesh_id: String,
    pub(crate) member: Member,
    pub(crate) parent: Keypair,
    pub(crate) session: Keypair,
    pub(crate) session_id: String,
    pub(crate) cwd: String,
    pub(crate) pid: u32,
    pub(crate) groups: Vec<Value>,
    pub(crate) display_name: String,
}

impl Persona {
    /// A session whose key grows from `seed`.
    pub(crate) fn new(mesh_id: &str, member: &Member, parent: Keypair, seed: &[u8; 32]) -> Self {
        let session = Keypair::from_seed(seed);
        let short = session.public_hex()[..16].to_owned();
        Self {
            mesh_id: mesh_id.to_owned(),
            member: member.clone(),
            parent,
            session,
            session_id: format!("conf-{short}"),
            cwd: format!("/conformance/{short}"),
            pid: 10_000 + u32::from(seed[0]) * 256 + u32::from(seed[1]),
            groups: Vec::new(),
            display_name: member.display_name.clone(),
        }
    }

    /// The session's key: what others send to.
    pub(crate) fn key(&self) -> String {
        self.session.public_hex()
    }

    /// The same under a name that no other peer has.
    #[must_use]
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.display_name);
        self
    }

    /// The same in a group.
    #[must_use]
    pub(crate) fn within(mut self, group: &str) -> Self {
        self.groups.push(json!({ "name": group }));
        self
    }

    /// A session's hello.
    pub(crate) fn session_hello(&self, now_ms: i64) -> Value {
        let hello = json!({
            "type": "session_hello",
            "meshId": self.mesh_id,
            "parentMemberId": self.member.id,
            "parentMemberPubkey": self.member.pubkey,
            "sessionPubkey": self.key(),
            "timestamp": now_ms,
        });
        let mut hello = self.with_profile(hello, "claudemesh-session");
        hello["parentAttestation"] = self.attestation(now_ms + ATTESTATION_MS);
        self.sign_session(&mut hello);
        hello
    }

    /// A member's own hello, without a session key.
    pub(crate) fn hello(&self, now_ms: i64) -> Value {
        let hello = json!({
            "type": "hello",
            "meshId": self.mesh_id,
            "memberId": self.member.id,
            "pubkey": self.member.pubkey,
            "timestamp": now_ms,
        });
        let mut hello = self.with_profile(hello, "claudemesh-daemon");
        self.sign_member(&mut hello);
        hello
    }

    /// The parent's word for the session's key.
    pub(crate) fn attestation(&self, expires_at: i64) -> Value {
        let (parent, session) = (&self.member.pubkey, self.key());
        let said = canonical::session_attestation(parent, &session, expires_at);
        json!({
            "sessionPubkey": session,
            "parentMemberPubkey": parent,
            "expiresAt": expires_at,
            "signature": self.parent.sign(&said),
        })
    }

    /// Signs what a `hello` says now.
    pub(crate) fn sign_member(&self, hello: &mut Value) {
        let field = |key: &str| hello[key].as_str().unwrap_or_default().to_owned();
        let (mesh, member, pubkey) = (field("meshId"), field("memberId"), field("pubkey"));
        let said = canonical::hello(&mesh, &member, &pubkey, timestamp(hello));
        hello["signature"] = json!(self.parent.sign(&said));
    }

    /// Signs what a `session_hello` says now.
    pub(crate) fn sign_session(&self, hello: &mut Value) {
        let field = |key: &str| hello[key].as_str().unwrap_or_default().to_owned();
        let mesh = field("meshId");
        let (parent, session) = (field("parentMemberPubkey"), field("sessionPubkey"));
        let said = canonical::session_hello(&mesh, &parent, &session, timestamp(hello));
        hello["signature"] = json!(self.session.sign(&said));
    }

    fn with_profile(&self, mut hello: Value, channel: &str) -> Value {
        hello["displayName"] = json!(self.display_name);
        hello["sessionId"] = json!(self.session_id);
        hello["pid"] = json!(self.pid);
        hello["cwd"] = json!(self.cwd);
        hello["hostname"] = json!("conformance");
        hello["peerType"] = json!("ai");
        hello["channel"] = json!(channel);
        if !self.groups.is_empty() {
            hello["groups"] = json!(self.groups);
        }
        hello
    }
}

fn timestamp(hello: &Value) -> i64 {
    hello["timestamp"].as_i64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use protocol::client::{self, Frame};
    use protocol::signature::verify;

    use super::*;
    use crate::fake::mesh;

    #[test]
    fn hellos_parse_and_verify() {
        let mesh = mesh(1);
        let parent = Keypair::from_secret_hex(&mesh.members[0].secret_key).unwrap();
        let persona = Persona::new(&mesh.id, &mesh.members[0], parent, &[7; 32]).within("g");
        let Ok(Frame::SessionHello(hello)) = client::parse(&persona.session_hello(5).to_string())
        else {
            panic!("a session_hello")
        };
        let said = canonical::session_hello(
            &hello.mesh_id,
            &hello.parent_member_pubkey,
            &hello.session_pubkey,
            5,
        );
        assert_eq!(verify(&persona.key(), &hello.signature, &said), Ok(()));
        let Ok(Frame::Hello(hello)) = client::parse(&persona.hello(5).to_string()) else {
            panic!("a hello")
        };
        let said = canonical::hello(&hello.mesh_id, &hello.member_id, &hello.pubkey, 5);
        assert_eq!(verify(&hello.pubkey, &hello.signature, &said), Ok(()));
        assert_eq!(hello.profile.groups.unwrap()[0].name, "g");
    }
}
