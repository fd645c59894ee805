//! Names in the environment that look like ours and are not.

use super::mistake::Mistake;
use super::table::SETTINGS;

/// Shorter names are too near to everything.
const SHORTEST: usize = 5;

/// Other people's names that happen to be one letter from one of ours: of web applications that
/// share an env file (`APP_URL`), and of Kubernetes manifests (`NODE_ID`).
const NOT_OURS: [&str; 2] = ["API_URL", "NODE_IP"];

/// A mistake if `name` is no setting but one typo (a letter more, less, other, or two swapped) or
/// only its case away from one: it would be ignored silently, and the default used.
pub(super) fn check(name: &str) -> Option<Mistake> {
    if name.len() < SHORTEST || NOT_OURS.contains(&name) {
        return None;
    }
    if SETTINGS.iter().any(|setting| setting.name == name) {
        return None;
    }
    let lower = name.to_lowercase();
    let meant = SETTINGS
        .iter()
        .filter(|setting| setting.name.len() >= SHORTEST)
        .map(|setting| (strsim::osa_distance(&setting.name.to_lowercase(), &lower), setting.name))
        .filter(|(distance, _)| *distance <= 1)
        .min()?;
    Some(Mistake::new(format!("{name}: no such setting; did you mean {}?", meant.1)))
}
