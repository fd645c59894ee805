//! What all checks share: the broker's address, the members, and how much each may still send.

use std::cell::{Cell, RefCell};

use futures_util::future::join_all;
use protocol::signature::Keypair;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::expect::{Fault, Verdict};
use super::peer::Peer;
use super::persona::Persona;
use super::socket::{Socket, farewell, open};
use super::web::{self, Address};
use crate::Error;
use crate::cli::Conformance;
use crate::clock::wall_ms;
use crate::mesh::{Member, Mesh};

/// Members a run needs: four kept aside for one check each, and enough to take turns.
const FEWEST_MEMBERS: usize = 12;
/// Sends a member may make at once, and then one a second: the broker's defaults, mirrored so that
/// only the check of the limit meets it. One is kept in hand.
const BURST: f64 = 9.0;
/// For all sockets of a check to be closed.
const BURIAL: Duration = Duration::from_secs(2);
/// Kept aside: never online but for the check that sends to somebody absent.
const ABSENT: usize = 1;
/// Kept aside: spends its whole allowance.
const SPENDER: usize = 2;
/// Kept aside: has no session but the one that writes to its own connection.
const DAEMON: usize = 3;

struct Allowance {
    left: f64,
    since: Instant,
}

/// See the module.
pub(crate) struct Bench {
    pub(crate) address: Address,
    pub(crate) mesh: Mesh,
    pub(crate) hook_token: Option<String>,
    keys: Vec<Keypair>,
    allowances: RefCell<Vec<Allowance>>,
    turn: Cell<usize>,
    last_stamp: Cell<i64>,
    numbers: Cell<u64>,
    run: String,
    dead: RefCell<Vec<Socket>>,
    silent: RefCell<Option<(Socket, Instant)>>,
}

