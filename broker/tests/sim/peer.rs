//! What clients do with what they are sent, and what chaos does to them.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::beside;
use crate::client::{Client, GROUPS, Kind, Outgoing, Target};
use crate::faults::Fault;
use crate::world::{Down, Event, Up, World};

/// Messages each client wants to send, unless the history needs more.
const QUOTA: u64 = 35;
/// A burst once in so many wakes: traffic goes on through all of the faults.
const PACE: u64 = 20;
/// Process ids of one-shot commands are above.
pub(crate) const ONE_SHOTS: u64 = 1_000_000;

impl World {
    pub(crate) fn client_wake(&mut self, index: usize) {
        let pause =
            if self.chaos { self.rng.between(40, 400) } else { self.rng.between(200, 1_500) };
        self.at(pause, Event::ClientWake(index));
        let client = &self.clients[index];
        match client.socket {
            // Nobody types commands any more.
            None if client.kind == Kind::OneShot && !self.chaos => {
                self.clients[index].back_at = None;
            }
            None if client.back_at.is_some_and(|at| at <= self.now) => self.greet(index),
            None => {}
            Some(_) if !client.attached && client.hello_at + 5_000 < self.now => {
                self.hang_up(index, true, 1_000);
            }
            Some(_) if !client.attached => {}
            Some(socket) => self.live(index, socket),
        }
    }

    pub(crate) fn greet(&mut self, index: usize) {
        if self.clients[index].kind == Kind::OneShot {
            self.fire(Fault::OneShot);
            let identity = ONE_SHOTS + self.fresh();
            self.clients[index].renew(identity, &mut self.rng);
            self.cheat(index);
            self.check.introduce(&self.clients[index]);
        }
        let Some(socket) = self.connect(index) else { return };
        self.tell_before(index);
        self.clients[index].socket = Some(socket);
        let hello = self.some_hello(index);
        self.up(socket, Up::Text(hello));
    }

