//! The command line `afnet`, in the manner of iproute2.
//!
//! | module | what |
//! |---|---|
//! | [`args`] | commands and options (clap), help texts |
//! | [`words`] | the keyword part: `192.0.2.10/24 dev eth0 vlan 5 afnetns NAME` |
//! | [`print`] | answers as text or JSON |
//! | [`wait`] | addresses of which it is not known yet whether other hosts have them |
//! | [`batch`] | many commands from a file over one connection |
//! | [`exec`], [`user`], [`shim`] | a program in a compartment, without what leads out, as some user, on the fast path |
//! | [`process`] | running processes: moved in, asked for, listed |
//!
//! Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 another host has the address, 4 not known in time whether
//! one has; `afnet exec` has that of the program, 126 if it cannot be
//! run and 127 if there is none.

pub mod args;
pub mod batch;
pub mod exec;
pub mod print;
pub mod process;
pub mod shim;
pub mod user;
pub mod wait;
pub mod words;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use afnet_abi::control::{Answer, Event, Policy, PolicyChange, Request};
use clap::{CommandFactory, Parser};

use self::args::{AddrCommand, Args, Command};
use self::wait::Awaited;
use self::words::{AddressWords, Words};
use crate::client::{Client, ClientError};
use crate::error::Refused;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Wrong words.
    #[error("{0}")]
    Usage(String),
    /// Not reached, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Not written or read.
    #[error("{0}")]
    Io(String),
    /// Something else that has an exit status of its own.
    #[error("{1}")]
    Exec(u8, String),
}

impl CliError {
    /// Status to exit with.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Exec(status, _) => *status,
            Self::Client(_) | Self::Io(_) => 1,
        }
    }
}

impl From<Refused> for CliError {
    fn from(refused: Refused) -> Self {
        Self::Io(refused.message)
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args = match Args::try_parse_from(args::long_options(std::env::args_os())) {
        Ok(args) => args,
        Err(e) => e.exit(),
    };
    let mut out = std::io::stdout().lock();
    let result = run(args, &mut out);
    let flushed = out.flush();
    match result.and(flushed.map_err(CliError::from)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough.
        Err(CliError::Io(text)) if text.contains("Broken pipe") => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("afnet: {e}");
            ExitCode::from(e.status())
        }
    }
}

fn run(args: Args, out: &mut impl Write) -> Result<(), CliError> {
    match (&args.batch, &args.command) {
        (Some(_), Some(_)) => Err(CliError::Usage("either a command or --batch".to_owned())),
        (Some(file), None) => batch::run(file, &args, out),
        (None, None) => {
            Args::command().print_help()?;
            Err(CliError::Usage("a command is missing".to_owned()))
        }
        (None, Some(Command::Completion { shell })) => {
            clap_complete::generate(*shell, &mut Args::command(), "afnet", out);
            Ok(())
        }
        (None, Some(Command::Man { directory })) => {
            std::fs::create_dir_all(directory)?;
            clap_mangen::generate_to(Args::command(), directory)?;
            clap_mangen::generate_to(crate::daemon::args::Args::command(), directory)?;
            Ok(())
        }
        (None, Some(Command::Exec { name, user, fast, command })) => {
            let shim = fast.then(shim::find).transpose()?;
            let mut client = Client::connect(&args.instance)?;
            let run = exec::Run { user: user.as_deref(), shim: shim.as_deref(), command };
            Err(exec::exec(&mut client, &args.instance, name, &run))
        }
        (None, Some(command)) if local(&args, command, out)? => Ok(()),
        (None, Some(command)) => {
            let mut awaited = Awaited::new(&args.instance);
            one(&mut Client::connect(&args.instance)?, &args, command, &mut awaited, out)?;
            awaited.finish()
        }
    }
}

