//! Pages, confirmations, inheritance, and what is known of a message.

use protocol::MessageId;
use protocol::client::Priority;

use super::Backend;
use super::scene::{ANY, NOTHING, Scene, accept, confirm, presence, seqs, session};
use crate::model::{Confirm, Lane, PageLimit, QueueId, Recipient, StoredMessage, Write};

/// Above `after`, at most `rows`, `more` when there are, `depth` of the whole queue.
pub async fn a_page_is_in_order_and_keeps_to_its_rows(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let (s1, s2) = (session("s1"), session("s2"));
    let to = [&s1];
    // Not in order of place, and with gaps.
    for seq in [30, 5, 12, 100, 7] {
        scene.commit(vec![scene.accept(seq, &to)]).await;
    }
    scene.commit(vec![scene.accept(6, &[&s2])]).await;
    let page = async |after, rows| scene.page(&s1, after, PageLimit { rows, bytes: 1 << 20 }).await;

    let first = page(0, 2).await;
    assert_eq!((seqs(&first), first.more, first.depth), (vec![5, 7], true, 5));
    let second = page(7, 2).await;
    assert_eq!((seqs(&second), second.more, second.depth), (vec![12, 30], true, 5));
    let third = page(30, 2).await;
    assert_eq!((seqs(&third), third.more, third.depth), (vec![100], false, 5));
    let exact = page(12, 2).await;
    assert_eq!((seqs(&exact), exact.more), (vec![30, 100], false), "nothing follows the last");
    let none = page(100, 2).await;
    assert_eq!((seqs(&none), none.more, none.depth), (vec![], false, 5));
    let empty = scene.page(&session("nobody"), 0, ANY).await;
    assert_eq!((seqs(&empty), empty.more, empty.depth), (vec![], false, 0));
}

/// A body larger than the limit still gets through, alone.
pub async fn a_page_keeps_to_its_bytes_but_for_the_first_row(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    for (seq, size) in [(1, 50_000), (2, 1000), (3, 1000), (4, 50_000), (5, 1000)] {
        let mut envelope = scene.envelope(seq);
        envelope.ciphertext = "A".repeat(size);
        scene.commit(vec![accept(envelope, &[&s1])]).await;
    }
    let page = async |after| scene.page(&s1, after, PageLimit { rows: 10, bytes: 5000 }).await;
    let first = page(0).await;
    assert_eq!((seqs(&first), first.more, first.depth), (vec![1], true, 5));
    let second = page(1).await;
    assert_eq!((seqs(&second), second.more), (vec![2, 3], true));
    let third = page(3).await;
    assert_eq!((seqs(&third), third.more), (vec![4], true));
    let last = page(4).await;
    assert_eq!((seqs(&last), last.more), (vec![5], false));
}

/// `now` waits in one, `next` and `low` in the other.
pub async fn lanes_are_queues_of_their_own(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    for (seq, priority) in [(1, Priority::Low), (2, Priority::Now), (3, Priority::Next)] {
        let mut envelope = scene.envelope(seq);
        envelope.priority = priority;
        scene.commit(vec![accept(envelope, &[&s1])]).await;
    }
    assert_eq!(scene.waiting(&s1).await, [1, 3]);
    let urgent = QueueId { recipient: s1.clone(), lane: Lane::Urgent };
    let page = async || scene.store.page(&scene.mesh, &urgent, 0, ANY).await.unwrap();
    assert_eq!((seqs(&page().await), page().await.depth), (vec![2], 1));

    // A confirmation names the lane.
    let other_lane = Confirm {
        queue: QueueId { recipient: s1.clone(), lane: Lane::Normal },
        seq: 2,
        message: scene.envelope(2).id,
    };
    scene.commit(vec![Write::Confirm(other_lane)]).await;
    assert_eq!(seqs(&page().await), [2]);
    let mut sent = scene.envelope(2);
    sent.priority = Priority::Now;
    scene.commit(vec![confirm(&sent, &s1)]).await;
    assert_eq!(seqs(&page().await), NOTHING);
}

