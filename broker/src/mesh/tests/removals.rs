//! Removals beside the broker: members, roles and meshes that change in the database.

use super::*;

impl Scene {
    /// The store tells of a member that it was removed, as of `asked`.
    fn told_removed(&mut self, member: &str, asked: u64) {
        let mut membership = Membership::default();
        membership.add(member.into(), true, false);
        self.input(Input::Membership { asked, membership: Arc::new(membership) });
    }

    fn frames(&mut self) -> Vec<Frame> {
        self.take(|effect| match effect {
            Effect::Result { frame: Some(frame), .. } => Some(frame.clone()),
            _ => None,
        })
    }

    fn lists(&mut self, number: u64) {
        let request = Request { verb: Verb::ListPeers, req_id: Some("id".into()) };
        self.command(number, Command::Request(request));
    }
}

#[test]
fn a_member_removed_beside_has_no_say_before_that_is_durable() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.now += 10;
    scene.told_removed("ben", scene.now);
    scene.send(2, "ana");
    scene.send(1, "*");
    scene.lists(2);
    assert!(scene.frames().is_empty(), "nothing is said before the commit");
    let writes = scene.commit();
    assert!(recipients(&writes).is_empty(), "{writes:?}");
    let purged =
        |write: &Write| matches!(write, Write::Purge { member, .. } if member == &"ben".into());
    assert!(writes.iter().any(purged), "{writes:?}");
    let closed = scene.take(|effect| match effect {
        Effect::Close { conn, close } => Some((*conn, *close)),
        _ => None,
    });
    assert_eq!(closed, [(conn(2), protocol::close::BANNED)]);
    assert!(!scene.frames().iter().any(|frame| matches!(frame, Frame::PeersList { .. })));
    assert_eq!(scene.mesh.leases(), 1);
}

#[test]
fn what_was_read_before_a_hello_says_nothing_of_it() {
    let mut scene = Scene::new();
    let asked = scene.now;
    scene.greet(2, "ben");
    scene.told_removed("ben", asked);
    scene.commit();
    assert_eq!(scene.mesh.leases(), 1);
    scene.now += 1;
    scene.told_removed("ben", scene.now);
    scene.commit();
    assert_eq!(scene.mesh.leases(), 0);
    // Let in again, it may come and write at once.
    scene.greet(3, "ana");
    scene.greet(4, "ben");
    scene.send(4, "ana");
    scene.commit();
    let pushed = scene.take(|effect| match effect {
        Effect::Push { conn, .. } => Some(*conn),
        _ => None,
    });
    assert_eq!(pushed, [conn(3)]);
}

#[test]
fn everybody_leaves_an_archived_mesh_and_mail_stays() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.now += 10;
    let membership = Arc::new(Membership { archived: true, ..Membership::default() });
    let asked = scene.now;
    scene.input(Input::Membership { asked, membership: membership.clone() });
    scene.input(Input::Membership { asked, membership });
    let writes = scene.commit();
    assert!(!writes.iter().any(|write| matches!(write, Write::Purge { .. })));
    let left = |write: &&Write| matches!(write, Write::Audit(row) if row.event == "peer_left");
    assert_eq!(writes.iter().filter(left).count(), 2);
    assert_eq!(scene.mesh.leases(), 0);
}

#[test]
fn a_role_that_changed_is_saved_once() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.now += 10;
    let mut membership = Membership::default();
    for member in ["ana", "ben"] {
        membership.add(member.into(), false, false);
    }
    let membership = Arc::new(membership);
    for _ in 0..2 {
        let asked = scene.now;
        scene.input(Input::Membership { asked, membership: membership.clone() });
    }
    let saved = scene.commit().into_iter().filter(|write| matches!(write, Write::SaveLease(_)));
    assert_eq!(saved.count(), 1, "of ana, who is no owner any more");
    assert!(scene.mesh.roster.iter().all(|(_, lease)| !lease.record.moderator));
}

/// Its hello was checked before the store was asked, and its lease was durable only afterwards.
#[test]
fn whom_the_store_did_not_know_yet_keeps_its_role() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.now += 10;
    let asked = scene.now;
    scene.input(Input::Membership { asked, membership: Arc::default() });
    assert!(scene.commit().is_empty());
    assert!(scene.mesh.roster.iter().all(|(_, lease)| lease.record.moderator), "she is the owner");
}
