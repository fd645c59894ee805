//! What clients do with what they are sent, and what chaos does to them.

use serde_json::{Value, json};

use crate::client::{Client, Kind, Outgoing, Target};
use crate::faults::Fault;
use crate::world::{Down, Event, Up, World};

/// Messages each client wants to send.
const QUOTA: u64 = 45;

impl World {
    pub(crate) fn client_wake(&mut self, index: usize) {
        let pause = self.rng.between(40, 400);
        self.at(pause, Event::ClientWake(index));
        let client = &self.clients[index];
        match client.socket {
            None if client.back_at.is_some_and(|at| at <= self.now) => self.greet(index),
            None => {}
            Some(_) if !client.attached => {
                if client.hello_at + 5_000 < self.now {
                    self.hang_up(index, 1_000);
                }
            }
            Some(socket) => self.live(index, socket),
        }
    }

    fn greet(&mut self, index: usize) {
        let Some(socket) = self.connect(index) else { return };
        let now = self.now;
        let client = &mut self.clients[index];
        client.socket = Some(socket);
        let hello = client.hello(now);
        self.up(socket, Up::Text(hello));
    }

    fn live(&mut self, index: usize, socket: u64) {
        if self.chaos && self.clients[index].sent < QUOTA && self.rng.one_in(3) {
            let many = if self.rng.one_in(40) {
                self.fire(Fault::Overload);
                20
            } else {
                self.rng.between(1, 5)
            };
            (0..many).for_each(|_| self.compose(index, socket));
        }
        let now = self.now;
        let again: Vec<String> = self.clients[index]
            .unacked
            .values()
            .filter(|m| m.key.is_some() && m.sent_at + 9_000 < now)
            .map(|m| m.body.clone())
            .collect();
        for body in again {
            self.fire(Fault::Retry);
            self.write(index, socket, &body);
        }
        if self.chaos && self.rng.one_in(150) {
            self.fire(Fault::HostileFrame);
            let frame = *self.rng.pick(&HOSTILE);
            self.up(socket, Up::Text(frame.to_owned()));
        }
        if self.chaos && self.clients[index].acks() && self.rng.one_in(60) {
            self.ack_foreign(index, socket);
        }
        if self.chaos && self.rng.one_in(400) {
            self.fire(Fault::HelloAgain);
            let now = self.now;
            let hello = self.clients[index].hello(now);
            // Until the second hello is answered, the connection belongs to nobody.
            if let Some(state) = self.sockets.get_mut(&socket) {
                state.lost_at.get_or_insert(now);
            }
            self.up(socket, Up::Text(hello));
        }
    }

    fn compose(&mut self, index: usize, socket: u64) {
        let number = self.clients[index].sent;
        self.clients[index].sent += 1;
        let kind = if self.rng.one_in(120) { "poison" } else { "body" };
        let body = format!("{kind}-{index}-{number}");
        let others: Vec<usize> = (0..self.clients.len()).filter(|i| *i != index).collect();
        let other = *self.rng.pick(&others);
        let own_member = self.clients[other].member == self.clients[index].member;
        let target = match self.rng.between(0, 9) {
            0 | 1 => Target::All,
            2 if !own_member => Target::Member(other),
            3 if self.rng.one_in(8) => Target::Nobody,
            _ if self.clients[other].kind == Kind::Session => Target::Session(other),
            _ if !own_member => Target::Member(other),
            _ => Target::All,
        };
        let key = (!self.rng.one_in(10)).then(|| format!("key-{index}-{number}"));
        let priority = *self.rng.pick(&["now", "next", "next", "low"]);
        let (tries, sockets) = (0, Vec::new());
        let message =
            Outgoing { key, body: body.clone(), target, priority, sent_at: 0, tries, sockets };
        self.clients[index].unacked.insert(body.clone(), message);
        self.write(index, socket, &body);
    }

    fn address(&self, target: &Target) -> String {
        match target {
            Target::Session(other) => self.clients[*other].session_keys.public_hex(),
            Target::Member(other) => self.clients[*other].member_keys.public_hex(),
            Target::All => "*".to_owned(),
            Target::Nobody => "ab".repeat(32),
        }
    }

