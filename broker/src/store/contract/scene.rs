//! A mesh with two members and an owner, and short words for what promises do to it.

use std::sync::Arc;

use protocol::client::Priority;
use protocol::{MemberId, MeshId, MessageId};

use super::Backend;
use crate::model::{
    Accept, AcceptKey, Activation, AuditRow, Claim, Confirm, Envelope, Epoch, Identity, Lane,
    LeaseRow, MeshCommit, NewMember, NewMesh, Outcome, Page, PageLimit, Place, QueueId, Recipient,
    Sender, Seq, Unit, Write,
};
use crate::store::Store;

/// 2025-06-15, so that nothing depends on today.
pub(super) const CREATED_AT: i64 = 1_750_000_000_000;

/// More than any promise writes.
pub(super) const ANY: PageLimit = PageLimit { rows: 10_000, bytes: 1 << 30 };

/// An empty queue.
pub(super) const NOTHING: [Seq; 0] = [];

pub(super) struct Scene {
    pub(super) store: Arc<dyn Store>,
    pub(super) mesh: MeshId,
    pub(super) epoch: Epoch,
}

impl Scene {
    /// Mesh `red`, owned by `node-1`.
    pub(super) async fn red(backend: &dyn Backend) -> Self {
        Self::named(backend, "red").await
    }

    pub(super) async fn named(backend: &dyn Backend, slug: &str) -> Self {
        let store = backend.store();
        let new = new_mesh(slug);
        assert!(store.create_mesh(&new).await.unwrap(), "the slug of a fresh mesh is free");
        let mut scene = Self { store, mesh: new.id, epoch: 0 };
        scene.activate("node-1").await;
        scene
    }

    pub(super) async fn activate(&mut self, node: &str) -> Activation {
        let found = self.store.activate(&self.mesh, node, 0).await.unwrap();
        let found = found.expect("the mesh exists");
        self.epoch = found.epoch;
        found
    }

    pub(super) fn ana(&self) -> MemberId {
        member(&self.mesh, "ana")
    }

    pub(super) fn ben(&self) -> MemberId {
        member(&self.mesh, "ben")
    }

    pub(super) fn envelope(&self, seq: Seq) -> Envelope {
        envelope(&self.mesh, seq)
    }

    /// An accept from Ana under a key of its own.
    pub(super) fn accept(&self, seq: Seq, recipients: &[&Recipient]) -> Write {
        accept(self.envelope(seq), recipients)
    }

    /// A unit for each write, under the epoch of the scene.
    pub(super) fn to_commit(&self, writes: Vec<Write>) -> MeshCommit {
        MeshCommit {
            mesh: self.mesh.clone(),
            epoch: self.epoch,
            units: writes.into_iter().map(|write| Unit(vec![write])).collect(),
        }
    }

    pub(super) async fn try_commit(&self, writes: Vec<Write>) -> Outcome {
        let commit = self.to_commit(writes);
        let mut outcomes = self.store.commit(0, &[commit]).await.unwrap();
        assert_eq!(outcomes.len(), 1, "an outcome for each mesh");
        outcomes.remove(0)
    }

    /// Commits what is new, under an epoch that holds.
    pub(super) async fn commit(&self, writes: Vec<Write>) {
        let outcome = self.try_commit(writes).await;
        assert_eq!(outcome, fine());
    }

    /// Who is behind a key of this mesh.
    pub(super) async fn identity(&self, pubkey: &str, session: Option<&str>) -> Identity {
        let claim = Claim { session: session.map(Into::into), ..claim(pubkey) };
        let found = self.store.identify(&self.mesh, &claim).await.unwrap();
        found.expect("the mesh exists")
    }

    pub(super) async fn page(&self, recipient: &Recipient, after: Seq, limit: PageLimit) -> Page {
        self.store.page(&self.mesh, &normal(recipient), after, limit).await.unwrap()
    }

    /// The places of what waits for a recipient in the normal lane.
    pub(super) async fn waiting(&self, recipient: &Recipient) -> Vec<Seq> {
        let page = self.page(recipient, 0, ANY).await;
        assert!(!page.more, "everything fits the page");
        assert_eq!(page.depth, page.envelopes.len(), "the depth is that of the whole queue");
        seqs(&page)
    }
}

