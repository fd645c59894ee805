//! Hiding and showing: what mates are told, and how often.

use super::stalls::live;
use super::*;

/// Ana and Ben are here; Ben looks on.
fn watched() -> Scene {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    events(&mut scene);
    scene
}

fn show(scene: &mut Scene, visible: bool) {
    let verb = Verb::SetVisible { visible };
    scene.command(1, Command::Request(Request { verb, req_id: Some("id".into()) }));
    scene.commit();
}

/// What Ben was told since the last time.
fn events(scene: &mut Scene) -> Vec<String> {
    let events = scene.take(|effect| match effect {
        Effect::Broadcast { conns, frame } if conns.contains(&conn(2)) => Some(frame.clone()),
        _ => None,
    });
    let name = |frame: &Arc<Frame>| match &**frame {
        Frame::Event(event) => event.event.to_string(),
        _ => String::new(),
    };
    events.iter().map(name).collect()
}

#[test]
fn what_others_know_already_is_not_announced_late() {
    let mut scene = watched();
    for _ in 0..30 {
        show(&mut scene, false);
    }
    assert_eq!(events(&mut scene), ["peer_hidden"; 20]);
    assert_eq!(scene.results().len(), 30, "each is answered");
    live(&mut scene, 5_000);
    assert!(events(&mut scene).is_empty());
}

/// Each event goes to every connection of the mesh: a loop must not cost that.
#[test]
fn a_peer_that_hides_in_a_loop_is_announced_at_a_rate() {
    let mut scene = watched();
    for step in 0..600 {
        show(&mut scene, step % 2 == 1);
        live(&mut scene, 10);
    }
    let told = events(&mut scene);
    assert!((20..=27).contains(&told.len()), "{} events in 6 s", told.len());
    assert_eq!(scene.results().len(), 600, "each is answered at once");
    show(&mut scene, false);
    live(&mut scene, 3_000);
    let told = [told, events(&mut scene)].concat();
    assert_eq!(told.last().map(String::as_str), Some("peer_hidden"), "how it is in the end");
}

/// The same owner begins another epoch: what it held back it still announces.
#[test]
fn what_was_held_back_is_announced_in_the_next_epoch() {
    let mut scene = watched();
    for step in 0..21 {
        show(&mut scene, step % 2 == 1);
    }
    assert_eq!(events(&mut scene).len(), 20);
    let (held, leases) = (scene.attached(), scene.stored());
    scene.input(Input::CommitUnknown);
    scene.activate(Activation { epoch: 2, leases, ..Activation::default() }, held);
    scene.commit();
    live(&mut scene, 3_000);
    assert_eq!(events(&mut scene), ["peer_hidden"]);
}
