//! The audit chain as it is read, and what hooks find.

use protocol::client::Status;

use super::Backend;
use super::scene::{Scene, audit, claim, lease, place};
use crate::model::{AuditQuery, Claim, HookTarget, LeaseRow, NewPending, Unit, Write};

fn sent(by: &str) -> Write {
    let Write::Audit(row) = audit("p", "h") else { unreachable!() };
    Write::Audit(crate::model::AuditRow { event: "message_sent", actor: Some(by.into()), ..row })
}

/// In the order of the commit, whatever else its units write.
pub async fn the_audit_chain_is_read_in_its_order(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let hash = |n: usize| format!("h{n:03}");
    let mut commit = scene.to_commit(Vec::new());
    for n in 1..=90 {
        let seq = n as u64;
        let link = audit(&hash(n - 1), &hash(n));
        commit.units.push(Unit(vec![scene.accept(seq, &[]), link]));
    }
    let other = blue.to_commit(vec![audit("genesis", "blue")]);
    scene.store.commit(0, &[other, commit]).await.unwrap();
    let all = scene.store.audit_from(&scene.mesh, 0, 200).await.unwrap();
    let hashes: Vec<_> = all.iter().map(|entry| entry.hash.clone()).collect();
    assert_eq!(hashes, (1..=90).map(hash).collect::<Vec<_>>());
    assert!(all.windows(2).all(|pair| pair[0].prev_hash < pair[1].prev_hash));
    let first = &all[0];
    assert_eq!((first.event.as_str(), first.actor_name.as_deref()), ("peer_joined", Some("ana")));
    assert_eq!(first.payload, serde_json::json!({"a": 1}));
    assert_eq!(first.created_at, super::scene::CREATED_AT);
    let rest = scene.store.audit_from(&scene.mesh, all[87].id, 200).await.unwrap();
    assert_eq!(rest, all[88..]);
    assert_eq!(scene.store.audit_from(&scene.mesh, 0, 3).await.unwrap(), all[..3]);
    let query = AuditQuery { limit: 2, offset: 1, event: None, reader: None };
    let (newest, total) = scene.store.audit(&scene.mesh, &query).await.unwrap();
    assert_eq!((newest, total), (vec![all[88].clone(), all[87].clone()], 90));
}

/// Of one kind; and whom others write to is not everybody's to know.
pub async fn a_reader_sees_its_own_messages_only(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    scene.commit(vec![sent("ana"), audit("a", "b"), sent("ben"), sent("ana")]).await;
    let count = async |event: Option<&str>, reader: Option<&str>| {
        let (event, reader) = (event.map(str::to_owned), reader.map(Into::into));
        let query = AuditQuery { limit: 50, offset: 0, event, reader };
        let (rows, total) = scene.store.audit(&scene.mesh, &query).await.unwrap();
        assert_eq!(rows.len() as u64, total);
        total
    };
    assert_eq!(count(None, None).await, 4);
    assert_eq!(count(Some("message_sent"), None).await, 3);
    assert_eq!(count(None, Some("ana")).await, 3);
    assert_eq!(count(Some("message_sent"), Some("ben")).await, 1);
    assert_eq!(count(Some("peer_joined"), Some("ben")).await, 1);
}

/// Of all meshes, online or in grace, by where they run now.
pub async fn hooks_find_presences_by_session_or_process(backend: &dyn Backend) {
    let red = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let of = |scene: &Scene, name: &str, away| {
        let Write::SaveLease(row) = lease(name, away) else { unreachable!() };
        Write::SaveLease(LeaseRow { member: scene.ana(), ..row })
    };
    red.commit(vec![of(&red, "p1", false), of(&red, "p2", true)]).await;
    blue.commit(vec![of(&blue, "p1", false)]).await;
    let find = async |target| {
        let found = red.store.hook_presences(&target).await.unwrap();
        assert!(found.iter().all(|found| found.member_pubkey == "aa".repeat(32)));
        found.iter().map(|f| format!("{} {}", f.mesh, f.presence)).collect::<Vec<_>>()
    };
    let process = |cwd: &str, pid| HookTarget::Process { cwd: cwd.to_owned(), pid };
    let session = |id: &str| HookTarget::Session(id.to_owned());
    let both = ["mesh-blue p1", "mesh-red p1"];
    assert_eq!(find(session("session-p1")).await, both);
    assert_eq!(find(session("session-p2")).await, ["mesh-red p2"]);
    assert_eq!(find(process("/home/p1", Some(4_242))).await, both);
    assert_eq!(find(process("/home/p1", None)).await, both);
    assert_eq!(find(process("/home/p1", Some(1))).await, [] as [String; 0]);
    // It goes on elsewhere.
    let Write::SaveLease(mut moved) = of(&red, "p1", false) else { unreachable!() };
    moved.place.cwd = "/srv".repeat(1000);
    red.commit(vec![Write::SaveLease(moved.clone())]).await;
    assert_eq!(find(process("/home/p1", None)).await, ["mesh-blue p1"]);
    assert_eq!(find(process(&moved.place.cwd, None)).await, ["mesh-red p1"]);
}

/// By its session before its process; the newest; while it is young; once.
pub async fn a_status_waits_for_its_presence(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let now: i64 = backend.texts("SELECT {ms}").await[0].parse().unwrap();
    let keep = async |session: Option<&str>, pid, status, age| {
        let place = place("p1");
        let pending = NewPending {
            session_id: session.map(str::to_owned),
            cwd: place.cwd,
            pid,
            status,
            created_at: now - age,
        };
        scene.store.keep_pending(&pending).await.unwrap();
    };
    let found = async |key: &str| {
        let claim = Claim { place: Some(place("p1")), ..claim(&key.repeat(32)) };
        scene.store.identify(&scene.mesh, &claim).await.unwrap().unwrap().pending
    };
    keep(None, Some(4_242), Status::Working, 60_000).await;
    keep(Some("another"), Some(1), Status::Working, 0).await;
    keep(None, None, Status::Working, 0).await;
    assert_eq!(found("aa").await, None);
    keep(None, Some(4_242), Status::Working, 2_000).await;
    keep(None, Some(4_242), Status::Dnd, 1_000).await;
    assert_eq!(found("aa").await.unwrap().status, Status::Dnd, "the newest");
    keep(Some("session-p1"), Some(7), Status::Idle, 3_000).await;
    let by_session = found("aa").await.unwrap();
    assert_eq!(by_session.status, Status::Idle);
    assert_eq!(found("ee").await, None, "a stranger is told nothing");
    scene.commit(vec![Write::UsePending(by_session.id)]).await;
    assert_eq!(found("aa").await.unwrap().status, Status::Dnd);
    let left = backend.texts("SELECT status FROM {broker}pending_status").await;
    assert_eq!(left.len(), 4, "what is old went when the next came");
}