    fn write(&mut self, index: usize, socket: u64, body: &str) {
        let now = self.now;
        let Some(message) = self.clients[index].unacked.get(body) else { return };
        let frame = Client::frame(message, &self.address(&message.target));
        let client = &mut self.clients[index];
        if let Some(message) = client.unacked.get_mut(body) {
            message.sent_at = now;
            message.tries += 1;
            message.sockets.push(socket);
        }
        client.written.entry(socket).or_default().push(body.to_owned());
        self.up(socket, Up::Text(frame));
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
            same.map(|(queue, _)| queue.recipient.to_string())
        };
        let owed = waiting.iter().find(|(_, seq)| !recipients(*seq).any(|text| mine(&text)));
        let Some(id) = owed.map(|(_, seq)| self.store.now.envelopes[seq].envelope.id.clone())
        else {
            return;
        };
        self.fire(Fault::ForeignAck);
        let ack = json!({"type": "client_ack", "brokerMessageId": id.as_str()});
        self.up(socket, Up::Text(ack.to_string()));
    }

    /// The client lets go of its socket, properly.
    pub(crate) fn hang_up(&mut self, index: usize, back_after: u64) {
        if let Some(socket) = self.clients[index].socket {
            self.up(socket, Up::Closed);
        }
        self.forget_socket(index, Some(self.now + back_after));
    }

    fn forget_socket(&mut self, index: usize, back_at: Option<u64>) {
        let now = self.now;
        let client = &mut self.clients[index];
        let mut gone_since = now;
        if let Some(socket) = client.socket.take()
            && let Some(state) = self.sockets.get_mut(&socket)
        {
            state.client_end = false;
            gone_since = state.lost_at.unwrap_or(now);
        }
        if std::mem::take(&mut client.attached) {
            client.gone_since = Some(gone_since);
        }
        client.back_at = back_at;
    }

    pub(crate) fn to_client(&mut self, socket: u64, down: Down) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        if !state.client_end {
            return;
        }
        if state.stalled {
            return state.unseen.push_back(down);
        }
        let index = state.client;
        match down {
            Down::Ping(nonce) => self.up(socket, Up::Pong(nonce)),
            Down::Closed => {
                let pause = self.rng.between(20, 2_500);
                self.forget_socket(index, Some(self.now + pause));
            }
            Down::Text(text) => {
                let frame: Value = serde_json::from_str(&text).expect("the broker writes JSON");
                self.understand(index, socket, &frame);
            }
        }
    }

    fn understand(&mut self, index: usize, socket: u64, frame: &Value) {
        let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
        let (now, client) = (self.now, &mut self.clients[index]);
        match frame["type"].as_str().unwrap_or_default() {
            "hello_ack" => {
                client.attached = true;
                client.gone_since = None;
                client.presence = Some(text("presenceId"));
                self.check.greeted(now, index, &text("presenceId"));
            }
            "ack" => self.read_ack(index, frame),
            "push" if frame["subtype"] == "system" => {
                let known = self.clients.iter().find(|c| {
                    c.address() == frame["eventData"]["pubkey"].as_str().unwrap_or_default()
                });
                let subject = known.map(|c| (c.index, c.attached));
                self.check.event(now, (index, socket), subject, frame);
            }
            "push" => self.read_push(index, socket, frame),
            _ => {}
        }
    }

    fn read_ack(&mut self, index: usize, frame: &Value) {
        let id = frame["id"].as_str().unwrap_or_default();
        let client = &mut self.clients[index];
        let found = client.unacked.values().find(|m| m.key.as_deref() == Some(id) || m.body == id);
        let Some(body) = found.map(|m| m.body.clone()) else {
            let key = |m: &Outgoing| m.key.as_deref() == Some(id) || m.body == id;
            let known = client.acked.values().find(|(_, m)| key(m));
            if let Some((first, _)) = known
                && frame["queued"] == true
            {
                let again = frame["messageId"].as_str().unwrap_or_default();
                self.check.same_ack(id, first, again);
            }
            return;
        };
        if frame["queued"] == true {
            let Some(message) = client.unacked.remove(&body) else { return };
            let message_id = frame["messageId"].as_str().unwrap_or_default().to_owned();
            client.acked.insert(body, (message_id, message));
        } else {
            let error = frame["error"].as_str().unwrap_or_default();
            let message = &client.unacked[&body];
            let permanent = error.contains("invalid") || message.target == Target::Nobody;
            if permanent || message.key.is_none() {
                client.unacked.remove(&body);
            }
        }
    }

    fn read_push(&mut self, index: usize, socket: u64, frame: &Value) {
        let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
        let (id, body) = (text("messageId"), text("ciphertext"));
        let now = self.now;
        self.check.pushed(&body, &id);
        let client = &mut self.clients[index];
        if client.seen.insert(id.clone()) {
            client.received.push((now, body, id.clone()));
        }
        if !client.acks() {
            return;
        }
        if self.chaos && self.rng.one_in(12) {
            return self.fire(Fault::AckWithheld);
        }
        let key = frame.get("client_message_id").and_then(Value::as_str).unwrap_or(&id);
        let ack = json!({"type": "client_ack", "clientMessageId": key, "brokerMessageId": id});
        self.up(socket, Up::Text(ack.to_string()));
        if self.chaos && self.rng.one_in(30) {
            self.fire(Fault::AckTwice);
            self.up(socket, Up::Text(ack.to_string()));
        }
    }

    pub(crate) fn chaos(&mut self) {
        if !self.chaos {
            return;
        }
        let pause = self.rng.between(300, 2_500);
        self.at(pause, Event::Chaos);
        let index = self.rng.between(0, self.clients.len() as u64 - 1) as usize;
        let attached = self.clients[index].socket.filter(|_| self.clients[index].attached);
        match (self.rng.between(0, 17), attached) {
            (0, _) => {
                if let Some(process) = self.current() {
                    self.fire(Fault::CrashAnytime);
                    self.kill(process);
                }
            }
            (1, _) => {
                self.fire(Fault::StoreDown);
                self.store_down_until = self.now + self.rng.between(100, 12_000);
                self.check.trouble(self.now, self.store_down_until);
            }
            (2, _) => {
                self.fire(Fault::StoreSlow);
                let until = self.now + self.rng.between(500, 8_000);
                self.slow_store(until);
                self.check.trouble(self.now, until);
            }
            (3, _) if self.rng.one_in(2) => {
                if let Some(process) = self.current().filter(|_| self.processes.len() == 1) {
                    self.freeze_and_replace(process);
                }
            }
            (4..=6, Some(_)) => {
                self.fire(Fault::SocketCut);
                let back = self.rng.between(10, 4_000);
                self.hang_up(index, back);
            }
            (7, Some(_)) if self.rng.one_in(3) => {
                self.fire(Fault::SocketHalfOpen);
                let back = self.now + self.rng.between(500, 40_000);
                self.forget_socket(index, Some(back));
            }
            (8, Some(socket)) => {
                self.fire(Fault::PeerStalls);
                if let Some(state) = self.sockets.get_mut(&socket) {
                    state.stalled = true;
                }
            }
            (9, _) => self.unstall(),
            (10, Some(_)) => {
                self.fire(Fault::CleanClose);
                let back = self.rng.between(100, 20_000);
                self.hang_up(index, back);
            }
            (11 | 12, Some(socket)) => {
                self.fire(Fault::CloseBehindSends);
                (0..3).for_each(|_| self.compose(index, socket));
                self.hang_up(index, 2_000);
            }
            (13, Some(_)) if self.rng.one_in(3) => {
                self.fire(Fault::Departure);
                let back = self.rng.between(100_000, 240_000);
                let never = self.rng.one_in(4);
                self.hang_up(index, back);
                if never {
                    self.clients[index].back_at = None;
                }
            }
            (14, Some(_)) if self.rng.one_in(2) => {
                self.fire(Fault::LateReturn);
                let back = self.rng.between(50_000, 85_000);
                self.hang_up(index, back);
            }
            _ => {}
        }
    }
}

const HOSTILE: [&str; 8] = [
    "not json",
    "[]",
    r#"{"type":"send","id":"x"}"#,
    r#"{"type":"send","id":"x","targetSpec":7,"nonce":"","ciphertext":""}"#,
    r#"{"type":"client_ack","brokerMessageId":"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"}"#,
    r#"{"type":"message_status","messageId":"00000001","_reqId":"q"}"#,
    r#"{"type":"list_peers","_reqId":"q"}"#,
    r#"{"type":"no_such_verb","_reqId":"q"}"#,
];
