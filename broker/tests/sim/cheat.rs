//! Members that cheat, and clocks that are wrong: claims of others' keys, hellos that somebody else has
//! said, a crowd of presences through one connection.

use crate::client::Kind;
use crate::faults::Fault;
use crate::peer::ONE_SHOTS;
use crate::store::OWNER_KEY;
use crate::world::{Up, World};

/// A captured hello is shown again only while its time would still be accepted.
const SHOWN_MS: u64 = 55_000;
/// How wrong a client's clock may be and its hellos still be accepted.
const CLOCK_MS: u64 = 50_000;
/// A node's clock is behind after a pause of its machine, until it has asked the store.
const BEHIND_MS: u64 = 80_000;

impl World {
    /// A command may be a cheat's.
    pub(crate) fn cheat(&mut self, index: usize) {
        if !self.chaos {
            return;
        }
        if self.rng.one_in(4) {
            let others: Vec<_> = self.clients.iter().filter(|c| c.index != index).collect();
            let victim = *self.rng.pick(&others);
            let key = match victim.kind {
                Kind::Session | Kind::OneShot if victim.attached => {
                    victim.session_keys.public_hex()
                }
                Kind::OneShot => OWNER_KEY.to_owned(),
                _ => victim.member_keys.public_hex(),
            };
            self.clients[index].claims = Some(key);
            self.fire(Fault::KeyClaimed);
        } else if self.rng.one_in(3) {
            self.clients[index].replays = true;
        }
    }

    /// What a client says as its hello: its own, or one that was accepted of somebody else.
    pub(crate) fn some_hello(&mut self, index: usize) -> String {
        let now = self.now;
        if self.clients[index].replays {
            let accepted = self.clients.iter().map(|client| &client.accepted_hello);
            let fresh = accepted.filter(|(at, text)| at + SHOWN_MS > now && !text.is_empty());
            let seen: Vec<_> = fresh.map(|(_, text)| text.clone()).collect();
            if !seen.is_empty() {
                self.fire(Fault::HelloReplayed);
                self.clients[index].hello_at = now;
                return self.rng.pick(&seen).clone();
            }
            self.clients[index].replays = false;
        }
        self.clients[index].hello(now)
    }

    /// The key of a command that runs now.
    pub(crate) fn claimed_key(&mut self) -> Option<String> {
        let running = |kind| kind == Kind::OneShot;
        let commands = self.clients.iter().filter(|c| running(c.kind) && c.attached);
        let keys: Vec<_> = commands
            .filter(|client| client.claims.is_none())
            .map(|client| client.session_keys.public_hex())
            .collect();
        if keys.is_empty() {
            return None;
        }
        self.fire(Fault::MailToClaim);
        Some(self.rng.pick(&keys).clone())
    }

    /// Says hello again on the same connection, as somebody new.
    pub(crate) fn become_another(&mut self, index: usize, socket: u64) {
        self.fire(Fault::HelloAsAnother);
        let former = self.clients[index].identity;
        let now = self.now;
        if std::mem::take(&mut self.clients[index].attached) {
            self.check.gone(former, now);
        }
        let identity = ONE_SHOTS + self.fresh();
        self.clients[index].renew(identity, &mut self.rng);
        self.clients[index].former = Some(former);
        self.check.introduce(&self.clients[index]);
        self.check.follows(identity, former);
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.identity = identity;
        }
        let hello = self.clients[index].hello(now);
        self.up(socket, Up::Text(hello));
    }

    /// A client's clock is set.
    pub(crate) fn set_clock(&mut self, index: usize) {
        self.fire(Fault::ClientClock);
        let ahead = self.rng.between(0, 2 * CLOCK_MS);
        self.clients[index].clock = ahead as i64 - CLOCK_MS as i64;
    }

    /// A node's clock stood still for a while; within a second it follows the store's again.
    pub(crate) fn delay_clock(&mut self) {
        let Some(process) = self.pick_node() else { return };
        self.fire(Fault::NodeClock);
        let behind = self.rng.between(1_000, BEHIND_MS) as i64;
        let until = self.now + 1_000;
        if let Some(process) = self.processes.get_mut(&process) {
            process.clock_behind = (behind, until);
        }
    }
}
