//! `afnet`, the command line: see [`afnet_control::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    afnet_control::cli::main()
}
