//! What a peer is told of others when it is back.

use std::collections::BTreeSet;

use super::stalls::live;
use super::*;
use crate::mesh::GONE_KEPT;

/// A mesh with room, and these peers in it: the first is connection 1.
fn mesh_of(peers: &[&str]) -> Scene {
    let mut scene = Scene::new();
    scene.mesh.limits.capacity = 10_000;
    for (number, who) in (1..).zip(peers) {
        scene.greet(number, who);
        pong(&mut scene);
    }
    scene.effects.clear();
    scene
}

/// Events for one connection since the last time: what happened to whom, and the event's id.
fn told(scene: &mut Scene, number: u64) -> Vec<(String, String)> {
    all_told(scene, number).into_iter().map(|(event, name, _)| (event, name)).collect()
}

fn all_told(scene: &mut Scene, number: u64) -> Vec<(String, String, String)> {
    let conn = conn(number);
    let said = scene.take(|effect| match effect {
        Effect::Broadcast { conns, frame } => Some(vec![(conns.clone(), frame.clone())]),
        Effect::News { events, .. } => Some(events.clone()),
        _ => None,
    });
    let said = said.into_iter().flatten().filter(|(conns, _)| conns.contains(&conn));
    let event = |frame: &Frame| match frame {
        Frame::Event(event) => {
            let name = event.event_data["name"].as_str().unwrap_or_default();
            (event.event.to_owned(), name.to_owned(), event.message_id.clone())
        }
        other => panic!("no event: {other:?}"),
    };
    said.map(|(_, frame)| event(&frame)).collect()
}

fn pair(event: &str, name: &str) -> (String, String) {
    (event.to_owned(), name.to_owned())
}

/// Everybody answers their pings.
fn pong(scene: &mut Scene) {
    pong_but(scene, &[]);
}

/// Everybody but these.
fn pong_but(scene: &mut Scene, silent: &[u64]) {
    loop {
        let pings = scene.take(|effect| match effect {
            Effect::Probe { conn, nonce } => Some((*conn, *nonce)),
            _ => None,
        });
        let mut answered = false;
        for (conn, nonce) in pings {
            if !silent.contains(&conn.number) {
                answered = true;
                scene.input(Input::Pong { conn, nonce });
            }
        }
        if !answered {
            return;
        }
    }
}

fn close(scene: &mut Scene, number: u64, clean: bool) {
    scene.command(number, Command::Detach { clean, next: None });
    scene.commit();
}

#[test]
fn a_peer_that_was_away_is_told_who_came_and_who_went() {
    let mut scene = mesh_of(&["ana", "ben", "eve"]);
    close(&mut scene, 3, true);
    live(&mut scene, 80_000);
    close(&mut scene, 2, true);
    live(&mut scene, 20_000);
    scene.greet(4, "dan");
    assert_eq!(told(&mut scene, 1), [pair("peer_left", "eve"), pair("peer_joined", "dan")]);
    scene.greet(5, "ben");
    assert_eq!(told(&mut scene, 5), [pair("peer_left", "eve"), pair("peer_joined", "dan")]);
    // Once.
    pong(&mut scene);
    close(&mut scene, 5, false);
    scene.greet(6, "ben");
    assert_eq!(told(&mut scene, 6), []);
}

#[test]
fn whoever_came_and_went_meanwhile_is_nobodys_news() {
    let mut scene = mesh_of(&["ana", "ben"]);
    close(&mut scene, 2, true);
    live(&mut scene, 1_000);
    scene.greet(3, "eve");
    close(&mut scene, 3, true);
    // Only just before the grace of one is over is that of the other.
    live(&mut scene, 88_500);
    scene.greet(4, "ben");
    assert_eq!(told(&mut scene, 4), [pair("peer_joined", "eve")], "eve may be back");
    pong(&mut scene);
    close(&mut scene, 4, true);
    live(&mut scene, 2_000);
    scene.greet(5, "ben");
    assert_eq!(told(&mut scene, 5), [pair("peer_left", "eve")]);
    pong(&mut scene);
    close(&mut scene, 5, true);
    scene.greet(6, "dan");
    scene.mesh.limits.grace_ms = 1_000;
    close(&mut scene, 6, true);
    live(&mut scene, 2_000);
    scene.greet(7, "ben");
    assert_eq!(told(&mut scene, 7), []);
}

