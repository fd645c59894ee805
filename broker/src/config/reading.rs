//! One reading of flags, environment and defaults: every value with its source, every mistake.

use std::collections::BTreeMap;

use super::mistake::{Mistake, Mistakes};
use super::table::{Default, SETTINGS, Setting};
use super::{Config, checks, typos};

/// What the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Running a node.
    Serve,
    /// Working on the store beside one.
    Tools,
}

/// Where a value comes from, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// Neither.
    Default,
}

impl Source {
    /// As `print-config` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::Default => "default",
        }
    }
}

/// A setting as it is in effect.
pub struct Value {
    /// Which.
    pub setting: &'static Setting,
    /// Its text, unmasked; empty if it is not set.
    text: String,
    /// Where it comes from.
    pub source: Source,
}

impl Value {
    /// The text as it may be shown.
    pub fn shown(&self) -> String {
        self.setting.secrecy.masked(&self.text)
    }

    /// The mistake in it: what was given, and what is expected.
    fn mistake(&self, expected: &str) -> Mistake {
        let given = match self.source {
            Source::Flag => format!("--{} {}", self.setting.flag(), self.shown()),
            _ => format!("{}={}", self.setting.name, self.shown()),
        };
        let example = match self.setting.default {
            Default::Is(text) => format!("; e.g. {text}"),
            Default::Unset | Default::Derived(..) => String::new(),
        };
        Mistake::new(format!("{given}: {expected} is expected{example}"))
    }
}

/// Everything that was found.
pub struct Reading {
    values: Vec<Value>,
    mistakes: Vec<Mistake>,
    draft: Config,
}

impl Reading {
    /// Reads everything; fails at nothing. `flags` are (setting, text).
    pub fn of(
        env: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let env: BTreeMap<String, String> = env.into_iter().collect();
        let flags: BTreeMap<String, String> = flags.into_iter().collect();
        let mut mistakes: Vec<Mistake> = env.keys().filter_map(|name| typos::check(name)).collect();
        let mut values: Vec<Value> = Vec::with_capacity(SETTINGS.len());
        let mut draft = Config::blank();
        for setting in SETTINGS {
            let value = find(setting, &flags, &env, &values);
            if !value.text.is_empty()
                && let Err(expected) = (setting.set)(&mut draft, &value.text)
            {
                mistakes.push(value.mistake(&expected));
                // The default stands in, so that checks of pairs speak only of what was read.
                if let Default::Is(text) = setting.default {
                    let _ = (setting.set)(&mut draft, text);
                }
            }
            values.push(value);
        }
        Self { values, mistakes, draft }
    }

    /// Every setting, in the order of the table.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The configuration, or every mistake in it.
    pub fn config(&self, purpose: Purpose) -> Result<Config, Mistakes> {
        let mut mistakes = self.mistakes.clone();
        mistakes.extend(checks::contradictions(&self.draft, purpose));
        if mistakes.is_empty() { Ok(self.draft.clone()) } else { Err(Mistakes(mistakes)) }
    }

    /// The log filter, even of a configuration with mistakes; and whether somebody asked for it.
    pub fn log_level(&self) -> (&str, bool) {
        let asked = self.values.iter().find(|value| value.setting.name == "LOG_LEVEL");
        (&self.draft.log_level, asked.is_some_and(|value| value.source != Source::Default))
    }

    /// The configuration whether it makes sense or not.
    pub(super) fn into_draft(self) -> Config {
        self.draft
    }
}

/// The strongest source that says something. An empty flag asks for the default, whatever the
/// environment says; an empty variable, as compose files produce them, says nothing.
fn find(
    setting: &'static Setting,
    flags: &BTreeMap<String, String>,
    env: &BTreeMap<String, String>,
    before: &[Value],
) -> Value {
    let flag = flags.get(setting.name);
    let given = match (flag, env.get(setting.name)) {
        (Some(text), _) => Some((text, Source::Flag)),
        (None, Some(text)) => Some((text, Source::Environment)),
        (None, None) => None,
    };
    // Trimmed: values read from files tend to end in a newline.
    let given = given.map(|(text, source)| (text.trim(), source));
    if let Some((text, source)) = given.filter(|(text, _)| !text.is_empty()) {
        return Value { setting, text: text.to_owned(), source };
    }
    let text = match setting.default {
        Default::Is(text) => text.to_owned(),
        Default::Unset => String::new(),
        Default::Derived(_, from) => from(&Known { before, env }),
    };
    Value { setting, text, source: Source::Default }
}

/// What a derived default may look at.
pub(super) struct Known<'a> {
    before: &'a [Value],
    env: &'a BTreeMap<String, String>,
}

impl Known<'_> {
    /// A setting that stands earlier in the table.
    pub(super) fn setting(&self, name: &str) -> &str {
        self.before.iter().find(|v| v.setting.name == name).map_or("", |v| v.text.as_str())
    }

    /// Any variable.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str)
    }
}