/// Carries a command out that needs no daemon. `false`: it is none.
fn local(args: &Args, command: &Command, out: &mut impl Write) -> Result<bool, CliError> {
    match command {
        Command::Identify { pid } => process::identify(&args.instance, *pid, args.json, out)?,
        Command::Pids { name } => process::pids(&args.instance, name, args.json, out)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Carries out one command over a connection.
fn one(
    client: &mut Client,
    args: &Args,
    command: &Command,
    awaited: &mut Awaited<'_>,
    out: &mut impl Write,
) -> Result<(), CliError> {
    if let Command::Attach { name, pid } = command {
        return process::attach(client, name, *pid, args.json, out);
    }
    if local(args, command, out)? {
        return Ok(());
    }
    let request = request(args, command)?;
    let patience = patience(command)?;
    if !patience.is_zero() {
        awaited.prepare()?;
    }
    let answer = client.request(&request)?;
    match (&request, answer) {
        (Request::AddrAdd { .. } | Request::AddrMove { .. }, Answer::Addresses(given)) => {
            if !patience.is_zero() {
                given.iter().for_each(|address| awaited.add(address, patience));
            }
            Ok(())
        }
        (Request::Monitor {}, _) => {
            while let Some(event) = client.event()? {
                monitor(&event, args.json, out)?;
            }
            Err(CliError::Client(ClientError::Lost("afnetd has ended".to_owned())))
        }
        (Request::Show { name }, Answer::Compartments(found)) if !args.json => {
            print::compartments(&found, out)?;
            let family = args.family();
            let list = Request::AddrList { name: Some(name.clone()), dev: None, vlan: None, family };
            match client.request(&list)? {
                Answer::Addresses(addresses) => Ok(print::addresses(&addresses, "    ", out)?),
                _ => Ok(()),
            }
        }
        (_, answer) => Ok(print::answer(&answer, args.json, out)?),
    }
}

fn monitor(event: &Event, json: bool, out: &mut impl Write) -> Result<(), CliError> {
    print::event(event, json, out)?;
    // Whoever reads a pipe wants it now.
    Ok(out.flush()?)
}

/// How long to wait for an address to be usable.
fn patience(command: &Command) -> Result<Duration, CliError> {
    match command {
        Command::Addr { command: Some(AddrCommand::Add(words) | AddrCommand::Move(words)) } => {
            Ok(AddressWords::parse(words).map_err(CliError::Usage)?.wait())
        }
        _ => Ok(Duration::ZERO),
    }
}

/// The request that a command stands for.
fn request(args: &Args, command: &Command) -> Result<Request, CliError> {
    let usage = CliError::Usage;
    Ok(match command {
        Command::Add { name, policy } => {
            let policy = policy.change().apply(&Policy::default());
            if policy.burst > 0 && policy.rate_pps == 0 {
                return Err(usage("--burst wants a --rate".to_owned()));
            }
            Request::Add { name: name.clone(), policy }
        }
        Command::Set { name, policy } => {
            let policy = policy.change();
            if policy == PolicyChange::default() {
                return Err(usage(format!("what of {name} is to change? See `afnet set --help`")));
            }
            Request::Set { name: name.clone(), policy }
        }
        Command::Del { name, stop, grace, force } => {
            Request::Del { name: name.clone(), stop: stop.then_some(grace * 1000), force: *force }
        }
        Command::List => Request::List {},
        Command::Show { name: Some(name) } => Request::Show { name: name.clone() },
        Command::Show { name: None } => Request::List {},
        Command::Stats { name } => Request::Stats { name: name.clone() },
        Command::Endpoints { name } => Request::Endpoints { name: name.clone() },
        Command::Maddr => Request::Maddr {},
        Command::Status => Request::Status {},
        Command::Monitor => Request::Monitor {},
        Command::Addr { command } => match command.as_ref().unwrap_or(&AddrCommand::List(Words::default())) {
            AddrCommand::Add(words) => {
                let words = AddressWords::parse(words).map_err(usage)?;
                let (address, name) = words.to_add(args.family()).map_err(usage)?;
                Request::AddrAdd { address, name }
            }
            AddrCommand::Move(words) => {
                let words = AddressWords::parse(words).map_err(usage)?;
                let (address, name) = words.to_add(args.family()).map_err(usage)?;
                Request::AddrMove { address, name }
            }
            AddrCommand::Del(words) => {
                let words = AddressWords::parse(words).map_err(usage)?;
                let (address, name) = words.to_del(args.family()).map_err(usage)?;
                Request::AddrDel { address, name }
            }
            AddrCommand::List(words) => {
                AddressWords::parse(words).and_then(|w| w.to_list(args.family())).map_err(usage)?
            }
        },
        Command::Attach { .. }
        | Command::Identify { .. }
        | Command::Pids { .. }
        | Command::Exec { .. }
        | Command::Completion { .. }
        | Command::Man { .. } => {
            return Err(usage("not here: this command has no place in a batch".to_owned()));
        }
    })
}

#[cfg(test)]
mod tests;
