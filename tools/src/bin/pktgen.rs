//! `tools/pktgen`: a traffic generator and sink, see [`afnet_tools::pktgen`].

use std::process::ExitCode;

use afnet_tools::pktgen::{cli::Cli, commands};
use clap::Parser as _;

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(output) => {
            print!("{output}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pktgen: {error}");
            ExitCode::FAILURE
        }
    }
}