/// Neither another's nor another place's; and twice is once.
pub async fn a_confirmation_removes_its_own_delivery_only(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let (s1, s2) = (session("s1"), session("s2"));
    let both = [&s1, &s2];
    scene.commit(vec![scene.accept(1, &both), scene.accept(2, &both)]).await;
    let confirmed = confirm(&scene.envelope(1), &s1);
    scene.commit(vec![confirmed.clone()]).await;
    assert_eq!(scene.waiting(&s1).await, [2]);
    assert_eq!(scene.waiting(&s2).await, [1, 2]);
    scene.commit(vec![confirmed.clone(), confirmed]).await;
    assert_eq!(scene.waiting(&s2).await, [1, 2]);
    // One it was never addressed to.
    scene.commit(vec![scene.accept(3, &[&s1])]).await;
    scene.commit(vec![confirm(&scene.envelope(3), &s2)]).await;
    assert_eq!(scene.waiting(&s1).await, [2, 3]);
    assert_eq!(message(&scene, 3).await.delivered_at, None);
}

/// After a lost tail, the place may be another message's.
pub async fn a_confirmation_of_another_message_removes_nothing(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    scene.commit(vec![scene.accept(1, &[&s1])]).await;
    let mut lost = scene.envelope(1);
    lost.id = MessageId::at(1, 424_242);
    scene.commit(vec![confirm(&lost, &s1), confirm(&scene.envelope(9), &s1)]).await;
    assert_eq!(scene.waiting(&s1).await, [1]);
    assert_eq!(message(&scene, 1).await.delivered_at, None);
}

/// Two recipients, one after the other; then two in one commit.
pub async fn a_body_is_kept_until_the_last_recipient_confirmed(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let (s1, s2) = (session("s1"), session("s2"));
    let both = [&s1, &s2];
    let all = vec![s1.clone(), s2.clone()];
    scene.commit(vec![scene.accept(1, &both), scene.accept(2, &both)]).await;
    let found = message(&scene, 1).await;
    assert_eq!((found.recipients, sorted(found.waiting)), (all.clone(), all.clone()));
    assert_eq!(found.delivered_at, None);

    let sent = scene.envelope(1);
    scene.commit(vec![confirm(&sent, &s1)]).await;
    let found = message(&scene, 1).await;
    assert_eq!((found.waiting, found.delivered_at), (vec![s2.clone()], None));
    let page = scene.page(&s2, 0, ANY).await;
    assert_eq!(page.envelopes[0].ciphertext, sent.ciphertext, "the body is still there");

    scene.commit(vec![confirm(&sent, &s2)]).await;
    let found = message(&scene, 1).await;
    assert_eq!((found.recipients, found.waiting), (all.clone(), vec![]));
    assert!(found.delivered_at.is_some());

    let sent = scene.envelope(2);
    scene.commit(vec![confirm(&sent, &s2), confirm(&sent, &s1)]).await;
    assert!(message(&scene, 2).await.delivered_at.is_some());
    assert_eq!(scene.store.queue_depth().await.unwrap(), 0);
}

/// Nobody was there, so nobody is waited for.
pub async fn an_envelope_to_nobody_is_delivered_at_once(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    scene.commit(vec![scene.accept(1, &[])]).await;
    let found = message(&scene, 1).await;
    assert_eq!((found.recipients, found.waiting), (vec![], vec![]));
    assert!(found.delivered_at.is_some());
    let found = scene.activate("node-1").await;
    assert_eq!((found.tail, found.queues.len()), (1, 0), "its place is taken all the same");
}

