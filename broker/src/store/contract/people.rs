//! States, grants, topics, moderation and joining.

use std::sync::Arc;

use protocol::client::{Group, PeerProfile};

use super::Backend;
use super::scene::{CREATED_AT, Scene, accept, claim, fine, session};
use crate::model::{
    Claim, History, Joined, Joining, NewInvite, Outcome, Place, Recipient, SavedState, StateChange,
    Target, Totals, Write,
};

fn change(scene: &Scene, summary: &str) -> StateChange {
    StateChange {
        member: scene.ana(),
        groups: None,
        profile: None,
        visible: None,
        summary: Some(summary.to_owned()),
        name: "ana".to_owned(),
        stats: Totals { messages_in: 1, messages_out: 2, tool_calls: 3, errors: 4 },
        seen_at: CREATED_AT,
    }
}

async fn saved(scene: &Scene) -> Option<SavedState> {
    let place = Some(Place::default());
    let claim = Claim { place, ..claim(&"aa".repeat(32)) };
    scene.store.identify(&scene.mesh, &claim).await.unwrap().unwrap().saved
}

/// Only what is given changes, counts add up, and two changes in one commit are both made.
pub async fn a_state_keeps_what_is_not_changed_and_adds_what_is_counted(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    assert_eq!(saved(&scene).await, None);
    let groups = vec![Group { name: "team/é".to_owned(), role: Some("lead".to_owned()) }];
    let profile = PeerProfile { title: Some("Reviewer".to_owned()), ..PeerProfile::default() };
    let first = StateChange {
        groups: Some(groups.clone()),
        visible: Some(false),
        ..change(&scene, "first")
    };
    let second = StateChange {
        profile: Some(profile.clone()),
        summary: None,
        seen_at: CREATED_AT + 5,
        ..change(&scene, "")
    };
    scene.commit(vec![Write::SaveState(first), Write::SaveState(second)]).await;
    let expected = |n: u64, seen_at| SavedState {
        groups: groups.clone(),
        profile: profile.clone(),
        visible: false,
        summary: Some("first".to_owned()),
        stats: Totals { messages_in: n, messages_out: 2 * n, tool_calls: 3 * n, errors: 4 * n },
        seen_at: Some(seen_at),
    };
    assert_eq!(saved(&scene).await, Some(expected(2, CREATED_AT + 5)));
    let third = StateChange { summary: None, seen_at: CREATED_AT + 9, ..change(&scene, "") };
    scene.commit(vec![Write::SaveState(third)]).await;
    assert_eq!(saved(&scene).await, Some(expected(3, CREATED_AT + 9)));
    let unasked = scene.identity(&"aa".repeat(32), None).await;
    assert_eq!(unasked.saved, None, "without a place nobody asks");
    // Somebody who is no member: nothing to keep, and no reason to refuse the rest.
    let stranger = StateChange { member: "nobody".into(), ..change(&scene, "") };
    scene.commit(vec![Write::SaveState(stranger)]).await;
}

/// Of those that restrict anybody, and are members still.
pub async fn grants_are_read_of_members_that_restrict(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    assert_eq!(scene.store.grants(&scene.mesh).await.unwrap(), []);
    let set = "UPDATE {mesh}member SET peer_grants = '{\"CC\": [\"read\"]}'";
    backend.run(set).await;
    backend.revoke(&scene.ana()).await;
    let grants = scene.store.grants(&scene.mesh).await.unwrap();
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0].0, scene.ben());
    let ben = scene.identity(&"bb".repeat(32), None).await.member.unwrap();
    assert_eq!(ben.grants, grants[0].1);
    assert!(!ben.grants.is_empty());
}

