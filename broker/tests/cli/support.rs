//! Runs the binary as a shell would, with only the environment a test names.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A directory to run in; gone when the test is.
pub(crate) struct Home(PathBuf);

/// What a run left behind.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("claudemesh-cli-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        self.run_with(&[], words)
    }

    pub(crate) fn run_with(&self, env: &[(&str, &str)], words: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_claudemesh-broker"))
            .args(words)
            .env_clear()
            .envs(env.iter().copied())
            .current_dir(&self.0)
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Ran {
    /// The answer of a run that went well and had nothing to complain about.
    pub(crate) fn answer(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self.stdout
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.answer()).unwrap()
    }

    /// The complaint of a run that did not, and had no answer.
    pub(crate) fn refusal(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        self.stderr
    }
}
