//! `afnetd`, the daemon: see [`afnet_control::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    afnet_control::daemon::run::main()
}