async fn add_topic(backend: &dyn Backend, scene: &Scene, id: &str, name: &str) {
    let mesh = scene.mesh.as_str();
    backend
        .run(&format!(
            "INSERT INTO {{mesh}}topic (id, mesh_id, name, created_at) \
             VALUES ('{id}', '{mesh}', '{name}', {{now}})"
        ))
        .await;
    for member in [scene.ana(), scene.ben()] {
        backend
            .run(&format!(
                "INSERT INTO {{mesh}}topic_member (topic_id, member_id, joined_at) \
                 VALUES ('{id}', '{member}', {{now}})"
            ))
            .await;
    }
}

const TOPIC: &str = "topic-1234567890-abcdef";

/// By id before name, of this mesh, living, with its members that are.
pub async fn a_topic_is_found_by_its_id_or_its_name(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    add_topic(backend, &scene, TOPIC, "plans").await;
    add_topic(backend, &scene, "other", TOPIC).await;
    backend.revoke(&scene.ben()).await;
    let found = async |spec| scene.store.topic(&scene.mesh, spec).await.unwrap();
    let plans = found("plans").await.unwrap();
    assert_eq!(
        (&*plans.id, &*plans.name, plans.members.clone()),
        (TOPIC, "plans", vec![scene.ana()])
    );
    assert_eq!(found(TOPIC).await, Some(plans), "an id before a name");
    assert_eq!(found("other").await, None, "too short for an id");
    assert_eq!(blue.store.topic(&blue.mesh, TOPIC).await.unwrap(), None);
    backend.run("UPDATE {mesh}topic SET archived_at = {now} WHERE name = 'plans'").await;
    assert_eq!(found("plans").await, None);
}

/// An answer to what is not of the topic is an answer to nothing. The sender is never notified.
pub async fn a_topics_history_grows_with_what_is_accepted(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    add_topic(backend, &scene, TOPIC, "plans").await;
    let message = |seq, answers: Option<u64>, mentions: &[&str]| {
        let mut envelope = scene.envelope(seq);
        envelope.reply_to = answers.map(|seq| scene.envelope(seq).id.to_string());
        let history = History {
            topic: TOPIC.into(),
            envelope: Arc::new(envelope.clone()),
            body_version: 2,
            mentions: mentions.iter().map(|name| (*name).to_owned()).collect(),
        };
        vec![accept(envelope, &[]), Write::History(history)]
    };
    let mut writes = message(1, None, &["ben", "ana", "nobody"]);
    writes.extend(message(2, Some(1), &[]));
    writes.extend(message(3, Some(99), &[]));
    scene.commit(writes).await;
    scene.commit(message(4, Some(2), &[])).await;
    let rows = backend
        .texts(
            "SELECT id || ' ' || coalesce(reply_to_id, '-') FROM {mesh}topic_message \
             WHERE body_version = 2 ORDER BY id",
        )
        .await;
    let id = |seq| scene.envelope(seq).id;
    let expected = [
        (id(1), "-".to_owned()),
        (id(2), id(1).to_string()),
        (id(3), "-".to_owned()),
        (id(4), id(2).to_string()),
    ];
    assert_eq!(rows, expected.map(|(id, answers)| format!("{id} {answers}")));
    let notified =
        backend.texts("SELECT message_id || ' ' || recipient_member_id FROM {mesh}notification");
    assert_eq!(notified.await, [format!("{} {}", id(1), scene.ben())]);
    // A topic that is gone takes its history along; the message goes its way.
    let mut lost = message(5, None, &["ben"]);
    let Write::History(history) = &mut lost[1] else { unreachable!() };
    history.topic = "gone".into();
    scene.commit(lost).await;
}

