//! A UDP echo server on afnet's fast path: `echo [--instance X] [--compartment NAME] [--port N] [--spin-us N]`.
//!
//! Without `--compartment` it serves the one it runs in (`afnet exec`); naming one needs privilege. Port 7 unless told
//! otherwise, 0 picks one. Prints `ready: COMPARTMENT port N` when it serves, and runs until a signal ends it: the
//! daemon notices the closed connection and takes everything back. While the daemon is away it echoes by the kernel.

use std::{env, process::ExitCode, str::FromStr, time::Duration};

use afnet_tenant::{AttachOptions, Endpoint, Kind};

/// Datagrams shown at once; their answers leave together.
const BATCH: usize = 64;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("echo: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = AttachOptions::default();
    let mut port = 7;
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--instance" => options.instance = Some(value()?),
            "--compartment" => options.compartment = Some(value()?),
            "--port" => port = number(&value()?)?,
            "--spin-us" => options.spin = Duration::from_micros(number(&value()?)?),
            _ => {
                return Err(
                    format!("unknown argument {name}: --instance, --compartment, --port, --spin-us").into()
                );
            }
        }
    }
    let mut endpoint = Endpoint::attach(&options)?;
    let port = endpoint.claim(port)?;
    println!("ready: {} port {port}", endpoint.compartment());
    loop {
        endpoint.wait(None)?;
        endpoint.recv_batch(BATCH, |sender, datagram| match datagram.kind() {
            // No room, or no way back: lost, as datagrams are.
            Kind::Datagram => drop(sender.reply(datagram)),
            // News about an earlier answer; nothing depends on it.
            Kind::Packet | Kind::Error => {}
        })?;
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number for this argument"))
}
