//! Reading what both backends keep of people alike.

use serde_json::Value;

use crate::model::Totals;

/// Counts as a client once told them, whatever it made of them: no number, or one below 0, is 0.
pub(super) fn totals(stats: &Value) -> Totals {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a conversion that saturates; NaN is 0"
    )]
    let count = |name: &str| {
        let value = stats.get(name);
        let whole = value.and_then(Value::as_u64);
        whole.or_else(|| Some(value?.as_f64()? as u64)).unwrap_or(0)
    };
    Totals {
        messages_in: count("messagesIn"),
        messages_out: count("messagesOut"),
        tool_calls: count("toolCalls"),
        errors: count("errors"),
    }
}

/// Whether a topic may be called so by its id: 20 characters or more of `[A-Za-z0-9_-]`.
pub(super) fn is_topic_id(spec: &str) -> bool {
    spec.len() >= 20 && spec.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}
