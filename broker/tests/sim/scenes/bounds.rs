//! P8: what waits for an owner that does not answer is bounded.

use broker::mesh::io::{Input, Now};
use broker::mesh::{Limits, StatusLimits};
use broker::seat::{LINK_BYTES, Seat, SeatInput, Sight};
use protocol::client::Status;
use router::membership::{Members, Seen, Sighting, State, Timing};
use router::node::NodeKey;

const LIMITS: Limits = Limits {
    grace_ms: 90_000,
    capacity: 100,
    message_units: 65_536,
    send_rate: 0,
    send_burst: 10,
    offline_queue: false,
    status: StatusLimits { hook_fresh_ms: 15_000, working_ms: 25_000 },
    kick_cooldown_ms: 10_000,
    member_sessions: 100,
    hello_rate: 0,
    kick_session_ms: 900_000,
    mesh_queue_bytes: 256 << 20,
    recipient_queue_bytes: 64 << 20,
};

fn node(name: &str) -> NodeKey {
    NodeKey { id: name.into(), incarnation: 1 }
}

/// What `here` sees, with another beside it.
fn sight() -> Sight {
    let mut members = Members::new(node("here"), Timing { heartbeat_ms: 500, ttl_ms: 3_000 });
    let seen = |name: &str| Seen {
        home: true,
        key: node(name),
        state: State::Serving,
        weight: 1,
        age_ms: 0,
        listens: Some(true),
    };
    let nodes = vec![seen("here"), seen("there")];
    members.observed(0, &Sighting { nodes, table_age_ms: 60_000, superseded: false });
    Sight { view: members.view(), read_at: 0, fresh: true }
}

#[test]
fn hooks_for_an_owner_that_does_not_answer_do_not_pile_up() {
    let sight = sight();
    let elsewhere = |mesh: &String| sight.view.owner(mesh) == Some(&node("there"));
    let mesh =
        (0..64).map(|number| format!("mesh-{number}")).find(elsewhere).expect("half of them");
    let mut seat = Seat::new(mesh.as_str().into(), 1, LIMITS, true);
    for mono in 0..300_000 {
        let hook = Input::Hook { presence: "somebody".into(), status: Status::Working };
        let now = Now { mono, wall: 0 };
        seat.apply(now, &sight, SeatInput::Local(hook));
        seat.drain(now, &sight);
        assert!(seat.links().1 <= LINK_BYTES, "{:?}", seat.links());
    }
    assert_eq!(seat.links().0, 1);
}
