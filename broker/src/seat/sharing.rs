//! Long answers that come over a link: askers of the same list have it once.

use std::sync::{Arc, Weak};

use protocol::server::Frame;

use crate::mesh::io::ToEdge;

/// Where what is one asker's alone begins. Inside a string its quotes would be escaped.
const OWN: &str = "],\"_reqId\":";

/// The last long answer, while anybody has it.
#[derive(Debug, Default)]
pub(super) struct LastAnswer(Option<Weak<str>>);

impl LastAnswer {
    /// Lets `item` share its text with the answer before, if that is the same but for the request's
    /// id.
    pub(super) fn share(&mut self, item: &mut ToEdge) {
        if !item.is_long_answer() {
            return;
        }
        let ToEdge::Result { frame: Some(Frame::Verbatim { text, tail, .. }), .. } = item else {
            return;
        };
        if !tail.is_empty() {
            return;
        }
        let (body, own) = text.split_at(text.rfind(OWN).unwrap_or(text.len()));
        let last = self.0.as_ref().and_then(Weak::upgrade).filter(|last| **last == *body);
        let shared = last.unwrap_or_else(|| Arc::from(body));
        own.clone_into(tail);
        self.0 = Some(Arc::downgrade(&shared));
        *text = shared;
    }

    /// Gives its memory back once nobody has it.
    pub(super) fn sweep(&mut self) {
        self.0.take_if(|last| last.strong_count() == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: &str, id: &str) -> ToEdge {
        let text = format!("{{\"type\":\"peers_list\",\"peers\":[{rows}],\"_reqId\":\"{id}\"}}");
        let frame = Frame::Verbatim { text: text.into(), tail: String::new(), acceptance: false };
        ToEdge::Result { number: 1, frame: Some(frame) }
    }

    fn parts(item: &ToEdge) -> (Arc<str>, String) {
        let ToEdge::Result { frame: Some(Frame::Verbatim { text, tail, .. }), .. } = item else {
            panic!("no answer");
        };
        (text.clone(), tail.clone())
    }

    #[test]
    fn askers_of_one_list_have_it_once() {
        let (rows, others) = ("1,".repeat(40_000), "2,".repeat(40_000));
        let mut last = LastAnswer::default();
        let mut items = [answer(&rows, "a"), answer(&rows, "],b"), answer(&others, "c")];
        let whole: Vec<_> = items.iter().map(|item| parts(item).0.to_string()).collect();
        for item in &mut items {
            last.share(item);
        }
        let [a, b, c] = items.map(|item| parts(&item));
        assert!(Arc::ptr_eq(&a.0, &b.0) && !Arc::ptr_eq(&a.0, &c.0));
        for ((text, tail), whole) in [&a, &b, &c].into_iter().zip(whole) {
            assert_eq!(format!("{text}{tail}"), whole);
        }
        last.sweep();
        assert!(last.0.is_some());
        drop((a, b, c));
        last.sweep();
        assert!(last.0.is_none());
    }
}
