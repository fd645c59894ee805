//! Hiding what must not be shown, by default and not by care.

use std::fmt;
use std::sync::Arc;

/// What stands in for a secret.
const MASK: &str = "***";

/// A text that shows itself only when asked to. `Debug` and `Display` hide the password of a URL,
/// and all of anything that is no URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The text itself, for the library that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(&self.0).unwrap_or_else(|| MASK.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Nothing of `text`, unless it is empty.
pub(super) fn mask_all(text: &str) -> String {
    if text.is_empty() { String::new() } else { MASK.into() }
}

/// `text` without the password in its user part and without secret query parameters. Nothing if
/// it does not look like a URL: the caller knows whether that makes it harmless.
pub(super) fn mask_url(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    // The *last* @ ends the user part: passwords with an unescaped @, / or ? are common mistakes,
    // and the error about them must not print them. At worst a harmless query is hidden too.
    let (user, rest) =
        rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let mut masked = format!("{scheme}://");
    if let Some(user) = user {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        masked.push_str(name);
        if !password.is_empty() {
            masked.push(':');
            masked.push_str(MASK);
        }
        masked.push('@');
    }
    masked.push_str(&mask_query(rest));
    Some(masked)
}

fn mask_query(text: &str) -> String {
    let Some((path, query)) = text.split_once('?') else { return text.to_owned() };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if names_a_secret(name) => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

fn names_a_secret(parameter: &str) -> bool {
    let parameter = parameter.to_ascii_lowercase();
    ["pass", "secret", "token", "key"].iter().any(|word| parameter.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_a_url_can_hold_them() {
        for (text, shown) in [
            ("postgres://u:p@h/db", "postgres://u:***@h/db"),
            ("postgres://u:p@ss/w?rd@h/db", "postgres://u:***@h/db"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("redis://:p@h:6379", "redis://:***@h:6379"),
            ("postgres://h/db?password=p&x=1", "postgres://h/db?password=***&x=1"),
            ("wss://h/ws?apiKey=k", "wss://h/ws?apiKey=***"),
            ("ws://h:7900/ws", "ws://h:7900/ws"),
        ] {
            assert_eq!(mask_url(text).as_deref(), Some(shown));
        }
        assert_eq!(mask_url("host=db password=p"), None);
        assert_eq!(format!("{:?}", Secret::from("host=db password=p")), "***");
    }
}