    fn live(&mut self, index: usize, socket: u64) {
        let more = self.clients[index].sent < QUOTA || self.now > crate::CHAOS_MS;
        if self.chaos && more && self.rng.one_in(PACE) {
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
        if self.chaos {
            if self.rng.one_in(8) {
                self.ask(index, socket);
            }
            self.misbehave(index, socket);
        } else {
            self.calm_down(index, socket);
        }
    }

    pub(crate) fn compose(&mut self, index: usize, socket: u64) {
        let kind = if self.rng.one_in(120) { "poison" } else { "body" };
        let target = self.any_target(index);
        self.send(index, socket, kind, target);
    }

    /// When all is calm, everybody says something to everybody.
    pub(crate) fn speak_up(&mut self) -> Vec<(usize, u64, String)> {
        let here = self.clients.iter().filter(|c| c.attached && c.kind != Kind::OneShot);
        let here: Vec<_> = here.filter_map(|client| Some((client.index, client.socket?))).collect();
        let said = here
            .into_iter()
            .map(|(index, socket)| (index, socket, self.send(index, socket, "body", Target::All)));
        said.collect()
    }

    fn any_target(&mut self, index: usize) -> Target {
        let lasts = |i: &usize| *i != index && self.clients[*i].kind != Kind::OneShot;
        let others: Vec<usize> = (0..self.clients.len()).filter(lasts).collect();
        let other = *self.rng.pick(&others);
        let own_member = self.clients[other].member == self.clients[index].member;
        let group = *self.rng.pick(&GROUPS);
        let topic = *self.rng.pick(&beside::TOPIC_SPECS);
        match self.rng.between(0, 13) {
            13 => self.claimed_key().map_or(Target::All, Target::Claimed),
            0 | 1 => Target::All,
            2 if !own_member => Target::Member(other),
            3 if self.rng.one_in(8) => Target::Nobody,
            4 => Target::Group(group),
            5 | 6 => Target::Topic(topic),
            _ if self.clients[other].kind == Kind::Session => Target::Session(other),
            _ if !own_member => Target::Member(other),
            _ => Target::All,
        }
    }

    fn send(&mut self, index: usize, socket: u64, kind: &str, target: Target) -> String {
        let number = self.clients[index].sent;
        self.clients[index].sent += 1;
        let body = format!("{kind}-{index}-{number}");
        let key = (!self.rng.one_in(10)).then(|| format!("key-{index}-{number}"));
        let priority = *self.rng.pick(&["now", "next", "next", "low"]);
        let direct = matches!(target, Target::Session(_) | Target::Member(_));
        let message = Outgoing {
            key,
            body: body.clone(),
            target,
            priority,
            offline: direct && self.rng.one_in(3),
            sent_at: 0,
            sockets: Vec::new(),
        };
        let identity = self.clients[index].identity;
        self.check.composed(&body, identity);
        self.clients[index].unacked.insert(body.clone(), message);
        self.write(index, socket, &body);
        body
    }

    fn address(&self, target: &Target) -> String {
        match target {
            Target::Session(other) => self.clients[*other].session_keys.public_hex(),
            Target::Member(other) => self.clients[*other].member_keys.public_hex(),
            Target::All => "*".to_owned(),
            Target::Group(name) => format!("@{name}"),
            Target::Topic(spec) => format!("#{spec}"),
            Target::Claimed(key) => key.clone(),
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
            message.sockets.push(socket);
        }
        client.written.entry(socket).or_default().push(body.to_owned());
        self.up(socket, Up::Text(frame));
    }

    /// The client's end of the socket closes, with a word (`clean`) or without.
    pub(crate) fn hang_up(&mut self, index: usize, clean: bool, back_after: u64) {
        if let Some(socket) = self.clients[index].socket {
            if clean && self.clients[index].kind == Kind::OneShot {
                self.check.said_goodbye(self.clients[index].identity);
            }
            self.up(socket, Up::Closed { clean });
        }
        self.forget_socket(index, Some(self.now + back_after));
    }

    pub(crate) fn forget_socket(&mut self, index: usize, back_at: Option<u64>) {
        let now = self.now;
        let client = &mut self.clients[index];
        let (mut gone_since, mut deaf_since) = (now, now);
        if let Some(socket) = client.socket.take()
            && let Some(state) = self.sockets.get_mut(&socket)
        {
            state.client_end = false;
            gone_since = state.lost_at.unwrap_or(now);
            deaf_since = state.stalled_at.filter(|_| state.stalled).unwrap_or(now).min(gone_since);
        }
        client.back_at = back_at;
        let identity = client.identity;
        self.check.hears_nothing(identity, deaf_since);
        if std::mem::take(&mut client.attached) {
            self.check.gone(identity, gone_since);
        }
    }

    pub(crate) fn receive(&mut self, socket: u64, down: Down) {
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
                let once = self.clients[index].kind == Kind::OneShot;
                let pause = if once { (4_000, 25_000) } else { (20, 2_500) };
                let mut pause = self.rng.between(pause.0, pause.1);
                if std::mem::take(&mut self.clients[index].hurries) {
                    self.fire(Fault::KickedReturnsAtOnce);
                    pause = 1;
                }
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
            "hello_ack" if client.replays => self.check.replay_accepted(now, index),
            "hello_ack" => {
                client.attached = true;
                let hellos = self.sockets.get_mut(&socket).map(|state| &mut state.hellos);
                if let Some(accepted) = hellos.and_then(VecDeque::pop_front) {
                    client.accepted_hello = accepted;
                }
                client.greeted_at = now;
                let identity = client.identity;
                let written = self.sockets.get(&socket).and_then(|state| state.greeted_at);
                let written = written.unwrap_or(now);
                self.check.greeted(now, (identity, socket), written, &text("presenceId"));
                self.settle_in(index, socket, frame);
            }
            "kick_ack" | "disconnect_ack" | "ban_ack" | "unban_ack" => self.moderated(frame),
            "ack" => self.read_ack(index, frame),
            // It may answer what the connection asked as another presence.
            "peers_list" if !client.attached => {}
            "peers_list" => {
                let caller = client.session_id.clone();
                let hidden = client.hidden || self.check.is_hidden(client.identity);
                self.check.peers_list(now, (&caller, hidden), frame);
            }
            "error" if frame["code"] == "kicked" => self.fire(Fault::KeptOut),
            "error" if frame["code"] == "revoked" => self.fire(Fault::BannedReturns),
            "error" => self.check.refused(now, client.identity, frame, &self.store.now),
            "push" if frame["subtype"] == "system" => {
                let known = self.clients.iter().find(|c| {
                    c.address() == frame["eventData"]["pubkey"].as_str().unwrap_or_default()
                });
                let subject = known.map(|c| c.identity);
                let client = &self.clients[index];
                let (watcher, caught_up) = (client.identity, now - client.greeted_at < 50);
                if caught_up && client.hellos > 1 {
                    self.fire(Fault::ToldOnReturn);
                }
                self.check.event(now, (watcher, socket), subject, frame);
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
        if frame["held"] == true {
            *self.coverage.entry(Fault::Held).or_default() += 1;
        }
        if frame["queued"] == true {
            let Some(message) = client.unacked.remove(&body) else { return };
            let fault = match message.target {
                Target::Group(_) => Some(Fault::GroupSend),
                Target::Topic(_) => Some(Fault::TopicSend),
                _ => None,
            };
            if let Some(fault) = fault {
                *self.coverage.entry(fault).or_default() += 1;
            }
            let message_id = frame["messageId"].as_str().unwrap_or_default().to_owned();
            client.acked.insert(body, (message_id, message));
        } else {
            let error = frame["error"].as_str().unwrap_or_default();
            if error.starts_with("rate_limit") {
                *self.coverage.entry(Fault::RateLimited).or_default() += 1;
            }
            let message = &client.unacked[&body];
            if matches!(message.target, Target::Topic(_)) && error.contains("topic") {
                *self.coverage.entry(Fault::TopicRefused).or_default() += 1;
            }
            if error.starts_with("queue_full") {
                *self.coverage.entry(Fault::QueueFull).or_default() += 1;
            }
            let permanent = ["invalid", "blocked", "topic", "queue_full"]
                .iter()
                .any(|word| error.contains(word))
                || message.target == Target::Nobody
                || matches!(message.target, Target::Claimed(_))
                || (error.starts_with("no connected") && self.rng.one_in(2));
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
        self.check.received(&id, client.identity);
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
}