/// Nobody knows whether what was said before its socket broke has arrived.
#[test]
fn whoever_it_may_have_heard_of_is_said_to_have_gone() {
    let mut scene = mesh_of(&["ana", "ben"]);
    scene.greet(3, "eve");
    pong_but(&mut scene, &[2]);
    assert_eq!(told(&mut scene, 2), [pair("peer_joined", "eve")]);
    close(&mut scene, 3, true);
    live(&mut scene, 80_000);
    close(&mut scene, 2, false);
    live(&mut scene, 20_000);
    scene.greet(4, "ben");
    assert_eq!(told(&mut scene, 4), [pair("peer_left", "eve")]);
}

#[test]
fn whoever_returns_meanwhile_was_never_away_for_anybody() {
    let mut scene = mesh_of(&["ana", "ben", "eve"]);
    close(&mut scene, 2, true);
    close(&mut scene, 3, false);
    scene.greet(4, "eve");
    scene.greet(5, "ben");
    assert_eq!((told(&mut scene, 5), told(&mut scene, 1)), (vec![], vec![]));
}

#[test]
fn a_peer_that_was_away_is_told_who_can_be_seen() {
    let mut scene = mesh_of(&["ana", "ben"]);
    let show = |scene: &mut Scene, visible| {
        let verb = Verb::SetVisible { visible };
        scene.command(1, Command::Request(Request { verb, req_id: None }));
        scene.commit();
    };
    show(&mut scene, false);
    assert_eq!(told(&mut scene, 2), [pair("peer_hidden", "ana")]);
    pong(&mut scene);
    close(&mut scene, 2, false);
    scene.greet(3, "ben");
    assert_eq!(told(&mut scene, 3), []);
    pong(&mut scene);
    close(&mut scene, 3, false);
    show(&mut scene, true);
    scene.greet(4, "ben");
    assert_eq!(told(&mut scene, 4), [pair("peer_visible", "ana")]);
}

/// What was written to a socket that nobody held any more is told again, under the same id.
#[test]
fn a_half_open_peer_is_told_again_what_it_did_not_confirm() {
    let mut scene = mesh_of(&["ana", "ben", "eve"]);
    close(&mut scene, 3, true);
    live(&mut scene, 80_000);
    scene.greet(4, "dan");
    let first = all_told(&mut scene, 2);
    pong_but(&mut scene, &[2]);
    live(&mut scene, 20_000);
    let second = all_told(&mut scene, 2);
    pong_but(&mut scene, &[2]);
    // The socket is still thought alive.
    scene.greet(5, "ben");
    let again = all_told(&mut scene, 5);
    assert_eq!(again, [first, second].concat());
    let events: Vec<_> = again.iter().map(|(event, ..)| event.as_str()).collect();
    assert_eq!(events, ["peer_joined", "peer_left"]);
    // Not confirmed on this connection either, and the next one is told, too.
    scene.greet(6, "ben");
    assert_eq!(all_told(&mut scene, 6), again);
    pong(&mut scene);
    scene.greet(7, "ben");
    assert_eq!(told(&mut scene, 7), []);
}

#[test]
fn one_ping_at_a_time_follows_the_events() {
    let mut scene = mesh_of(&["ana", "ben"]);
    let pings = |scene: &mut Scene| {
        scene.take(|effect| match effect {
            Effect::Probe { conn, nonce } => Some((conn.number, *nonce)),
            _ => None,
        })
    };
    scene.greet(3, "eve");
    let first = pings(&mut scene);
    assert_eq!(first.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2]);
    scene.greet(4, "dan");
    assert_eq!(pings(&mut scene).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [3]);
    // The pong of the first says nothing of the second event, which is pinged behind.
    scene.input(Input::Pong { conn: conn(2), nonce: first[1].1 });
    let second = pings(&mut scene);
    assert_eq!(second.len(), 1);
    assert_ne!(second[0].1, first[1].1);
    // An answer that was given before, or by another, counts for nothing.
    scene.input(Input::Pong { conn: conn(2), nonce: first[1].1 });
    scene.input(Input::Pong { conn: conn(1), nonce: second[0].1 });
    scene.input(Input::Pong { conn: conn(2), nonce: u64::MAX });
    scene.effects.clear();
    scene.greet(5, "ben");
    assert_eq!(told(&mut scene, 5), [pair("peer_joined", "dan")]);
}

