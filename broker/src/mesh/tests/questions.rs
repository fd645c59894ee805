//! What peers ask: lists, the fate of a message, the audit chain.

use super::*;

/// What the peer of a connection is told when it asks for the list.
fn listed(scene: &mut Scene, number: u64) -> Vec<Row> {
    scene.command(number, Command::Request(Request { verb: Verb::ListPeers, req_id: None }));
    let lists = scene.take(|effect| match effect {
        Effect::Result { frame: Some(Frame::PeersList { peers, .. }), .. } => Some(peers.clone()),
        _ => None,
    });
    lists.into_iter().next_back().unwrap_or_default()
}

fn summary(text: &str) -> Command {
    let verb = Verb::SetSummary { summary: text.to_owned() };
    Command::Request(Request { verb, req_id: None })
}

#[test]
fn a_row_is_encoded_once_for_each_change_of_it() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    let first = listed(&mut scene, 1);
    let again = listed(&mut scene, 2);
    assert!(first.len() == 2 && first.iter().zip(&again).all(|(a, b)| a.is_same(b)));
    scene.command(2, summary("new"));
    let then = listed(&mut scene, 1);
    let changed: Vec<_> = then.iter().filter(|row| !first.iter().any(|r| r.is_same(row))).collect();
    assert_eq!(changed.len(), 1);
    assert!(changed[0].as_str().contains("\"summary\":\"new\""), "{changed:?}");
}

/// As the owner of the mesh (`ana`) or a member, `verb`; what is answered.
fn answered(scene: &mut Scene, verb: Verb, answer: &Answer) -> Vec<Frame> {
    scene.command(1, Command::Request(Request { verb, req_id: None }));
    let mut asked = 0;
    loop {
        let tickets = scene.take(|effect| match effect {
            Effect::Ask(ticket, Question::Messages { .. } | Question::VerifyAudit(_)) => {
                Some(*ticket)
            }
            _ => None,
        });
        let Some(ticket) = tickets.into_iter().next().filter(|_| asked < 100) else { break };
        asked += 1;
        scene.now += 100;
        scene.input(Input::Answer(ticket, Some(answer.clone())));
    }
    scene.take(|effect| match effect {
        Effect::Result { frame: Some(frame), .. } => Some(frame.clone()),
        _ => None,
    })
}

fn code(frames: &[Frame]) -> Option<(String, String)> {
    match frames {
        [Frame::Error(error)] => Some((error.code.clone(), error.message.clone())),
        _ => None,
    }
}

#[test]
fn a_message_is_followed_by_whom_it_concerns_alone() {
    let message = |sender: &str, recipients: Vec<Recipient>, members: &[&str]| StoredMessage {
        id: "00000001aaaaaaaaaaaaaaaaaaaaaaaa".into(),
        sender: sender.into(),
        members: members.iter().map(|member| (*member).into()).collect(),
        target: "*".to_owned(),
        recipients,
        waiting: Vec::new(),
        delivered_at: None,
        undeliverable: false,
    };
    let to = |member: &str| vec![Recipient::Member(member.into())];
    let mine = [
        message("ben", to("dora"), &[]),
        message("carl", to("ben"), &[]),
        message("carl", vec![Recipient::Session("key".into())], &["dora", "ben"]),
    ];
    let others = [
        message("carl", to("dora"), &[]),
        message("carl", vec![Recipient::Session("ben".into())], &["dora"]),
        message("carl", vec![Recipient::Presence("p".into())], &[]),
        message("carl", Vec::new(), &[]),
    ];
    for (who, found, shown) in [
        ("ben", &mine[..], true),
        ("ben", &others[..], false),
        ("ana", &mine[..], true),
        ("ana", &others[..], true),
    ] {
        for message in found {
            let mut scene = Scene::new();
            scene.greet(1, who);
            let verb = Verb::MessageStatus { message_id: "00000001".to_owned() };
            let told = answered(&mut scene, verb.clone(), &Answer::Messages(vec![message.clone()]));
            let nothing = ("not_found".to_owned(), "message not found".to_owned());
            assert_eq!(code(&told), (!shown).then(|| nothing.clone()), "{who} {message:?}");
            // Two that begin alike are ambiguous to those only whom both concern.
            let two = Answer::Messages(vec![message.clone(), message.clone()]);
            let told = code(&answered(&mut scene, verb, &two)).unwrap();
            assert_eq!(told.0, if shown { "ambiguous_prefix" } else { "not_found" });
        }
    }
}

fn slice(entries: u64, broken_at: Option<i64>, ended: bool) -> Answer {
    let so_far = Verified { entries, ..Verified::default() };
    Answer::AuditVerified(VerifiedSlice { so_far, broken_at, ended })
}

#[test]
fn a_chain_is_verified_for_moderators_in_slices_and_as_far_as_a_client_waits() {
    let mut scene = Scene::new();
    scene.greet(1, "ben");
    let told = answered(&mut scene, Verb::AuditVerify, &slice(1, None, true));
    assert_eq!(code(&told).unwrap().0, "forbidden");
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    let start = scene.now;
    let told = answered(&mut scene, Verb::AuditVerify, &slice(700, None, false));
    let (name, text) = code(&told).unwrap();
    assert!(name == "audit_verify_error" && text.starts_with("700 entries"), "{name}: {text}");
    assert!((5_000..8_000).contains(&(scene.now - start)), "{}", scene.now - start);
    // It goes on behind what is verified.
    scene.command(1, Command::Request(Request { verb: Verb::AuditVerify, req_id: None }));
    let from = |effect: &Effect| match effect {
        Effect::Ask(ticket, Question::VerifyAudit(from)) => Some((*ticket, from.entries)),
        _ => None,
    };
    let [(ticket, 700)] = scene.take(from)[..] else { panic!("not from there") };
    // One at a time.
    scene.command(1, Command::Request(Request { verb: Verb::AuditVerify, req_id: None }));
    scene.input(Input::Answer(ticket, Some(slice(701, Some(9), true))));
    let told = scene.take(|effect| match effect {
        Effect::Result { frame: Some(frame), .. } => Some(frame.clone()),
        _ => None,
    });
    assert!(matches!(&told[0], Frame::Error(error) if error.code == "audit_verify_error"));
    let broken =
        Frame::AuditVerifyResult { valid: false, entries: 701, broken_at: Some(9), req_id: None };
    assert_eq!(told[1..], [broken]);
    // The next owner begins anew.
    scene.input(Input::CommitUnknown);
    scene.activate(Activation { epoch: 2, ..Activation::default() }, Vec::new());
    assert_eq!(scene.mesh.verified, Verified::default());
}
