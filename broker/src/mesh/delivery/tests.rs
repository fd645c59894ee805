use super::*;

fn session(number: u32) -> Recipient {
    Recipient::Session(format!("key-{number}").into())
}

/// After a restart, everybody is back at once and has a long queue in the store.
#[test]
fn many_long_queues_are_read_back_within_the_bound() {
    const PEERS: u32 = 300;
    let lane = Lane::Normal;
    let queue = |number| (QueueId { recipient: session(number), lane }, 1_000);
    let mut delivery = Delivery::load((0..PEERS).map(queue).collect(), 0);
    for no in 0..PEERS {
        let rank = Rank { unproven: false, one_shot: false };
        delivery.open(no, session(no), format!("member-{no}").as_str().into(), rank);
        delivery.attach(no, false);
    }
    let mut out = Vec::new();
    delivery.pump(0, &mut out);
    let asked: Vec<usize> = out
        .iter()
        .filter_map(|out| match out {
            Out::Ask(_, Question::Page { limit, .. }) => Some(limit.bytes),
            _ => None,
        })
        .collect();
    assert_eq!(asked.len(), PEERS as usize, "nobody starves");
    assert!(asked.iter().sum::<usize>() <= MESH_BYTES + PEERS as usize * TIGHT_BYTES);
}
