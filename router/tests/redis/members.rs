//! Members over a real Redis: what a cluster goes through.

use std::time::Duration;

use router::membership::{Members, Notice, State, View};
use tokio::time::Instant;

use super::server::Server;
use super::{Node, SOON, TIMING, key};

/// A node that knows the others.
struct Member {
    node: Node,
    members: Members,
    started: Instant,
    notices: Vec<Notice>,
}

impl Member {
    async fn new(server: &Server, name: &str) -> Self {
        let node = Node::new(&server.url(), name, 1).await;
        let members = Members::new(node.key().clone(), TIMING);
        Self { node, members, started: Instant::now(), notices: Vec::new() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    async fn beat(&mut self) {
        let asked = self.now();
        if let Ok(sighting) = self.node.redis.heartbeat(State::Serving, 1, true, b"").await {
            self.notices.extend(self.members.observed(asked, &sighting));
        }
    }

    fn is_fresh(&self) -> bool {
        self.members.is_fresh(self.now())
    }

    /// What it was told since it was last asked.
    fn told(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}

/// Heartbeats of all until a condition holds.
async fn beat_until(what: &str, all: &mut [Member], condition: impl Fn(&[Member]) -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition(all) {
        assert!(Instant::now() < deadline, "in vain: {what}");
        for member in &mut *all {
            member.beat().await;
        }
        tokio::time::sleep(Duration::from_millis(TIMING.heartbeat_ms)).await;
    }
}

fn all_fresh(members: &[Member]) -> bool {
    members.iter().all(Member::is_fresh)
}

#[tokio::test]
async fn a_new_cluster_settles_agrees_and_loses_only_the_dead() {
    let server = Server::new();
    let mut all = [Member::new(&server, "a").await, Member::new(&server, "b").await];
    beat_until("both know both", &mut all, all_fresh).await;
    let views = [all[0].members.view(), all[1].members.view()];
    let owners = |mesh: u32| [0, 1].map(|n| views[n].owner(&format!("mesh-{mesh}")).cloned());
    assert!((0..100).map(owners).all(|[one, other]| one == other && one.is_some()));

    for member in &mut all {
        member.told();
    }
    server.kill();
    beat_until("both are blind", &mut all, |all| !all.iter().any(Member::is_fresh)).await;
    server.start();
    beat_until("both see again", &mut all, all_fresh).await;
    // That its view can be relied upon again, at most; and it is the same.
    for (member, before) in all.iter_mut().zip(views) {
        assert!(member.told().iter().all(|notice| *notice == Notice::Changed), "nobody was lost");
        let others = |view: &View| view.others().cloned().collect::<Vec<_>>();
        assert_eq!(others(&member.members.view()), others(&before));
    }

    let [one, _] = &mut all;
    let alone = std::slice::from_mut(one);
    beat_until("b is lost", alone, |all| !all[0].notices.is_empty()).await;
    let told = alone[0].told();
    let [Notice::Lost { node, .. }, Notice::Changed] = &told[..] else { panic!("{told:?}") };
    assert_eq!(*node, key("b", 1));
}
