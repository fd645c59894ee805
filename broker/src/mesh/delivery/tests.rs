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
    let mut delivery = Delivery::load((0..PEERS).map(queue).collect(), 0, 1);
    for no in 0..PEERS {
        let rank = Rank { unproven: false, short_lived: false };
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

fn envelope(seq: Seq) -> Arc<Envelope> {
    Arc::new(Envelope {
        id: MessageId::at(seq, 0),
        seq,
        sender: Arc::new(crate::model::Sender {
            member: "sender".into(),
            member_pubkey: "key".into(),
            session_pubkey: None,
            name: "sender".into(),
        }),
        target: "member".to_owned(),
        priority: protocol::client::Priority::Next,
        nonce: String::new(),
        ciphertext: "text".to_owned(),
        key: crate::model::AcceptKey::Link(seq.to_string()),
        fingerprint: None,
        reply_to: None,
        subtype: None,
        topic: None,
        created_at: 0,
    })
}

/// Two sessions of one member, and what is pushed to which.
struct Two(Delivery);

impl Two {
    fn new() -> Self {
        let mut delivery = Delivery::default();
        for no in 0..2 {
            let rank = Rank { unproven: false, short_lived: false };
            delivery.open(no, session(no), "member".into(), rank);
            delivery.attach(no, false);
        }
        Self(delivery)
    }

    fn offer(&mut self, seq: Seq) -> Vec<(LeaseNo, Seq)> {
        self.0.offer(&envelope(seq), vec![Recipient::Member("member".into())]);
        self.pushes()
    }

    fn pushes(&mut self) -> Vec<(LeaseNo, Seq)> {
        let mut out = Vec::new();
        self.0.pump(0, &mut out);
        let pushes = out.iter().filter_map(|out| match out {
            Out::Push { to, envelope } => Some((*to, envelope.seq)),
            _ => None,
        });
        pushes.collect()
    }
}

#[test]
fn a_new_holder_begins_with_what_the_one_before_has_not_confirmed() {
    let mut two = Two::new();
    assert_eq!(two.offer(1), [(0, 1)]);
    two.0.set_busy(0, true);
    assert_eq!(two.pushes(), [(1, 1)]);
    assert_eq!(two.offer(2), [(1, 2)]);
    two.0.detach(0);
    assert_eq!(two.pushes(), []);
}

#[test]
fn what_a_gone_holder_had_goes_to_the_next_at_once() {
    let mut two = Two::new();
    assert_eq!(two.offer(1), [(0, 1)]);
    two.0.detach(0);
    assert_eq!(two.pushes(), [(1, 1)]);
    two.0.attach(0, false);
    assert_eq!(two.offer(2), [(1, 2)]);
}
