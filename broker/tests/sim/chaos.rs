//! What goes wrong around the rules, from time to time.

mod nodes;

use broker::model::Recipient;
use serde_json::json;

use crate::client::Kind;
use crate::faults::Fault;
use crate::world::{Event, Mode, Up, World};

/// The owner's session: somebody must be there in the end to let others in again.
const ALWAYS_BACK: usize = 2;

impl World {
    pub(crate) fn chaos(&mut self) {
        if !self.chaos {
            return;
        }
        let pause = self.rng.between(300, 2_500);
        self.at(pause, Event::Chaos);
        if self.mode != Mode::Alone && self.rng.one_in(6) {
            return self.trouble_nodes();
        }
        match self.rng.between(0, 23) {
            0 => {
                if let Some(process) = self.pick_node() {
                    self.fire(Fault::CrashAnytime);
                    self.crash(process);
                }
            }
            1 => {
                self.fire(Fault::StoreDown);
                self.store_down_since = self.now;
                self.store_down_until = self.now + self.rng.between(100, 12_000);
                self.check.trouble(self.now, self.store_down_until);
            }
            2 => {
                self.fire(Fault::StoreSlow);
                let until = self.now + self.rng.between(500, 8_000);
                self.slow_store(until);
                self.check.trouble(self.now, until);
            }
            3 if self.rng.one_in(2) => {
                if self.mode == Mode::Alone
                    && self.processes.len() == 1
                    && let Some(process) = self.pick_node()
                {
                    self.freeze_and_replace(process);
                }
            }
            9 => self.unstall(),
            18..=23 => self.interfere(),
            what => self.disturb(what),
        }
    }

    /// Something happens to one client.
    fn disturb(&mut self, what: u64) {
        let index = self.rng.between(0, self.clients.len() as u64 - 1) as usize;
        let lasts = self.clients[index].attached && self.clients[index].kind != Kind::OneShot;
        let attached = self.clients[index].socket.filter(|_| lasts);
        match (what, attached) {
            (15, _) => self.set_clock(index),
            (16, _) if self.rng.one_in(3) => self.delay_clock(),
            (4..=6, Some(_)) => {
                self.fire(Fault::SocketCut);
                let back = self.rng.between(10, 4_000);
                self.hang_up(index, false, back);
            }
            (7, Some(_)) if self.rng.one_in(3) => {
                self.fire(Fault::SocketHalfOpen);
                let back = self.now + self.rng.between(500, 40_000);
                self.forget_socket(index, Some(back));
            }
            (8, Some(socket)) => {
                self.fire(Fault::PeerStalls);
                let now = self.now;
                if let Some(state) = self.sockets.get_mut(&socket) {
                    state.stalled = true;
                    state.stalled_at = Some(now);
                }
            }
            (10, Some(_)) => {
                self.fire(Fault::CleanClose);
                let back = self.rng.between(100, 20_000);
                self.hang_up(index, true, back);
            }
            (11 | 12, Some(socket)) => {
                self.fire(Fault::CloseBehindSends);
                (0..3).for_each(|_| self.compose(index, socket));
                self.hang_up(index, true, 2_000);
            }
            (13, Some(_)) if self.rng.one_in(2) => {
                self.fire(Fault::Departure);
                let back = self.rng.between(100_000, 240_000);
                let never = self.rng.one_in(4) && index != ALWAYS_BACK;
                self.hang_up(index, true, back);
                if never {
                    self.clients[index].back_at = None;
                }
            }
            (14, Some(_)) if self.rng.one_in(2) => {
                self.fire(Fault::LateReturn);
                let back = self.rng.between(50_000, 85_000);
                self.hang_up(index, true, back);
            }
            _ => {}
        }
    }

    /// Frames no honest client writes, and claims to have received what somebody else is owed.
    pub(crate) fn misbehave(&mut self, index: usize, socket: u64) {
        if self.rng.one_in(150) {
            self.fire(Fault::HostileFrame);
            let frame = self.rng.pick(&HOSTILE).replace("ID", &format!("h-{}", self.fresh()));
            // Whoever acks, however badly, is not one that never does.
            if frame.contains("client_ack") && !self.clients[index].acks() {
                return;
            }
            self.up(socket, Up::Text(frame));
        }
        if self.clients[index].acks() && self.rng.one_in(60) {
            self.ack_foreign(index, socket);
        }
        if self.rng.one_in(400) {
            self.fire(Fault::HelloAgain);
            let now = self.now;
            let hello = self.clients[index].hello(now);
            self.check.hears_nothing(self.clients[index].identity, now);
            // Until the second hello is answered, the connection belongs to nobody.
            if let Some(state) = self.sockets.get_mut(&socket) {
                state.lost_at.get_or_insert(now);
            }
            self.up(socket, Up::Text(hello));
        }
    }

    /// Claims to have received what somebody else is still owed.
    fn ack_foreign(&mut self, index: usize, socket: u64) {
        let client = &self.clients[index];
        let (own, member) = (client.address(), client.member_id());
        let mine = |text: &str| {
            text.ends_with(&own)
                || text.ends_with(&member)
                || client.presence.as_ref().is_some_and(|presence| text.ends_with(presence))
        };
        let waiting = &self.store.now.deliveries;
        let recipients = |wanted: u64| {
            let same = waiting.iter().filter(move |(_, seq)| *seq == wanted);
            same.map(|(queue, _)| &queue.recipient)
        };
        // What a sibling leaves behind may yet be its own.
        let theirs = |recipient: &Recipient| {
            let heir = self.check.heir(recipient);
            mine(&recipient.to_string()) || heir.is_some_and(|heir| mine(&heir.to_string()))
        };
        let owed = waiting.iter().find(|(_, seq)| !recipients(*seq).any(theirs));
        let Some(id) = owed.map(|(_, seq)| self.store.now.envelopes[seq].envelope.id.clone())
        else {
            return;
        };
        self.fire(Fault::ForeignAck);
        let ack = json!({"type": "client_ack", "brokerMessageId": id.as_str()});
        self.up(socket, Up::Text(ack.to_string()));
    }
}

const HOSTILE: [&str; 12] = [
    "not json",
    "[]",
    r#"{"type":"send","id":"ID"}"#,
    r#"{"type":"send","id":"ID","targetSpec":7,"nonce":"","ciphertext":""}"#,
    r#"{"type":"send","id":"ID","targetSpec":"","nonce":"","ciphertext":"body-x"}"#,
    r##"{"type":"send","id":"ID","targetSpec":"#nowhere","nonce":"","ciphertext":"body-x"}"##,
    r#"{"type":"send","id":"ID","targetSpec":"*","nonce":"","ciphertext":"\u0000"}"#,
    r#"{"type":"client_ack","brokerMessageId":"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"}"#,
    r#"{"type":"message_status","messageId":"00000001","_reqId":"ID"}"#,
    r#"{"type":"message_status","messageId":"?","_reqId":"ID"}"#,
    r#"{"type":"list_peers","_reqId":"ID","id":7}"#,
    r#"{"type":"no_such_verb","_reqId":"ID"}"#,
];
