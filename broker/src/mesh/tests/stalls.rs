//! The node stands still for a while: nobody is given up for that.

use super::*;
use crate::mesh::io::{Ms, STALL_MS};
use crate::mesh::roster::Hold;

const GRACE_MS: Ms = LIMITS.grace_ms;

/// Ana is here, Ben has been away for so long.
fn ben_away_for(ms: Ms) -> Scene {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.command(2, Command::Detach { clean: true, next: None });
    scene.commit();
    live(&mut scene, ms);
    scene.effects.clear();
    scene
}

/// Time passes, and the mesh is looked at whenever it wants.
pub(super) fn live(scene: &mut Scene, ms: Ms) {
    let until = scene.now + ms;
    while let Some(due) = scene.mesh.deadline().filter(|due| *due <= until) {
        scene.now = due.max(scene.now);
        scene.input(Input::Tick);
        scene.commit();
    }
    scene.now = until;
}

/// Time passes, and the mesh is not looked at.
fn stand_still(scene: &mut Scene, ms: Ms) {
    scene.now += ms;
    scene.input(Input::Tick);
}

fn ben_is_here(scene: &Scene) -> bool {
    scene.mesh.roster.iter().any(|(_, lease)| &*lease.record.name == "ben")
}

#[test]
fn a_grace_does_not_run_while_the_node_stands_still() {
    for away in [0, 30_000, GRACE_MS - 1_500] {
        let mut scene = ben_away_for(away);
        stand_still(&mut scene, 80_000);
        scene.commit();
        assert!(ben_is_here(&scene), "away for {away}");
        let left = GRACE_MS - away;
        live(&mut scene, left.saturating_sub(2_000));
        assert!(ben_is_here(&scene), "away for {away}");
        live(&mut scene, 2_000 + 4_000);
        assert!(!ben_is_here(&scene), "away for {away}");
    }
}

/// Whoever tried to come back meanwhile has a moment for it.
#[test]
fn nobody_leaves_in_the_moment_in_which_the_node_goes_on() {
    let mut scene = ben_away_for(GRACE_MS - 1);
    stand_still(&mut scene, 80_000);
    live(&mut scene, 3_900);
    assert!(ben_is_here(&scene));
    live(&mut scene, 200);
    assert!(!ben_is_here(&scene));
}

#[test]
fn a_little_lateness_does_not_lengthen_a_grace() {
    let mut scene = ben_away_for(GRACE_MS - 1);
    stand_still(&mut scene, STALL_MS / 2);
    scene.commit();
    assert!(!ben_is_here(&scene));
}

/// The store counts on; what does not count is in the lease, for whoever takes the mesh over.
#[test]
fn a_later_owner_knows_what_does_not_count() {
    let mut scene = ben_away_for(60_000);
    stand_still(&mut scene, 80_000);
    scene.commit();
    let mut leases = scene.stored();
    for lease in leases.iter_mut().filter(|lease| lease.row.away) {
        lease.away_ms = 140_000;
    }
    let mut next = Scene::new();
    next.mesh = Mesh::new("mesh".into(), LIMITS, HERE);
    let activation = Activation { epoch: 5, leases, ..Activation::default() };
    next.activate(activation, Vec::new());
    live(&mut next, 28_000);
    assert!(ben_is_here(&next));
    live(&mut next, 4_000);
    assert!(!ben_is_here(&next));
}

/// Nor does what a session did not say, or was not told, meanwhile.
#[test]
fn a_status_holds_over_a_pause() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    let status = protocol::client::Status::Working;
    let verb = Verb::SetStatus { status };
    scene.command(1, Command::Request(Request { verb, req_id: None }));
    scene.commit();
    live(&mut scene, 10_000);
    stand_still(&mut scene, 80_000);
    live(&mut scene, 49_000);
    let working = |scene: &Scene| scene.mesh.roster.iter().all(|(_, l)| l.record.status == status);
    assert!(working(&scene));
    live(&mut scene, 60_000);
    assert!(!working(&scene));
}

/// A session that was heard of through a node after the node's last heartbeat was not gone then.
#[test]
fn a_lost_node_takes_nobody_back_before_they_were_heard_of() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(100, "ben");
    scene.now += 10_000;
    let attached_at = scene.now;
    scene.input(Input::Alive(conn(100)));
    scene.now += 500;
    scene.input(Input::EdgeLost { process: HERE + 1, ago_ms: 3_500 });
    let until = scene.mesh.roster.iter().find_map(|(_, lease)| match lease.hold {
        Hold::Away { until } => Some(until),
        _ => None,
    });
    assert_eq!(until, Some(attached_at + GRACE_MS));
}
