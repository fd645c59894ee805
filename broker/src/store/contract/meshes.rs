//! Meshes, members, keys and invites.

use protocol::MeshId;

use super::Backend;
use super::scene::{CREATED_AT, Scene, claim, member, new_member, new_mesh};
use crate::model::{NewInvite, Write};
use crate::store::StoreError;

/// `create_mesh`, then `meshes`: oldest first, counting unrevoked members.
pub async fn a_new_mesh_is_listed_with_its_members(backend: &dyn Backend) {
    let store = backend.store();
    let mut younger = new_mesh("younger");
    younger.created_at += 1;
    assert!(store.create_mesh(&younger).await.unwrap());
    let older = new_mesh("older");
    assert!(store.create_mesh(&older).await.unwrap());
    backend.revoke(&member(&older.id, "ben")).await;

    let meshes = store.meshes().await.unwrap();
    let slugs: Vec<_> = meshes.iter().map(|mesh| mesh.slug.as_str()).collect();
    assert_eq!(slugs, ["older", "younger"], "oldest first");
    let found = &meshes[0];
    assert_eq!(found.id, older.id);
    assert_eq!(found.name, older.name);
    assert_eq!(found.members, 1, "the revoked member does not count");
    assert_eq!(found.owner_pubkey.as_ref(), Some(&older.owner_pubkey));
    assert_eq!(found.owner_secret_key.as_ref(), Some(&older.owner_secret_key));
    assert_eq!(found.root_key.as_ref(), Some(&older.root_key));
    assert_eq!(found.owner_user, older.owner_user);
    assert_eq!(found.created_at, older.created_at);
    assert_eq!(meshes[1].members, 2);
}

/// A slug names one living mesh.
pub async fn a_living_slug_is_refused_and_nothing_written(backend: &dyn Backend) {
    let store = backend.store();
    assert!(store.create_mesh(&new_mesh("red")).await.unwrap());
    let mut second = new_mesh("blue");
    second.slug = "red".into();
    assert!(!store.create_mesh(&second).await.unwrap(), "the slug is taken");
    assert_eq!(store.meshes().await.unwrap().len(), 1);
    let identity = store.identify(&second.id, &claim(&"aa".repeat(32))).await.unwrap();
    assert_eq!(identity, None, "the refused mesh does not exist");
    // Nor do its members: their ids are free.
    second.slug = "blue".into();
    assert!(store.create_mesh(&second).await.unwrap());
}

/// Archiving ends a mesh for the list, not for `identify`.
pub async fn an_archived_mesh_is_not_listed_and_frees_its_slug(backend: &dyn Backend) {
    let store = backend.store();
    let first = new_mesh("red");
    assert!(store.create_mesh(&first).await.unwrap());
    backend.archive(&first.id).await;
    let mut second = new_mesh("blue");
    second.slug = "red".into();
    assert!(store.create_mesh(&second).await.unwrap(), "an archived mesh holds no slug");
    let ids: Vec<_> = store.meshes().await.unwrap().into_iter().map(|mesh| mesh.id).collect();
    assert_eq!(ids, [second.id]);
    let archived = store.identify(&first.id, &claim(&"aa".repeat(32))).await.unwrap();
    assert!(archived.expect("it is still known").archived);
}

/// No mesh, no identity; a mesh without the key, an identity without a member.
pub async fn an_unknown_mesh_has_no_identity(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let nowhere = MeshId::from("mesh-nowhere");
    assert_eq!(scene.store.identify(&nowhere, &claim(&"aa".repeat(32))).await.unwrap(), None);
    let stranger = scene.store.identify(&scene.mesh, &claim(&"ee".repeat(32))).await.unwrap();
    let stranger = stranger.expect("the mesh exists");
    assert_eq!(stranger.member, None);
    assert_eq!(stranger.key_member, None);
}

/// Everything a hello is checked against and greeted with.
pub async fn an_identity_carries_what_a_hello_needs(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let found = scene.store.identify(&scene.mesh, &claim(&"aa".repeat(32))).await.unwrap();
    let found = found.expect("the mesh exists");
    assert_eq!(found.mesh_name, "The red mesh");
    assert!(!found.archived);
    let ana = found.member.expect("Ana is a member");
    assert_eq!(ana.id, scene.ana());
    assert_eq!(&*ana.pubkey, "aa".repeat(32));
    assert_eq!(ana.display_name, "ana");
    assert_eq!(ana.role, "member");
    assert_eq!(ana.role_tag, None);
    assert_eq!(ana.default_groups, []);
    assert_eq!(ana.message_mode, "push");
    assert!(!ana.revoked);
}