/// By key, else by name, else by the beginning of a key: each key once.
pub async fn moderation_finds_whom_it_is_about(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let names = async |text: &str, revoked| {
        let target = Target { text: text.to_owned(), revoked };
        let found = scene.store.moderation(&scene.mesh, &scene.ana(), "c/1", Some(&target)).await;
        let found = found.unwrap();
        assert_eq!(found.caller.unwrap().id, scene.ana());
        found.matching.into_iter().map(|m| m.display_name).collect::<Vec<_>>()
    };
    for text in ["ben", "bb", "BB", &"bb".repeat(32)] {
        assert_eq!(names(text, false).await, ["ben"], "{text}");
    }
    assert_eq!(names("b", true).await, [] as [String; 0]);
    assert_eq!(names("be", false).await, [] as [String; 0], "no beginnings of names");
    backend.run("UPDATE {mesh}member SET display_name = 'aa' WHERE display_name = 'ben'").await;
    assert_eq!(names("aa", false).await, ["aa"], "a name before the beginning of a key");
    let nobody = scene.store.moderation(&scene.mesh, &"nobody".into(), "c/1", None).await.unwrap();
    assert_eq!((nobody.caller, nobody.done, nobody.matching.len()), (None, None, 0));
}

/// All rows of the key, each time.
pub async fn a_removed_member_is_a_ban_until_it_is_let_in_again(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let revoked = async || scene.identity(&"bb".repeat(32), None).await.member.unwrap().revoked;
    scene.commit(vec![Write::Revoke { member: scene.ben(), at: CREATED_AT + 3 }]).await;
    assert!(revoked().await);
    let bans = scene.store.bans(&scene.mesh).await.unwrap();
    assert_eq!((bans[0].name.as_str(), bans[0].revoked_at), ("ben", CREATED_AT + 3));
    assert_eq!((bans.len(), bans[0].pubkey.clone()), (1, "bb".repeat(32)));
    let target = Target { text: "ben".to_owned(), revoked: true };
    let found = scene.store.moderation(&scene.mesh, &scene.ana(), "c", Some(&target)).await;
    assert_eq!(found.unwrap().matching[0].id, scene.ben());
    scene.commit(vec![Write::Reinstate { member: scene.ben() }]).await;
    assert!(!revoked().await);
    assert_eq!(scene.store.bans(&scene.mesh).await.unwrap(), []);
}

/// What it sent, what waits for it, under every name of it; counted; and nobody calls it delivered.
pub async fn what_waits_of_and_for_a_removed_member_is_taken_back(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let (bens, s1, s2) = (Recipient::Member(scene.ben()), session("s1"), session("s2"));
    let p1 = super::scene::presence("p1");
    let mut from_ben = scene.envelope(4);
    from_ben.sender =
        Arc::new(crate::model::Sender { member: scene.ben(), ..(*from_ben.sender).clone() });
    blue.commit(vec![blue.accept(1, &[&bens, &s1])]).await;
    scene.commit(vec![Write::RecordKey { key: "s1".into(), member: scene.ben() }]).await;
    let outcome = scene
        .try_commit(vec![
            scene.accept(1, &[&bens]),
            scene.accept(2, &[&s1, &s2]),
            scene.accept(3, &[&p1]),
            accept(from_ben, &[&s2, &Recipient::Member(scene.ana())]),
            Write::Purge { member: scene.ben(), presences: vec!["p1".into()] },
            scene.accept(5, &[&bens]),
        ])
        .await;
    assert_eq!(outcome, Outcome::Committed { purged: 5 });
    assert_eq!(scene.waiting(&bens).await, [5], "accepted behind it");
    assert_eq!(scene.waiting(&s2).await, [2]);
    assert_eq!(scene.store.queue_depth().await.unwrap(), 4, "the other mesh's are its own");
    for seq in [1, 3, 4] {
        let found = scene.store.messages(&scene.mesh, scene.envelope(seq).id.as_str()).await;
        let found = found.unwrap().remove(0);
        assert_eq!((found.waiting.len(), found.delivered_at), (0, None), "{seq}");
    }
    let again = vec![Write::Purge { member: scene.ana(), presences: vec![] }];
    let Outcome::Committed { purged } = scene.try_commit(again).await else { panic!("fenced") };
    assert_eq!(purged, 2, "what Ana has sent: to s2, and to Ben");
    assert_eq!(scene.try_commit(vec![]).await, fine());
}

