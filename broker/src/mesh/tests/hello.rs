//! Who is let in, and as whom.

use super::*;

#[test]
fn the_newest_line_keeps_its_presence_into_the_next_epoch() {
    let mut scene = Scene::new();
    scene.greet(9, "ana");
    scene.greet(2, "ana");
    let held = scene.attached();
    let row = scene.mesh.roster.iter().map(|(_, lease)| lease.row()).next().unwrap();
    scene.input(Input::CommitUnknown);
    let leases = vec![StoredLease { row, away_ms: 0 }];
    let held = vec![held[1].clone(), held[0].clone()];
    scene.activate(Activation { epoch: 2, leases, ..Activation::default() }, held);
    assert!(scene.mesh.roster.of_conn(conn(2)).is_some());
}

#[test]
fn a_contested_key_is_taken_over_where_there_is_no_room_beside_it() {
    let mut scene = Scene::new();
    scene.greet(1, "ben");
    for number in 2..8 {
        scene.greet(number, "ana");
        assert_eq!(scene.attached().last().map(|held| held.conn), Some(conn(number)));
    }
    assert_eq!(scene.mesh.leases(), 2);
}

#[test]
fn of_two_with_one_key_the_second_waits_for_the_first() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    for key in ["zero", "one", "one", "two"] {
        scene.send_keyed(1, "ben", key);
    }
    let mut sizes = Vec::new();
    while let Some(commit) = scene.commits().pop() {
        sizes.push(accepts(&commit).len());
        scene.input(Input::Committed(Outcome::Committed { purged: 0 }));
    }
    assert_eq!(sizes, [1, 1, 2]);
}

fn session(who: &str, key: &str, opened_at: OpenedAt) -> Attach {
    Attach {
        session: SessionKey::Proven(key.into()),
        signature: format!("signature-{opened_at:?}").into(),
        opened_at,
        read_at: opened_at.wall,
        ..passing(who)
    }
}

/// What its client's clock says does not matter; what waited long at an edge is old.
#[test]
fn the_hello_of_the_socket_opened_last_is_the_newer() {
    let read = |process, mono, wall| OpenedAt { process, mono, wall };
    for (first, second, takes_over) in [
        (read(1, 5_000, 50_000), read(1, 5_001, 20_000), true),
        (read(1, 5_000, 50_000), read(1, 4_999, 90_000), false),
        (read(1, 5_000, 50_000), read(2, 1, 49_400), false),
        (read(1, 5_000, 50_000), read(2, 1, 49_600), true),
        (read(1, 5_000, 500_000), read(2, 1, 400_000), true),
    ] {
        let mut scene = Scene::new();
        scene.greet_with(1, session("ana", "key", first));
        scene.greet_with(2, session("ana", "key", second));
        let holds = scene.mesh.roster.of_conn(conn(2)).is_some();
        assert_eq!(holds, takes_over, "{first:?} and then {second:?}");
    }
}

/// A socket may have been open for long when it says another hello.
#[test]
fn a_second_hello_is_as_old_as_its_socket_however_long_that_was_open() {
    let mut scene = Scene::new();
    let opened = |process, wall| OpenedAt { process, mono: 1, wall };
    scene.greet_with(1, session("ana", "key", opened(1, 500_000)));
    let second = Attach { read_at: 500_100, ..session("ana", "key", opened(2, 400_000)) };
    scene.greet_with(2, second);
    assert!(scene.mesh.roster.of_conn(conn(2)).is_none());
    assert!(scene.mesh.roster.of_conn(conn(1)).is_some());
}

/// Replays of a captured hello must not use up its member's rate.
#[test]
fn replays_do_not_use_up_the_hellos_of_a_member() {
    let mut scene = Scene::with(Limits { hello_rate: 60, ..LIMITS });
    let at = |wall| OpenedAt { process: 1, mono: 1, wall };
    scene.greet_with(1, session("ana", "key", at(1)));
    let refused = |scene: &mut Scene| {
        scene.take(|effect| match effect {
            Effect::Refused { frame: Some(Frame::Error(error)), .. } => Some(error.code.clone()),
            _ => None,
        })
    };
    for number in 2..50 {
        scene.greet_with(number, session("ana", "key", at(1)));
    }
    assert_eq!(refused(&mut scene), ["replayed"; 48]);
    // An owner that has only just begun knows of them from the store.
    let mut seen = identity("ana");
    seen.seen_by = Some("elsewhere".to_owned());
    for number in 50..90 {
        scene.command(number, Command::Attach(Box::new(session("ana", "key", at(2)))));
        let tickets = scene.take(|effect| match effect {
            Effect::Ask(ticket, Question::Identity(_)) => Some(*ticket),
            _ => None,
        });
        let answer = Some(Answer::Identity(Some(Box::new(seen.clone()))));
        for ticket in tickets {
            scene.input(Input::Answer(ticket, answer.clone()));
        }
    }
    assert_eq!(refused(&mut scene), ["replayed"; 40]);
    scene.greet_with(95, session("ana", "key", at(3)));
    assert_eq!(refused(&mut scene), [""; 0]);
}
