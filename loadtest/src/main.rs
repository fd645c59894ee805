//! Load generator and probes for any broker that speaks the claudemesh protocol: a black box seen
//! over WebSocket, and over `/proc` where its process id is given. See README.md.
//!
//! It shares its machine with the broker it measures, so it is frugal: one thread, one task a
//! peer, many frames a flush, no lock on the way of a message.

mod attack;
mod chaos;
mod cli;
mod clock;
mod conformance;
mod identity;
mod idle;
mod mesh;
mod outgoing;
mod peer;
mod pipe;
mod plan;
mod process;
mod report;
mod signer;
mod stats;
mod tally;
mod traffic;
mod wire;

#[cfg(test)]
mod fake;

use std::process::ExitCode;

use clap::Parser;

/// Exit code of a run that could not be done at all; 1 is a run that found fault.
const NOT_RUN: u8 = 2;

/// What keeps a run from being done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{path}: {why}")]
    MeshFile { path: String, why: String },
    #[error("{0}")]
    Options(&'static str),
    #[error("connecting to {url}: {why}")]
    Connect { url: String, why: String },
    #[error("hello refused: {0}")]
    Hello(String),
    #[error("a peer has ended before the start: {0}")]
    Peer(String),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("process {pid}: {why}")]
    Process { pid: u32, why: String },
    #[error("{path}: {why}")]
    Log { path: String, why: String },
    #[error("the cluster: {0}")]
    Cluster(String),
    #[error("runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

fn main() -> ExitCode {
    match run(cli::Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::from(NOT_RUN)
        }
    }
}

/// Whether the broker passed.
fn run(cli: cli::Cli) -> Result<bool, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.command {
        cli::Command::Burst { messages, traffic } => {
            let load = plan::Load::Burst { messages };
            runtime.block_on(traffic::run(&traffic, load)).map(|report| report.print(traffic.json))
        }
        cli::Command::Pace { rate, seconds, traffic } => {
            let load = plan::Load::Steady { rate, seconds };
            runtime.block_on(traffic::run(&traffic, load)).map(|report| report.print(traffic.json))
        }
        cli::Command::Idle(idle) => {
            runtime.block_on(idle::run(&idle)).map(|report| report.print(idle.json))
        }
        cli::Command::Chaos(chaos) => {
            runtime.block_on(chaos::run(&chaos)).map(|report| report.print(chaos.json))
        }
        cli::Command::ChaosCheck { file, json } => {
            chaos::check_file(&file).map(|report| report.print(json))
        }
        cli::Command::Attack(options) => runtime.block_on(attack::run(&options)).map(|()| true),
        cli::Command::Signer(signer) => runtime.block_on(signer::run(&signer)).map(|()| true),
        cli::Command::Conformance(suite) => {
            runtime.block_on(conformance::run(&suite)).map(|report| report.print(suite.json))
        }
    }
}
