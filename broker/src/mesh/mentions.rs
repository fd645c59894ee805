//! Whom a topic message names (protocol-features §2.7): its list, else its text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::client::Send;

/// Names looked for in a text.
const NAMES: usize = 16;
/// The longest name looked for.
const NAME_BYTES: usize = 64;
/// How a body is written that can be read here.
const PLAIN: i32 = 1;

/// Lower-case names, without the `@`.
pub(crate) fn mentions(send: &Send) -> Vec<String> {
    let listed = send.mentions.as_deref().unwrap_or_default();
    if !listed.is_empty() {
        let bare = |name: &String| name.trim_start_matches('@').to_lowercase();
        return listed.iter().map(bare).collect();
    }
    if send.body_version.unwrap_or(PLAIN) != PLAIN {
        return Vec::new();
    }
    let body = STANDARD.decode(&send.ciphertext).ok().and_then(|body| String::from_utf8(body).ok());
    body.map(|text| named(&text)).unwrap_or_default()
}

/// Each `@name` that stands between other characters than those of names.
fn named(text: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut names = Vec::new();
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        if c == '@' && !is_name(before) && names.len() < NAMES {
            let rest = &text[at + 1..];
            let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
            if (1..=NAME_BYTES).contains(&name.len()) {
                names.push(name.to_lowercase());
            }
        }
        before = c;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn names_stand_alone() {
        assert_eq!(named("hi @Ana, @ben-2: mail a@b.c @ @"), ["ana", "ben-2"]);
        assert_eq!(named(&"@x ".repeat(20)).len(), 16);
        assert_eq!(named(&format!("@{}", "y".repeat(65))), Vec::<String>::new());
    }
}