/// The next owner has what is durable: who came since.
#[test]
fn the_next_owner_tells_a_peer_who_came_under_the_one_before() {
    let mut scene = mesh_of(&["ana", "ben", "eve"]);
    close(&mut scene, 2, true);
    scene.greet(4, "dan");
    let stored: Vec<_> = scene.mesh.roster.iter().map(|(_, lease)| lease.row()).collect();
    let leases = stored.into_iter().map(|row| StoredLease { row, away_ms: 0 }).collect();
    // Ana's edge had been told of everybody, of one more besides, and is gone.
    let mut told_before: Vec<_> = scene.mesh.roster.iter().map(|(_, lease)| lease.told()).collect();
    let mut gone = told_before[0].clone();
    (gone.presence, gone.member, gone.name) = ("gone".into(), "gone".into(), "gone".into());
    told_before.push(gone);
    let mut next = Scene::new();
    next.mesh = Mesh::new("mesh".into(), LIMITS, HERE);
    next.mesh.limits.capacity = 10;
    let activation = Activation { epoch: 9, leases, ..Activation::default() };
    let edges = vec![Edge { process: HERE + 1, held: Vec::new(), told: told_before }];
    let activation = Some(Box::new(activation));
    next.input(Input::Activated { activation, entropy: 7, edges });
    next.commit();
    next.effects.clear();
    next.greet(10, "ben");
    assert_eq!(told(&mut next, 10), [pair("peer_joined", "dan"), pair("peer_left", "gone")]);
    // Who was here when the owner died knew.
    next.greet(11, "eve");
    assert_eq!(told(&mut next, 11), [pair("peer_left", "gone")]);
}

/// Nobody knows what was committed; the same owner finds out, and goes on.
#[test]
fn an_owner_that_starts_anew_still_knows_what_was_missed() {
    let mut scene = mesh_of(&["ana", "ben", "eve"]);
    close(&mut scene, 2, true);
    scene.greet(4, "dan");
    let leases: Vec<_> = scene.stored();
    let without_eve = leases.into_iter().filter(|l| !l.row.body.contains("\"eve\"")).collect();
    scene.input(Input::CommitUnknown);
    scene.input(Input::CommitUnknown);
    let held = scene.attached();
    let activation = Activation { epoch: 2, leases: without_eve, ..Activation::default() };
    scene.mesh.phase = crate::mesh::state::Phase::Activating;
    scene.activate(activation, held);
    scene.commit();
    scene.effects.clear();
    scene.greet(5, "ben");
    assert_eq!(told(&mut scene, 5), [pair("peer_joined", "dan"), pair("peer_left", "eve")]);
}

#[test]
fn what_is_kept_for_the_absent_is_bounded_and_goes_with_them() {
    let mut scene = mesh_of(&["ana"]);
    let many = GONE_KEPT as u64 + 10;
    for number in 0..many {
        scene.greet(10 + number, &format!("peer-{number}"));
        pong(&mut scene);
        scene.effects.clear();
    }
    for number in 0..many {
        close(&mut scene, 10 + number, true);
    }
    live(&mut scene, 1_000);
    close(&mut scene, 1, true);
    live(&mut scene, 89_500);
    scene.greet(2, "ana");
    let left = all_told(&mut scene, 2);
    assert_eq!(left.len(), GONE_KEPT);
    assert_eq!(left.iter().collect::<BTreeSet<_>>().len(), GONE_KEPT, "each once");
    assert_eq!(left.last().map(|(_, name, _)| name.clone()), Some(format!("peer-{}", many - 1)));
    pong(&mut scene);
    scene.greet(3, "eve");
    close(&mut scene, 3, true);
    live(&mut scene, 100_000);
    pong(&mut scene);
    assert!(scene.mesh.missed.kept() <= 1, "of nobody but who has not confirmed it");
}
