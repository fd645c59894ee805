//! What a person types: `claudemesh-broker [COMMAND] [--SETTING VALUE]…`.
//!
//! Guarantees: stdout carries the answer and nothing else, whole or not at all; errors go to stderr
//! with exit code 1, wrong usage with 2. Left to others: the rules (`store` decides what a mesh may
//! be called), and running a node (`app`).

mod args;
mod audit;
mod connect;
mod health;
mod invite;
mod keys;
mod local;
mod mesh;
mod settings;
mod status;

use std::fmt;
use std::io::Write;

use clap::ArgMatches;

use crate::app;
use crate::config::{Mistakes, Purpose, Reading};
use crate::store::StoreError;
use crate::store::open;

pub use args::{command, flags};

/// Why a command did not do as asked, for people.
#[derive(Debug)]
pub struct Failure {
    /// Printed to stdout all the same: what could be found out.
    answer: String,
    reason: String,
}

impl Failure {
    /// With a sentence.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { answer: String::new(), reason: reason.into() }
    }

    /// With an answer besides.
    fn with_answer(reason: impl Into<String>, answer: String) -> Self {
        Self { answer, reason: reason.into() }
    }

    /// Says so on stderr.
    pub fn tell(&self) {
        // If neither stream can be written, the exit code is all there is.
        drop(std::io::stdout().write_all(self.answer.as_bytes()));
        drop(writeln!(std::io::stderr(), "error: {self}"));
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::new(mistakes.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.to_string())
    }
}

/// Does what was typed and answers what is to be printed on stdout.
pub async fn run(matches: &ArgMatches, reading: &Reading) -> Result<String, Failure> {
    match matches.subcommand() {
        None | Some(("serve", _)) => {
            let config = reading.config(Purpose::Serve)?;
            let ended = app::serve(config).await;
            ended.map(|()| String::new()).map_err(|error| Failure::new(error.to_string()))
        }
        Some(("migrate", _)) => {
            let config = reading.config(Purpose::Tools)?;
            open::wait_for_store(&config).await?.migrate().await?;
            Ok(format!("The tables are up to date: {}\n", open::describe(&config)))
        }
        Some(("mesh", matches)) => mesh::run(matches, &reading.config(Purpose::Tools)?).await,
        Some(("audit", matches)) => audit::run(matches, &reading.config(Purpose::Tools)?).await,
        Some(("status", matches)) => status::run(matches, &reading.config(Purpose::Tools)?).await,
        Some(("health", _)) => health::run(&reading.config(Purpose::Tools)?).await,
        Some(("check-config", matches)) if matches.get_flag("connect") => {
            connect::run(&reading.config(Purpose::Serve)?).await
        }
        Some(("check-config", _)) => settings::check(reading),
        Some(("print-config", _)) => settings::print(reading),
        Some(("completions", matches)) => completions(matches),
        Some(("print-readme-table", _)) => Ok(crate::config::markdown()),
        // clap has refused every other name.
        Some((name, _)) => Err(Failure::new(format!("{name} is no command"))),
    }
}

fn completions(matches: &ArgMatches) -> Result<String, Failure> {
    let mut script = Vec::new();
    let shell = argument::<clap_complete::Shell>(matches, "shell")?;
    clap_complete::generate(shell, &mut command(), "claudemesh-broker", &mut script);
    String::from_utf8(script).map_err(|error| Failure::new(error.to_string()))
}

/// What to log: a node all that `LOG_LEVEL` says; a tool, whose answer is its output, only warnings
/// unless somebody asked for more.
pub fn log_filter<'a>(matches: &ArgMatches, reading: &'a Reading) -> &'a str {
    let serving = matches!(matches.subcommand_name(), None | Some("serve"));
    match reading.log_level() {
        (level, asked) if asked || serving => level,
        _ => "warn",
    }
}

/// Writes an answer to stdout. A reader that has gone, as `head` does, is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

/// An argument that clap has made sure of.
fn argument<T: Clone + Send + Sync + 'static>(
    matches: &ArgMatches,
    name: &str,
) -> Result<T, Failure> {
    matches.get_one::<T>(name).cloned().ok_or_else(|| Failure::new(format!("{name} is missing")))
}
