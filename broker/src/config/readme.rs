//! The settings as README shows them. A test keeps the two equal.

use std::fmt::Write;

use super::table::{Default, Group, SETTINGS};

/// The table between README's markers.
pub fn markdown() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n**{}**\n\n", group.title());
        text.push_str("| Setting | Default | What it is |\n|---|---|---|\n");
        for setting in SETTINGS.iter().filter(|setting| setting.group == group) {
            let default = match setting.default {
                Default::Is(text) => format!("`{text}`"),
                Default::Unset => "–".into(),
                Default::Derived(text, _) => text.into(),
            };
            let what = setting.what.replace('|', "\\|");
            let _ = writeln!(text, "| `{}` | {default} | {what} |", setting.name);
        }
    }
    text
}
