//! Short-lived sessions: commands of a terminal, announced only when they stay.

use super::*;

#[test]
fn a_command_that_is_gone_at_once_is_nobodys_news_in_a_new_epoch_either() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet_with(2, passing("ben"));
    let held = scene.attached();
    let leases = scene.stored();
    scene.input(Input::CommitUnknown);
    scene.activate(Activation { epoch: 2, leases, ..Activation::default() }, held);
    scene.command(2, Command::Detach { clean: true, next: None });
    scene.commit();
    assert_eq!(scene.mesh.leases(), 1);
    let told = scene.take(|effect| matches!(effect, Effect::Broadcast { .. }).then_some(()));
    assert!(told.is_empty());
}

/// After failover the new owner knows of announcements only what edges report.
#[test]
fn whom_any_edge_knows_is_not_announced_to_those_whose_edge_has_died() {
    let mut first = Scene::new();
    first.greet(1, "ana");
    first.greet_with(100, passing("ben"));
    let (held, leases) = (first.attached(), first.stored());
    let told: Vec<_> = first.mesh.roster.iter().map(|(_, lease)| lease.told()).collect();

    let mut new_owner = Scene::new();
    new_owner.input(Input::CommitUnknown);
    let activation = Activation { epoch: 9, leases, ..Activation::default() };
    new_owner.activate(activation, Vec::new());
    new_owner.greet(2, "ana");
    let held = held.into_iter().filter(|held| held.conn == conn(100)).collect();
    new_owner.input(Input::Announced(Edge { process: HERE + 1, held, told }));
    new_owner.input(Input::AllAnnounced);
    new_owner.now += ANNOUNCE_MS;
    new_owner.input(Input::Tick);
    let told = new_owner.take(|effect| match effect {
        Effect::News { events, .. } if !events.is_empty() => Some(events.clone()),
        _ => None,
    });
    assert!(told.is_empty(), "{told:?}");
    assert!(new_owner.mesh.roster.iter().all(|(_, lease)| lease.announced));
}

/// Clients' probes stay for two seconds; what stays longer is a peer like any other.
#[test]
fn a_short_lived_session_is_announced_when_it_has_stayed() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet_with(2, passing("ben"));
    let told = |scene: &mut Scene| {
        scene.take(|effect| match effect {
            Effect::News { events, .. } if !events.is_empty() => Some(()),
            _ => None,
        })
    };
    told(&mut scene);
    scene.now += SHORT_LIVED_MS - 1;
    scene.input(Input::Tick);
    assert!(told(&mut scene).is_empty());
    scene.now += 1;
    scene.input(Input::Tick);
    assert_eq!(told(&mut scene).len(), 1);
}

/// Its socket broke: it said no goodbye.
#[test]
fn a_short_lived_session_that_is_lost_leaves_unseen() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet_with(2, passing("ben"));
    scene.take(|effect| matches!(effect, Effect::News { .. }).then_some(()));
    scene.command(2, Command::Detach { clean: false, next: None });
    scene.commit();
    for _ in 0..SHORT_LIVED_MS / 500 {
        scene.now += 500;
        scene.input(Input::Tick);
        scene.commit();
    }
    assert_eq!(scene.mesh.leases(), 1);
    let told = scene.take(|effect| matches!(effect, Effect::News { .. }).then_some(()));
    assert!(told.is_empty());
}

/// An owner before let it in: peers that are away may know of it.
#[test]
fn a_short_lived_session_of_an_earlier_epoch_keeps_its_grace() {
    let mut first = Scene::new();
    first.greet(1, "ana");
    first.greet_with(2, passing("ben"));
    let leases = first.stored();

    let mut next = Scene::new();
    next.input(Input::CommitUnknown);
    next.activate(Activation { epoch: 9, leases, ..Activation::default() }, Vec::new());
    next.input(Input::AllAnnounced);
    next.greet_with(3, Attach { signature: "another".into(), ..passing("ben") });
    next.command(3, Command::Detach { clean: false, next: None });
    next.commit();
    stalls::live(&mut next, LIMITS.grace_ms - 1_000);
    assert!(next.mesh.roster.iter().any(|(_, lease)| &*lease.record.name == "ben"));
}