/// A member removed and invited again has two rows with one key.
pub async fn a_key_is_identified_by_its_unrevoked_row(backend: &dyn Backend) {
    let store = backend.store();
    let mut mesh = new_mesh("red");
    let key = "cc".repeat(32);
    mesh.members = vec![
        new_member(&mesh.id, "first", &key),
        new_member(&mesh.id, "second", &key),
        new_member(&mesh.id, "third", &key),
    ];
    assert!(store.create_mesh(&mesh).await.unwrap());
    backend.revoke(&member(&mesh.id, "first")).await;
    backend.revoke(&member(&mesh.id, "third")).await;
    let found = store.identify(&mesh.id, &claim(&key)).await.unwrap().unwrap().member.unwrap();
    assert_eq!(found.id, member(&mesh.id, "second"));
    assert!(!found.revoked);

    backend.revoke(&found.id).await;
    let found = store.identify(&mesh.id, &claim(&key)).await.unwrap().unwrap().member.unwrap();
    assert!(found.revoked, "a revoked member is told apart from a stranger");
}

/// `RecordKey`: what is recorded stays.
pub async fn the_first_member_to_prove_a_session_key_keeps_it(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let key_member = async |key: &str| scene.identity(&"aa".repeat(32), Some(key)).await.key_member;
    let record = |member| Write::RecordKey { key: "5e55".into(), member };
    assert_eq!(key_member("5e55").await, None);
    scene.commit(vec![record(scene.ana())]).await;
    assert_eq!(key_member("5e55").await, Some(scene.ana()));
    scene.commit(vec![record(scene.ben()), record(scene.ana())]).await;
    assert_eq!(key_member("5e55").await, Some(scene.ana()));
    assert_eq!(key_member("5e56").await, None);
}

/// Others may delete a member; whoever proves its session's key next keeps it.
pub async fn a_session_key_of_a_deleted_member_is_nobodys(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let found = async || scene.identity(&"aa".repeat(32), Some("5e55")).await;
    let keys = ["5e55".into()];
    let taken = async || scene.store.taken_keys(&scene.mesh, &keys).await.unwrap();
    let record = |member| Write::RecordKey { key: "5e55".into(), member };
    scene.commit(vec![record(scene.ben())]).await;
    let identity = found().await;
    assert_eq!((identity.key_member, identity.key_taken), (Some(scene.ben()), true));
    assert_eq!(taken().await, keys);

    // Removed is not deleted: it may be let in again.
    backend.revoke(&scene.ben()).await;
    let identity = found().await;
    assert_eq!((identity.key_member, identity.key_taken), (None, true));
    assert_eq!(taken().await, keys);

    backend.run(&format!("DELETE FROM {{mesh}}member WHERE id = '{}'", scene.ben())).await;
    let identity = found().await;
    assert_eq!((identity.key_member, identity.key_taken), (None, false));
    assert_eq!(taken().await, [] as [std::sync::Arc<str>; 0]);

    scene.commit(vec![record(scene.ana())]).await;
    let identity = found().await;
    assert_eq!((identity.key_member, identity.key_taken), (Some(scene.ana()), true));
}

/// However it is written, and though it is no member's.
pub async fn the_owners_key_is_taken(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let (owner, free) = ("0a".repeat(32), "0c".repeat(32));
    let keys = [owner.as_str().into(), free.as_str().into()];
    for written in [owner.clone(), owner.to_uppercase()] {
        backend.run(&format!("UPDATE {{mesh}}mesh SET owner_pubkey = '{written}'")).await;
        let taken = async |key: &str| scene.identity(&"aa".repeat(32), Some(key)).await.key_taken;
        assert!(taken(&owner).await, "{written}");
        assert!(!taken(&free).await, "{written}");
        let taken = scene.store.taken_keys(&scene.mesh, &keys).await.unwrap();
        assert_eq!(taken, keys[..1], "{written}");
    }
    backend.run("UPDATE {mesh}mesh SET owner_pubkey = NULL").await;
    assert!(!scene.identity(&"aa".repeat(32), Some(&owner)).await.key_taken);
    assert_eq!(scene.store.taken_keys(&scene.mesh, &keys).await.unwrap().len(), 0);
}

/// A token names one invite, an invite one mesh.
pub async fn an_invite_is_recorded_once_and_for_a_known_mesh(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let invite = |id: &str, mesh: MeshId, token: &str| NewInvite {
        id: id.to_owned(),
        mesh,
        token: token.to_owned(),
        max_uses: 3,
        role: "member".to_owned(),
        expires_at: CREATED_AT + 1000,
        created_by: "user-1".to_owned(),
        created_at: CREATED_AT,
    };
    scene.store.create_invite(&invite("i-1", scene.mesh.clone(), "t-1")).await.unwrap();
    let again = scene.store.create_invite(&invite("i-2", scene.mesh.clone(), "t-1")).await;
    assert!(matches!(again, Err(StoreError::BadData(_))), "the token is taken: {again:?}");
    let lost = scene.store.create_invite(&invite("i-3", "mesh-nowhere".into(), "t-3")).await;
    assert!(matches!(lost, Err(StoreError::BadData(_))), "no such mesh: {lost:?}");
}
