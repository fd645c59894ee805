//! Texts that are shown to people: names, groups, summaries, what a peer tells of itself.
//!
//! They reach terminals, logs and pages of others, where a control or escape character is a command,
//! a line break forges a line, and a bidirectional override shows a text in another order than it
//! is compared in. Such characters are replaced on the way in, so that nobody who shows a name
//! need think of it. What is matched with such a text (a group to leave, a target by name) goes
//! through the same function. Bodies, keys and ids do not: nobody shows them, and they are compared
//! byte by byte.

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Whether a character is replaced: controls (C0, DEL, C1; line breaks and tabs, too, for a summary
/// is a line), separators of lines and paragraphs, marks that change the direction of text, and what
/// is seen by no reader but told apart by every comparison. Joiners and variation selectors stay:
/// emoji and several scripts are written with them.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Replaces every unsafe character by `U+FFFD`.
pub fn tidy(text: &mut String) {
    if text.contains(is_unsafe) {
        *text = text.replace(is_unsafe, "\u{fffd}");
    }
}

/// The text with every unsafe character replaced.
#[must_use]
pub fn tidied(text: &str) -> String {
    let mut text = text.to_owned();
    tidy(&mut text);
    text
}

/// The same for a group's name, which is also composed (NFC): two ways to write one name are one.
pub fn tidy_group(name: &mut String) {
    tidy(name);
    if !is_nfc(name) {
        *name = name.nfc().collect();
    }
}

/// The same for the target of a `send`: only `@group` names something that is shown.
pub fn tidy_target(target: &mut String) {
    if target.starts_with('@') {
        tidy_group(target);
    }
}
