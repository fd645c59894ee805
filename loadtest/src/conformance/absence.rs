//! That something has not come: shown by a marker that was sent behind it and has.

use serde_json::{Value, json};

use super::expect::{Fault, Verdict, brief, has};
use super::peer::Peer;

impl Peer<'_> {
    /// Fails if a frame that fits has come before what `from` sends now.
    pub(crate) async fn nothing_until_marker(
        &mut self,
        from: &mut Peer<'_>,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Verdict {
        self.nothing_until(from, "next", what, fits).await
    }

    /// The same with a marker of this priority: only among equals is there an order, but only what
    /// is urgent reaches who is busy.
    pub(crate) async fn nothing_until(
        &mut self,
        from: &mut Peer<'_>,
        priority: &str,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Verdict {
        let marker = self.bench.word("marker");
        let with = json!({ "priority": priority });
        let ack = from.send_with(&self.key(), &marker, with).await?;
        has(&ack, &json!({ "queued": true }))?;
        self.message(&marker).await?;
        self.has_not(what, fits)
    }

    /// Fails if a frame that fits has been read.
    pub(crate) fn has_not(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Verdict {
        match self.inbox.iter().find(|frame| fits(frame)) {
            Some(frame) => Err(Fault::Failed(format!("{what}: {}", brief(frame)))),
            None => Ok(()),
        }
    }
}