/// Both lanes move; what waits for both waits once; others' queues stay.
pub async fn what_a_presence_leaves_its_member_inherits_once(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let (p1, p2, bens) = (presence("p1"), presence("p2"), Recipient::Member(scene.ben()));
    let mut urgent = scene.envelope(4);
    urgent.priority = Priority::Now;
    scene
        .commit(vec![
            scene.accept(1, &[&p1]),
            scene.accept(2, &[&p1, &bens]),
            scene.accept(3, &[&p2, &p1]),
            accept(urgent, &[&p1]),
            scene.accept(5, &[&bens]),
        ])
        .await;
    let other = Scene::named(backend, "blue").await;
    other.commit(vec![other.accept(1, &[&p1])]).await;

    scene.commit(vec![Write::Inherit { from: "p1".into(), to: scene.ben() }]).await;
    assert_eq!(scene.waiting(&p1).await, NOTHING);
    assert_eq!(scene.waiting(&p2).await, [3]);
    assert_eq!(scene.waiting(&bens).await, [1, 2, 3, 5]);
    let lane = QueueId { recipient: bens.clone(), lane: Lane::Urgent };
    assert_eq!(seqs(&scene.store.page(&scene.mesh, &lane, 0, ANY).await.unwrap()), [4]);
    assert_eq!(other.waiting(&p1).await, [1], "another mesh's presence is another's");
    let found = message(&scene, 1).await;
    assert_eq!((found.recipients, found.waiting), (vec![p1], vec![bens]));
    assert_eq!(found.delivered_at, None);
}

/// The last confirmation is the last, by whichever name.
pub async fn what_was_inherited_is_confirmed_by_the_member(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let (p1, bens) = (presence("p1"), Recipient::Member(scene.ben()));
    scene.commit(vec![scene.accept(1, &[&p1]), scene.accept(2, &[&p1, &bens])]).await;
    scene.commit(vec![Write::Inherit { from: "p1".into(), to: scene.ben() }]).await;
    scene.commit(vec![confirm(&scene.envelope(1), &p1), confirm(&scene.envelope(2), &p1)]).await;
    assert_eq!(scene.waiting(&bens).await, [1, 2], "the presence is gone");
    assert_eq!(message(&scene, 2).await.delivered_at, None);
    scene
        .commit(vec![confirm(&scene.envelope(1), &bens), confirm(&scene.envelope(2), &bens)])
        .await;
    for seq in [1, 2] {
        let found = message(&scene, seq).await;
        assert_eq!(found.waiting, []);
        assert!(found.delivered_at.is_some());
    }
}

/// Eight characters or more; of this mesh; and all of them.
pub async fn a_message_is_found_by_the_beginning_of_its_id(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let s1 = session("s1");
    scene.commit((1..=3).map(|seq| scene.accept(seq, &[&s1])).collect()).await;
    let id = scene.envelope(2).id;
    for length in [8, 12, 31, 32] {
        let found = scene.store.messages(&scene.mesh, &id.as_str()[..length]).await.unwrap();
        assert_eq!(found.len(), 1, "{length} characters name one message");
        assert_eq!(found[0].id, id);
        assert_eq!(found[0].target, scene.envelope(2).target);
        assert_eq!(found[0].recipients, std::slice::from_ref(&s1));
    }
    let none = async |mesh, prefix: &str| {
        assert_eq!(scene.store.messages(mesh, prefix).await.unwrap(), [], "{prefix}");
    };
    none(&blue.mesh, id.as_str()).await;
    none(&scene.mesh, MessageId::at(2, 424_242).as_str()).await;
    none(&scene.mesh, MessageId::at(9, 1).as_str()).await;
    // Not the shape of an id: no wildcard, no shortcut.
    for odd in ["", &id.as_str()[..7], "0000000%", "%%%%%%%%", "________"] {
        none(&scene.mesh, odd).await;
    }
}

/// Of all meshes and lanes.
pub async fn the_depth_of_all_queues_is_known(backend: &dyn Backend) {
    let red = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    assert_eq!(red.store.queue_depth().await.unwrap(), 0);
    let (s1, s2) = (session("s1"), session("s2"));
    let mut urgent = red.envelope(2);
    urgent.priority = Priority::Now;
    red.commit(vec![red.accept(1, &[&s1, &s2]), accept(urgent, &[&s1])]).await;
    blue.commit(vec![blue.accept(1, &[&s1])]).await;
    assert_eq!(red.store.queue_depth().await.unwrap(), 4);
}

async fn message(scene: &Scene, seq: u64) -> StoredMessage {
    let id = scene.envelope(seq).id;
    let mut found = scene.store.messages(&scene.mesh, id.as_str()).await.unwrap();
    assert_eq!(found.len(), 1, "message {seq} is known");
    found.remove(0)
}

fn sorted(mut recipients: Vec<Recipient>) -> Vec<Recipient> {
    recipients.sort();
    recipients
}