impl Bench {
    /// Reads the mesh file and looks whether the broker is there.
    pub(crate) async fn new(args: &Conformance) -> Result<Self, Error> {
        let mesh = Mesh::read(&args.mesh)?;
        if mesh.members.len() < FEWEST_MEMBERS {
            return Err(Error::Options(
                "the mesh has too few members: make one with `mesh create demo --members 24`",
            ));
        }
        let keys = mesh.members.iter().map(|member| Keypair::from_secret_hex(&member.secret_key));
        let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|error| Error::MeshFile {
            path: args.mesh.display().to_string(),
            why: error.to_string(),
        })?;
        let address = Address::parse(&args.url)?;
        let full = || Allowance { left: BURST, since: Instant::now() };
        let mut run = [0; 4];
        getrandom::fill(&mut run).map_err(|_| Error::Options("no randomness"))?;
        let silent = open(&address, "/ws")
            .await
            .map_err(|why| Error::Connect { url: args.url.clone(), why })?;
        Ok(Self {
            allowances: RefCell::new(mesh.members.iter().map(|_| full()).collect()),
            address,
            mesh,
            keys,
            hook_token: args.hook_token.clone(),
            turn: Cell::new(DAEMON + 1),
            last_stamp: Cell::new(0),
            numbers: Cell::new(0),
            run: format!("{:08x}", u32::from_be_bytes(run)),
            dead: RefCell::default(),
            silent: RefCell::new(Some((silent, Instant::now()))),
        })
    }

    /// A socket that was opened at the start of the run and has said nothing since.
    pub(crate) fn silent(&self) -> Verdict<(Socket, Instant)> {
        self.silent.take().ok_or_else(|| Fault::skipped("the silent socket is used up"))
    }

    /// A word that nobody has used before.
    pub(crate) fn word(&self, of: &str) -> String {
        self.numbers.set(self.numbers.get() + 1);
        format!("{of}-{}-{}", self.run, self.numbers.get())
    }

    /// Now, but never twice the same: two hellos of one millisecond would have one signature.
    pub(crate) fn stamp(&self) -> i64 {
        let stamp = wall_ms().max(self.last_stamp.get() + 1);
        self.last_stamp.set(stamp);
        stamp
    }

    // --- who speaks ------------------------------------------------------------------------

    /// The mesh's first member: its admin and owner.
    pub(crate) fn admin(&self) -> Persona {
        self.persona(0, 0)
    }

    /// The member that spends its whole allowance.
    pub(crate) fn spender(&self, slot: u8) -> Persona {
        self.persona(SPENDER, slot)
    }

    /// A member that no other check connects.
    pub(crate) fn absent(&self) -> Persona {
        self.persona(ABSENT, 0)
    }

    /// A member that has no other session.
    pub(crate) fn daemon(&self) -> Persona {
        self.persona(DAEMON, 0)
    }

    /// The next member, in a session that other checks have had, too: a mesh has room for a
    /// hundred only.
    pub(crate) fn anyone(&self) -> Persona {
        let turn = self.turn.get();
        let next = turn + 1;
        self.turn.set(if next == self.mesh.members.len() { DAEMON + 1 } else { next });
        self.persona(turn, 0)
    }

    /// The next member in a session that has never been there.
    pub(crate) fn stranger(&self) -> Persona {
        self.fresh(&self.anyone())
    }

    /// Another session of the same member, that other checks have had, too.
    pub(crate) fn sibling(&self, of: &Persona) -> Persona {
        self.persona(self.index(of), 1)
    }

    /// A session of the same member that has never been there.
    pub(crate) fn fresh(&self, of: &Persona) -> Persona {
        self.grown(self.index(of), &self.word("fresh"))
    }

    fn index(&self, of: &Persona) -> usize {
        let same = |member: &Member| member.pubkey == of.member.pubkey;
        self.mesh.members.iter().position(same).unwrap_or_default()
    }

    fn persona(&self, index: usize, slot: u8) -> Persona {
        self.grown(index, &format!("slot {slot}"))
    }

    fn grown(&self, index: usize, from: &str) -> Persona {
        let parent = &self.keys[index];
        let mut seed = [0; 32];
        let signed = parent.sign(&format!("conformance {from}"));
        for (byte, pair) in seed.iter_mut().zip(signed.as_bytes().chunks(2)) {
            *byte = pair.iter().fold(0_u8, |all, digit| all.wrapping_mul(31).wrapping_add(*digit));
        }
        let member = &self.mesh.members[index];
        Persona::new(&self.mesh.id, member, parent.clone(), &seed)
    }

    /// Two sessions of two members, there.
    pub(crate) async fn pair(&self) -> Verdict<(Peer<'_>, Peer<'_>)> {
        Ok((Peer::session(self, self.anyone()).await?, Peer::session(self, self.anyone()).await?))
    }

    // --- what it costs ---------------------------------------------------------------------

    /// Waits until the member may send once more.
    pub(crate) async fn afford(&self, who: &Persona) {
        let index = self.index(who);
        let wait =
            self.allowances.borrow_mut().get_mut(index).map_or(0.0, |all| all.take(Instant::now()));
        if wait > 0.0 {
            sleep(Duration::from_secs_f64(wait)).await;
        }
    }

    // --- how it ends -----------------------------------------------------------------------

    /// Takes a socket that nobody needs any more.
    pub(crate) fn retire(&self, socket: Socket) {
        self.dead.borrow_mut().push(socket);
    }

    /// Closes the sockets of the last check, so that the next finds their sessions in grace.
    pub(crate) async fn bury(&self) {
        let dead = self.dead.take();
        let _ = timeout(BURIAL, join_all(dead.into_iter().map(farewell))).await;
    }

    /// Lets the sessions of the run leave, so that another run finds room.
    pub(crate) async fn leave(&self) {
        if let Ok(mut admin) = Peer::member(self, self.admin()).await {
            let all = serde_json::json!({ "type": "disconnect", "all": true });
            let _ = admin.ask(all).await;
        }
        self.bury().await;
    }

    /// An HTTP request to the broker.
    pub(crate) async fn http(&self, request: web::Request<'_>) -> Verdict<web::Response> {
        web::fetch(&self.address, request).await.map_err(Fault::Failed)
    }
}

impl Allowance {
    /// Takes one, and says how many seconds that must wait.
    fn take(&mut self, now: Instant) -> f64 {
        let earned = now.saturating_duration_since(self.since).as_secs_f64();
        self.left = (self.left + earned).min(BURST) - 1.0;
        self.since = now;
        (-self.left).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_a_burst_and_then_one_a_second() {
        let start = Instant::now();
        let mut allowance = Allowance { left: BURST, since: start };
        assert!((0..9).all(|_| allowance.take(start) <= 0.0));
        assert!((allowance.take(start) - 1.0).abs() < 1e-9);
        assert!(allowance.take(start + Duration::from_secs(3)) <= 0.0);
    }
}
