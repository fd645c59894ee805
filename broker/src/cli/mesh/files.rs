//! `mesh create --config-dir`: where each member's client configuration goes.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::cli::Failure;

/// The file's name, as clients know it.
const FILE: &str = "config.json";

/// Folders that are there, and files that are not there yet.
pub(super) struct Files {
    /// One for each member, in their order.
    pub(super) paths: Vec<PathBuf>,
}

impl Files {
    /// Makes the folders, for their owner alone.
    ///
    /// # Errors
    ///
    /// A folder cannot be made, or a member's file exists: it holds keys that are kept nowhere else.
    pub(super) fn prepare<'a>(
        folder: &Path,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Failure> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for name in names {
            let plain = folder_name(name);
            let mut path = folder.join(&plain).join(FILE);
            let mut number = 2;
            while paths.contains(&path) {
                path = folder.join(format!("{plain}-{number}")).join(FILE);
                number += 1;
            }
            if path.symlink_metadata().is_ok() {
                let path = path.display();
                return Err(Failure::new(format!(
                    "{path} exists, with keys that may be kept nowhere else; choose another folder"
                )));
            }
            paths.push(path);
        }
        for parent in paths.iter().filter_map(|path| path.parent()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.map_err(|error| failed(parent, &error))?;
        }
        Ok(Self { paths })
    }
}

/// Writes a file that only its owner can read, whole or not at all as far as anybody can see.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = written.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {error}", path.display()))
}

/// A name that is a plain folder everywhere: letters, digits, dashes, dots within.
fn folder_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
    let plain = plain.trim_matches(['.', '-']);
    if plain.is_empty() { "member".to_owned() } else { plain.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::folder_name;

    #[test]
    fn a_name_leads_nowhere_else() {
        for (name, folder) in [
            ("Ana", "Ana"),
            ("../../etc", "etc"),
            ("a/b c", "a-b-c"),
            ("..", "member"),
            ("Łukasz.2", "Łukasz.2"),
        ] {
            assert_eq!(folder_name(name), folder);
        }
    }
}
