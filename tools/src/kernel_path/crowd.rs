//! Other compartments that hold the very ports of the one that is measured: what a lookup costs as they get more.
//!
//! The holder is a child process (`bench hold`) that moves itself from cgroup to cgroup and makes its sockets there: a
//! socket belongs to the compartment that it was made in.

use std::{
    env, fs, io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
};

use afnet_abi::control::{Answer, Policy, Request};
use afnet_tests::afnetd::{Afnetd, spec};
use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::server::{CLOSE, ECHO};
use crate::sink::{Sink, raise_file_limit};

/// Address of the first one of the crowd.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// What the holder says for each compartment.
const HELD: &str = "held";

/// Makes `number` compartments and has all of them hold the wildcard ports. The crowd goes with the guard.
///
/// # Errors
/// If the daemon refuses; or if compartments do not have their ports for themselves.
pub fn gather(daemon: &Afnetd<'_>, number: u32) -> Result<Sink> {
    let mut connection = daemon.connect();
    let mut holder = Sink::spawn(daemon.netns().command(env::current_exe()?).arg("hold"))?;
    for i in 0..number {
        let name = format!("crowd{i}");
        let address = spec(&format!("{}/32", Ipv4Addr::from_bits(FIRST.to_bits() + i)));
        let requests = [
            Request::Add { name: name.clone(), policy: Policy::default() },
            Request::AddrAdd { address, name: name.clone() },
            Request::Cgroup { name },
        ];
        let mut answer = Answer::Done;
        for request in &requests {
            answer = connection.request(request).map_err(|refusal| anyhow!(refusal.message))?;
        }
        let Answer::Cgroup { path } = answer else { bail!("no cgroup: {answer:?}") };
        holder.say(&path)?;
        let line = holder.line()?;
        ensure!(line.trim() == HELD, "compartment {} of the crowd: {}", i + 1, line.trim());
    }
    Ok(holder)
}

/// The holder: for each line, the directory of a cgroup, sockets are made there and kept.
///
/// # Errors
/// If standard output is gone.
pub fn hold() -> Result<()> {
    // Three descriptors for each compartment.
    raise_file_limit()?;
    let mut held = Vec::new();
    for cgroup in io::stdin().lines() {
        match enter(&cgroup?) {
            Ok(sockets) => {
                held.push(sockets);
                println!("{HELD}");
            }
            Err(error) => println!("{error:#}"),
        }
    }
    Ok(())
}

fn enter(cgroup: &str) -> Result<(TcpListener, TcpListener, UdpSocket)> {
    fs::write(format!("{cgroup}/cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("move into {cgroup}"))?;
    let tcp = |port| {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("bind TCP port {port}"))
    };
    let udp =
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO)).with_context(|| format!("bind UDP port {ECHO}"))?;
    Ok((tcp(CLOSE)?, tcp(ECHO)?, udp))
}