/// With the first answer it was given; for a day.
pub async fn an_executed_command_is_remembered_for_a_day(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let done = |command: &str, reply: &str| Write::Done {
        command: command.to_owned(),
        reply: reply.to_owned(),
    };
    scene.commit(vec![done("c/1", "kicked"), done("c/1", "other"), done("c/2", "x")]).await;
    let reply = async |command| {
        let found = scene.store.moderation(&scene.mesh, &scene.ana(), command, None).await;
        found.unwrap().done
    };
    assert_eq!(reply("c/1").await.as_deref(), Some("kicked"));
    assert_eq!(reply("c/3").await, None);
    backend.run("UPDATE {broker}command SET done_at = {yesterday} WHERE command = 'c/1'").await;
    scene.store.retain(0).await.unwrap();
    assert_eq!(reply("c/1").await, None);
    assert_eq!(reply("c/2").await.as_deref(), Some("x"));
}

async fn invite(scene: &Scene, token: &str, max_uses: u32, expires_at: i64) {
    let invite = NewInvite {
        id: format!("i-{token}"),
        mesh: scene.mesh.clone(),
        token: token.to_owned(),
        max_uses,
        role: "member".to_owned(),
        expires_at,
        created_by: "user-1".to_owned(),
        created_at: CREATED_AT,
    };
    scene.store.create_invite(&invite).await.unwrap();
}

fn joining(scene: &Scene, token: &str, key: &str) -> Joining {
    Joining {
        token: token.to_owned(),
        mesh: scene.mesh.clone(),
        owner_pubkey: "0A".repeat(32),
        role: "admin".to_owned(),
        member: format!("member-{key}").into(),
        pubkey: key.repeat(32),
        display_name: "Eve".to_owned(),
        now: CREATED_AT,
    }
}

/// In the order of the checks, each with its name on the wire; and what an invite presets.
pub async fn joining_is_checked_in_order(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    invite(&scene, "t1", 1, CREATED_AT + 1).await;
    invite(&scene, "late", 1, CREATED_AT - 1).await;
    invite(&scene, "gone", 1, CREATED_AT - 1).await;
    invite(&blue, "blues", 9, CREATED_AT + 1).await;
    let preset = "{\"displayName\": \"Qa\", \"roleTag\": \"t\", \"groups\": [{\"name\": \"qa\"}], \
        \"messageMode\": \"pull\"}";
    backend.run(&format!("UPDATE {{mesh}}invite SET preset = '{preset}'")).await;
    backend.run("UPDATE {mesh}invite SET revoked_at = {now} WHERE token = 'gone'").await;
    let join = async |joining: Joining| scene.store.join(&joining).await.unwrap();
    let eve = |token: &str| joining(&scene, token, "ee");
    let refused = Joined::Refused;
    assert_eq!(
        join(Joining { mesh: "nowhere".into(), ..eve("t1") }).await,
        refused("mesh_not_found")
    );
    let stranger = Joining { owner_pubkey: "0b".repeat(32), ..eve("none") };
    assert_eq!(join(stranger).await, refused("invite_owner_mismatch"));
    assert_eq!(join(eve("none")).await, refused("invite_not_found"));
    assert_eq!(join(eve("blues")).await, refused("invite_mesh_mismatch"));
    assert_eq!(join(eve("gone")).await, refused("invite_revoked"));
    assert_eq!(join(eve("late")).await, refused("invite_expired"));
    assert_eq!(join(joining(&scene, "t1", "bb")).await, Joined::Already(scene.ben()));
    backend.revoke(&scene.ben()).await;
    assert_eq!(join(joining(&scene, "t1", "bb")).await, refused("member_banned"));
    assert_eq!(join(eve("t1")).await, Joined::New("member-ee".into()));
    assert_eq!(join(eve("t1")).await, Joined::Already("member-ee".into()));
    assert_eq!(join(joining(&scene, "t1", "ef")).await, refused("invite_exhausted"));
    let member = scene.identity(&"ee".repeat(32), None).await.member.unwrap();
    assert_eq!((member.role.as_str(), member.display_name.as_str()), ("admin", "Qa"));
    assert_eq!((member.role_tag.as_deref(), member.message_mode.as_str()), (Some("t"), "pull"));
    assert_eq!(member.default_groups[0].name, "qa");
    backend.run("UPDATE {mesh}mesh SET owner_pubkey = NULL").await;
    assert_eq!(join(eve("t1")).await, refused("mesh_missing_owner_key"));
    backend.archive(&scene.mesh).await;
    assert_eq!(join(eve("t1")).await, refused("mesh_not_found"));
}

