//! How frames and close codes travel between nodes: a frame as the text its peer gets, so that the
//! edge passes on what it need not understand.

use protocol::Close;
use protocol::server::Frame;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
struct Text {
    text: String,
    acceptance: bool,
}

impl From<&Frame> for Text {
    fn from(frame: &Frame) -> Self {
        Self { text: frame.to_json(), acceptance: frame.is_acceptance() }
    }
}

impl From<Text> for Frame {
    fn from(Text { text, acceptance }: Text) -> Self {
        Self::Verbatim { text: text.into(), tail: String::new(), acceptance }
    }
}

pub(super) mod frame {
    use super::{Deserialize, Deserializer, Frame, Serialize, Serializer, Text};

    pub(in crate::mesh) fn serialize<S: Serializer>(
        frame: &Frame,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        Text::from(frame).serialize(to)
    }

    pub(in crate::mesh) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Frame, D::Error> {
        Text::deserialize(from).map(Frame::from)
    }
}

pub(super) mod reply {
    use super::{Deserialize, Deserializer, Frame, Serialize, Serializer, Text};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(in crate::mesh) fn serialize<S: Serializer>(
        frame: &Option<Frame>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        frame.as_ref().map(Text::from).serialize(to)
    }

    pub(in crate::mesh) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Frame>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(Frame::from))
    }
}

pub(super) mod event {
    use std::sync::Arc;

    use super::{Deserializer, Frame, Serializer};

    pub(in crate::mesh) fn serialize<S: Serializer>(
        frame: &Arc<Frame>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        super::frame::serialize(frame, to)
    }

    pub(in crate::mesh) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<Frame>, D::Error> {
        super::frame::deserialize(from).map(Arc::new)
    }
}

pub(super) mod close {
    use super::{Close, Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::mesh) fn serialize<S: Serializer>(
        close: &Close,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        (close.code, close.reason).serialize(to)
    }

    pub(in crate::mesh) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Close, D::Error> {
        let (code, reason) = <(u16, String)>::deserialize(from)?;
        Ok(Close::named(code, &reason))
    }
}
