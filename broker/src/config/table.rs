//! The settings: name, default, meaning, secrecy and parser, each in one place.
//!
//! A new setting is one entry here and one field of [`Config`]; the flag, the environment variable,
//! `print-config` and README follow.

mod accepted;
mod effective;

use super::Config;
use super::reading::Known;
use super::secret::{mask_all, mask_url};

/// Every setting, in the order README and `print-config` have.
pub static SETTINGS: &[Setting] = &{
    const HERE: usize = effective::SETTINGS.len();
    const ALL: usize = HERE + accepted::SETTINGS.len();
    let mut all = [effective::SETTINGS[0]; ALL];
    let mut i = 0;
    while i < ALL {
        all[i] = if i < HERE { effective::SETTINGS[i] } else { accepted::SETTINGS[i - HERE] };
        i += 1;
    }
    all
};

/// One setting.
#[derive(Clone, Copy)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What holds when nobody says anything.
    pub(super) default: Default,
    /// What it is, with its unit.
    pub what: &'static str,
    /// What of it may be shown.
    pub secrecy: Secrecy,
    /// Where it belongs.
    pub group: Group,
    /// Reads its text into the configuration; the error says what was expected.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Setting {
    /// The flag, without its dashes: `BROKER_PORT` is `--broker-port`.
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }

    /// The default as `--help` shows it, if there is one.
    pub fn shown_default(&self) -> Option<&'static str> {
        match self.default {
            Default::Is(text) | Default::Derived(text, _) => Some(text),
            Default::Unset => None,
        }
    }
}

/// See [`Setting::default`].
#[derive(Clone, Copy)]
pub(super) enum Default {
    /// This text, read as if it had been given.
    Is(&'static str),
    /// Nothing.
    Unset,
    /// Something the machine or an earlier setting says; described, then computed.
    Derived(&'static str, fn(&Known) -> String),
}

/// How much of a value may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// All, but for passwords in URLs, which can turn up anywhere.
    Open,
    /// A URL without its password; nothing if it is no URL.
    Url,
    /// Nothing.
    Hidden,
}

impl Secrecy {
    /// `text` as it may be shown.
    pub fn masked(self, text: &str) -> String {
        match self {
            Self::Open => mask_url(text).unwrap_or_else(|| text.to_owned()),
            Self::Url => mask_url(text).unwrap_or_else(|| mask_all(text)),
            Self::Hidden => mask_all(text),
        }
    }
}

/// What a setting is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Where data is kept.
    Store,
    /// Where clients connect.
    Listen,
    /// What a client may do.
    Limits,
    /// What becomes of sessions and messages.
    Behaviour,
    /// The node among others.
    Node,
    /// Known from the reference broker, and of no consequence here.
    Accepted,
}

impl Group {
    /// In the order of README.
    pub const ALL: [Self; 6] =
        [Self::Store, Self::Listen, Self::Limits, Self::Behaviour, Self::Node, Self::Accepted];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Store => "Where data is kept",
            Self::Listen => "Where clients connect",
            Self::Limits => "Limits",
            Self::Behaviour => "Sessions and messages",
            Self::Node => "The node",
            Self::Accepted => "Accepted, without effect here",
        }
    }
}
