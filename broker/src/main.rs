//! The `claudemesh-broker` command.

use std::process::ExitCode;

use broker::cli::{self, Failure};
use broker::config::{self, Reading};
use broker::telemetry;

fn main() -> ExitCode {
    // Wrong usage ends here with 2, `--help` and `--version` with 0.
    let matches = cli::command().get_matches();
    let reading = Reading::of(config::process_env(), cli::flags(&matches));
    telemetry::log::init(cli::log_filter(&matches, &reading));

    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(cli::run(&matches, &reading)));

    match result.and_then(|text| cli::print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            ExitCode::FAILURE
        }
    }
}
