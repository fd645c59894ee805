//! What moderators ask for, and what becomes of it when callers or owners change.

use super::*;

impl Scene {
    pub(super) fn kick(&mut self, number: u64, target: &str, done: Option<&str>) -> Vec<Write> {
        self.judge(number, target, done);
        self.commit()
    }

    /// The store has said that the caller may.
    pub(super) fn judge(&mut self, number: u64, target: &str, done: Option<&str>) {
        let selection = Selection { target: Some(target.to_owned()), ..Selection::default() };
        let request = Request { verb: Verb::Disconnect(selection), req_id: None };
        self.command(number, Command::Request(request));
        let [ticket] = self
            .take(|effect| match effect {
                Effect::Ask(ticket, Question::Moderation { .. }) => Some(*ticket),
                _ => None,
            })
            .try_into()
            .unwrap();
        let known = Moderation {
            caller: identity("ana").member,
            done: done.map(str::to_owned),
            matching: Vec::new(),
        };
        let answer = Answer::Moderation(Box::new(known));
        self.input(Input::Answer(ticket, Some(answer)));
    }
}

#[test]
fn what_a_leaving_peer_asks_is_answered_behind_its_departure() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    scene.judge(1, "ben", None);
    scene.results();
    let verb = Verb::SetVisible { visible: false };
    scene.command(2, Command::Request(Request { verb, req_id: Some("id".into()) }));
    assert!(scene.results().is_empty());
    scene.commit();
    assert_eq!(scene.results().len(), 2);
}

#[test]
fn an_unban_is_in_the_audit_though_its_caller_has_gone_meanwhile() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    let verb = Verb::Unban { target: Some("ben".to_owned()) };
    scene.command(1, Command::Request(Request { verb, req_id: None }));
    scene.input(Input::Lost(conn(1)));
    let tickets = scene.take(|effect| match effect {
        Effect::Ask(ticket, Question::Moderation { .. }) => Some(*ticket),
        _ => None,
    });
    let matching = identity("ben").member.into_iter().collect();
    let known = Moderation { caller: identity("ana").member, done: None, matching };
    let answer = Answer::Moderation(Box::new(known));
    scene.input(Input::Answer(tickets[0], Some(answer)));
    let unbans = scene
        .commit()
        .into_iter()
        .filter(|write| matches!(write, Write::Audit(row) if row.event == "member_unbanned"));
    assert_eq!(unbans.count(), 1);
}

#[test]
fn a_command_that_was_done_is_answered_and_not_done_again() {
    let mut scene = Scene::new();
    scene.greet(1, "ana");
    scene.greet(2, "ben");
    let writes = scene.kick(1, "ben", None);
    let done = writes.iter().find_map(|write| match write {
        Write::Done { reply, .. } => Some(reply.clone()),
        _ => None,
    });
    scene.greet(2, "ben");
    scene.take(|effect| matches!(effect, Effect::Result { .. }).then_some(()));
    assert_eq!(scene.kick(1, "ben", done.as_deref()), []);
    let answers = scene.take(|effect| match effect {
        Effect::Result { frame: Some(Frame::DisconnectAck(ended)), .. } => {
            Some(ended.kicked.clone())
        }
        _ => None,
    });
    assert_eq!(answers, [["ben"]]);
    assert_eq!(scene.mesh.leases(), 2);
}