/// Neither the last use of an invite nor one key makes two members.
pub async fn joins_at_once_take_turns(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let other = backend.another().await;
    invite(&scene, "last", 1, CREATED_AT + 1).await;
    let (one, two) = (joining(&scene, "last", "e1"), joining(&scene, "last", "e2"));
    let (a, b) = tokio::join!(scene.store.join(&one), other.join(&two));
    let joined = [a.unwrap(), b.unwrap()];
    let new = joined.iter().filter(|joined| matches!(joined, Joined::New(_))).count();
    assert_eq!(new, 1, "{joined:?}");
    assert!(joined.contains(&Joined::Refused("invite_exhausted")));

    invite(&scene, "many", 9, CREATED_AT + 1).await;
    let one = joining(&scene, "many", "e3");
    let two = Joining { member: "another-id".into(), ..one.clone() };
    let (a, b) = tokio::join!(scene.store.join(&one), other.join(&two));
    let joined = [a.unwrap(), b.unwrap()];
    let already = joined.iter().filter(|joined| matches!(joined, Joined::Already(_))).count();
    assert_eq!(already, 1, "{joined:?}");
    let rows = format!("SELECT id FROM {{mesh}}member WHERE peer_pubkey = '{}'", "e3".repeat(32));
    assert_eq!(backend.texts(&rows).await.len(), 1);
}

/// Neither a session's proven key nor the owner's, for who joins shows no proof. An owner that is a
/// member is one already.
pub async fn a_key_that_is_anothers_makes_no_member(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    invite(&scene, "t1", 1, CREATED_AT + 1).await;
    let join = async |key: &str| scene.store.join(&joining(&scene, "t1", key)).await.unwrap();
    let prove = |key: &str, member| Write::RecordKey { key: key.repeat(32).into(), member };
    scene.commit(vec![prove("e5", scene.ana()), prove("e6", scene.ben())]).await;
    let taken = Joined::Refused("key_taken");
    for key in ["0a", "e5", "e6"] {
        assert_eq!(join(key).await, taken, "{key}");
    }
    backend.revoke(&scene.ben()).await;
    assert_eq!(join("e6").await, taken, "it may be let in again");
    let owner = "UPDATE {mesh}member SET peer_pubkey = ";
    let written = "0A".repeat(32);
    backend.run(&format!("{owner}'{written}' WHERE display_name = 'ana'")).await;
    assert_eq!(join("0a").await, Joined::Already(scene.ana()));
    // Nothing has changed so far, so the invite's only use is left.
    backend.run(&format!("DELETE FROM {{mesh}}member WHERE id = '{}'", scene.ben())).await;
    assert_eq!(join("e6").await, Joined::New("member-e6".into()));
}

/// By its user, or by the owner's key.
pub async fn an_owner_is_known_by_user_or_by_key(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let owner = async |key: &str| scene.identity(&key.repeat(32), None).await.member.unwrap().owner;
    assert!(!owner("aa").await);
    backend.run("UPDATE {mesh}member SET user_id = 'user-1' WHERE display_name = 'ana'").await;
    assert!(owner("aa").await && !owner("bb").await);
    let key = "BB".repeat(32);
    backend.run(&format!("UPDATE {{mesh}}mesh SET owner_pubkey = '{key}'")).await;
    assert!(owner("bb").await);
}
