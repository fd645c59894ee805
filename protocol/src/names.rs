//! Texts that are shown to people: names, groups, summaries, what a peer tells of itself.
//!
//! They reach terminals, logs and pages of others, where a control or escape character is a command,
//! a line break forges a line, and a bidirectional override shows a text in another order than it
//! is compared in. Such characters are replaced on the way in, so that nobody who shows a name
//! need think of it. What is matched with such a text (a group to leave, a target by name) goes
//! through the same function. Bodies, keys and ids do not: nobody shows them, and they are compared
//! byte by byte.

use std::ops::RangeInclusive;

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// What nobody sees and every comparison tells apart: all that Unicode 16 gives the general category
/// Cf (format) or the property `Default_Ignorable_Code_Point`, its separators of lines and paragraphs,
/// and the blank of Braille. `protocol/tests/names.rs` compares this table with Unicode's.
const INVISIBLE: [RangeInclusive<char>; 26] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Whether a character is replaced: controls (C0, DEL, C1; line breaks and tabs, too, for a summary
/// is a line), separators of lines, marks that change the direction of text, and whatever else is
/// invisible. Joiners (`U+200C`, `U+200D`) and the variation selectors `U+FE00` to `U+FE0F` stay:
/// emoji and several scripts are written with them.
pub fn is_unsafe(c: char) -> bool {
    // All that is printable in ASCII, which most names are.
    if matches!(c, ' '..='~') || matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}') {
        return false;
    }
    c.is_control() || INVISIBLE.iter().any(|range| range.contains(&c))
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