pub(super) fn new_mesh(slug: &str) -> NewMesh {
    let id = MeshId::from(format!("mesh-{slug}"));
    NewMesh {
        slug: slug.to_owned(),
        name: format!("The {slug} mesh"),
        owner_user: "user-1".to_owned(),
        owner_pubkey: "0a".repeat(32),
        owner_secret_key: "0b".repeat(64),
        root_key: "cm9vdA".to_owned(),
        members: vec![
            new_member(&id, "ana", &"aa".repeat(32)),
            new_member(&id, "ben", &"bb".repeat(32)),
        ],
        created_at: CREATED_AT,
        id,
    }
}

pub(super) fn new_member(mesh: &MeshId, name: &str, pubkey: &str) -> NewMember {
    NewMember {
        id: member(mesh, name),
        pubkey: pubkey.to_owned(),
        display_name: name.to_owned(),
        role: "member",
        user: None,
    }
}

pub(super) fn member(mesh: &MeshId, name: &str) -> MemberId {
    format!("{mesh}-{name}").into()
}

/// From Ana, priority `next`, key `key-<seq>`.
pub(super) fn envelope(mesh: &MeshId, seq: Seq) -> Envelope {
    Envelope {
        id: MessageId::at(seq, u128::from(seq) * 7919 + mesh.as_str().len() as u128),
        seq,
        sender: Arc::new(Sender {
            member: member(mesh, "ana"),
            member_pubkey: "aa".repeat(32).into(),
            session_pubkey: None,
            name: "ana".into(),
        }),
        target: "bb".repeat(32),
        priority: Priority::Next,
        nonce: "bm9uY2U=".to_owned(),
        ciphertext: format!("Y2lwaGVy{seq}"),
        key: AcceptKey::Client(format!("key-{seq}")),
        fingerprint: None,
        reply_to: None,
        subtype: None,
        topic: None,
        created_at: CREATED_AT,
    }
}

pub(super) fn accept(envelope: Envelope, recipients: &[&Recipient]) -> Write {
    Write::Accept(Accept {
        envelope: Arc::new(envelope),
        recipients: recipients.iter().copied().cloned().collect(),
    })
}

pub(super) fn confirm(envelope: &Envelope, recipient: &Recipient) -> Write {
    Write::Confirm(Confirm {
        queue: QueueId { recipient: recipient.clone(), lane: envelope.lane() },
        seq: envelope.seq,
        message: envelope.id.clone(),
    })
}

pub(super) fn lease(presence: &str, away: bool) -> Write {
    let body = format!("{{\"of\":\"{presence}\",\"away\":{away}}}");
    Write::SaveLease(LeaseRow {
        presence: presence.into(),
        body,
        away,
        member: format!("member-of-{presence}").into(),
        place: place(presence),
    })
}

pub(super) fn place(name: &str) -> Place {
    Place { session_id: format!("session-{name}"), cwd: format!("/home/{name}"), pid: 4_242 }
}

/// Who somebody is, and no more.
pub(super) fn claim(pubkey: &str) -> Claim {
    Claim { pubkey: pubkey.into(), session: None, place: None, hello: None }
}

pub(super) fn audit(prev_hash: &str, hash: &str) -> Write {
    Write::Audit(AuditRow {
        event: "peer_joined",
        actor: None,
        actor_name: Some("ana".into()),
        payload: "{\"a\":1}".to_owned(),
        prev_hash: prev_hash.to_owned(),
        hash: hash.to_owned(),
        created_at: CREATED_AT,
    })
}

/// Written, and nothing taken back.
pub(super) fn fine() -> Outcome {
    Outcome::Committed { purged: 0 }
}

pub(super) fn normal(recipient: &Recipient) -> QueueId {
    QueueId { recipient: recipient.clone(), lane: Lane::Normal }
}

pub(super) fn session(name: &str) -> Recipient {
    Recipient::Session(name.into())
}

pub(super) fn presence(name: &str) -> Recipient {
    Recipient::Presence(name.into())
}

pub(super) fn seqs(page: &Page) -> Vec<Seq> {
    page.envelopes.iter().map(|envelope| envelope.seq).collect()
}
