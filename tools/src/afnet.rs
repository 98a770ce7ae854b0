//! afnet itself: a daemon with its worker on the receiver's CPU, compartments with one address each, and one
//! tenant process with an endpoint in each compartment.

use std::{
    env, fs,
    net::Ipv4Addr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use afnet_abi::{
    control::{Policy, Request},
    shm::MIN_RING_LEN,
};
use afnet_tenant::{AttachOptions, Endpoint};
use afnet_tests::{
    afnetd::{Afnetd, spec},
    bed::{Bed, DEVICE},
};
use anyhow::{Context as _, Result, anyhow};

use crate::{
    sink::{SINK_CPU, Sink, answer, pin, raise_file_limit},
    subject::{PORT, Wake},
};

/// Records taken in one look at an endpoint: a batch of the worker.
const BATCH: usize = 64;

/// Endpoints ahead whose memory a tenant asks for that serves many.
const AHEAD: usize = 4;

/// How long a tenant looks at its rings before it sleeps, in the mode that adapts: as long as the worker.
const SPIN: Duration = Duration::from_micros(50);

/// Starts a daemon with room for that many compartments.
///
/// # Errors
/// If its configuration cannot be written.
pub fn daemon<'a>(bed: &'a Bed, compartments: u32, arguments: &[&str]) -> Result<Afnetd<'a>> {
    let file = env::temp_dir().join(format!("{}.toml", bed.host.name()));
    // The host has a slot, too.
    fs::write(&file, format!("[limits]\ncompartments = {}\n", compartments.max(63) + 1))?;
    let config = file.display().to_string();
    let daemon =
        Afnetd::start_with(&bed.host, &[&["--config", &config, "--device", DEVICE], arguments].concat());
    let _ = fs::remove_file(&file);
    Ok(daemon)
}

/// Starts a daemon with compartments `c0`, `c1` ... that own consecutive addresses.
///
/// # Errors
/// If the daemon refuses.
pub fn start(bed: &Bed, first: Ipv4Addr, compartments: u32, wake: Wake) -> Result<Afnetd<'_>> {
    let cpu = SINK_CPU.to_string();
    let daemon = daemon(bed, compartments, &["--cpus", &cpu, "--wake", wake.name()])?;
    let mut connection = daemon.connect();
    for i in 0..compartments {
        let name = format!("c{i}");
        // The kernel's own address list is not the subject (it slows down with its length).
        let mut address = spec(&format!("{}/32", Ipv4Addr::from(u32::from(first) + i)));
        address.fast_only = true;
        connection
            .request(&Request::Add { name: name.clone(), policy: Policy::default() })
            .and_then(|_| connection.request(&Request::AddrAdd { address, name }))
            .map_err(|refusal| anyhow!(refusal.message))?;
    }
    Ok(daemon)
}

/// Starts the tenant process, with all endpoints in `group` if there is one.
///
/// # Errors
/// If it does not start.
pub fn sink(daemon: &Afnetd<'_>, compartments: Range<u32>, group: Option<Ipv4Addr>) -> Result<Sink> {
    let mut command = daemon.netns().command(env::current_exe()?);
    let Range { start, end } = compartments;
    command.args(["sink", "afnet", daemon.instance(), &start.to_string(), &end.to_string()]);
    Sink::spawn(command.args(group.map(|group| group.to_string())))
}

/// Starts a tenant process that sends every datagram to a compartment back.
///
/// # Errors
/// If it does not start.
pub fn echo(daemon: &Afnetd<'_>, compartment: u32, wake: Wake) -> Result<Sink> {
    let mut command = daemon.netns().command(env::current_exe()?);
    command.args(["sink", "afnet-echo", daemon.instance(), &compartment.to_string(), wake.name()]);
    Sink::spawn(&mut command)
}

/// Starts a tenant process that waits, with an endpoint in each compartment.
///
/// # Errors
/// If it does not start.
pub fn waiting(daemon: &Afnetd<'_>, compartments: u32) -> Result<Sink> {
    let mut command = daemon.netns().command(env::current_exe()?);
    command.args(["sink", "afnet-waiting", daemon.instance(), &compartments.to_string()]);
    Sink::spawn(&mut command)
}

/// The tenant process that waits.
///
/// # Errors
/// If it cannot attach or claim.
pub fn wait_all(instance: &str, compartments: u32) -> Result<()> {
    let attach = |i| {
        let options = AttachOptions {
            instance: Some(instance.into()),
            compartment: Some(format!("c{i}")),
            ..AttachOptions::default()
        };
        let mut endpoint = Endpoint::attach(&options).with_context(|| format!("attach to c{i}"))?;
        endpoint.claim(PORT).with_context(|| format!("claim port {PORT} of c{i}"))?;
        // Nobody will look, and whoever publishes rings the bell.
        endpoint.arm();
        Ok(endpoint)
    };
    raise_file_limit()?;
    let _endpoints = (0..compartments).map(attach).collect::<Result<Vec<_>>>()?;
    answer(Arc::default());
    loop {
        thread::park();
    }
}

/// The tenant process that answers.
///
/// # Errors
/// If it cannot attach or claim, or the daemon goes.
pub fn answer_all(instance: &str, compartment: u32, wake: Wake) -> Result<()> {
    let options = AttachOptions {
        instance: Some(instance.into()),
        compartment: Some(format!("c{compartment}")),
        populate: true,
        spin: if wake == Wake::Adaptive { SPIN } else { Duration::ZERO },
        ..AttachOptions::default()
    };
    let mut endpoint = Endpoint::attach(&options).with_context(|| format!("attach to c{compartment}"))?;
    endpoint.claim(PORT).with_context(|| format!("claim port {PORT} of c{compartment}"))?;
    let count = Arc::new(AtomicU64::new(0));
    answer(Arc::clone(&count));
    pin(SINK_CPU)?;
    loop {
        if wake != Wake::Busy {
            endpoint.wait(None)?;
        }
        // Without room an answer is lost, as datagrams are.
        let received = endpoint.recv_batch(BATCH, |sender, datagram| drop(sender.reply(datagram)))?;
        // One writer: a plain addition is enough.
        count.store(count.load(Ordering::Relaxed) + received as u64, Ordering::Relaxed);
        if received == 0 {
            thread::yield_now();
        }
    }
}

/// The tenant process: counts what arrives at all endpoints, round robin. When a round finds nothing it lets the
/// worker, which shares the CPU, run.
///
/// # Errors
/// If it cannot attach, claim or join, or the daemon goes.
pub fn receive(instance: &str, compartments: Range<u32>, group: Option<Ipv4Addr>) -> Result<()> {
    let attach = |i| {
        let options = AttachOptions {
            instance: Some(instance.into()),
            compartment: Some(format!("c{i}")),
            // Many large rings would measure the caches; and none of them pays for its first use while measured.
            rx_len: (compartments.len() > 1).then_some(MIN_RING_LEN as u64),
            populate: true,
            ..AttachOptions::default()
        };
        let mut endpoint = Endpoint::attach(&options).with_context(|| format!("attach to c{i}"))?;
        endpoint.claim(PORT).with_context(|| format!("claim port {PORT} of c{i}"))?;
        if let Some(group) = group {
            endpoint.join(group.into()).with_context(|| format!("join {group} in c{i}"))?;
        }
        Ok(endpoint)
    };
    raise_file_limit()?;
    let mut endpoints = compartments.clone().map(attach).collect::<Result<Vec<_>>>()?;
    let count = Arc::new(AtomicU64::new(0));
    answer(Arc::clone(&count));
    pin(SINK_CPU)?;
    loop {
        let mut received = 0;
        for at in 0..endpoints.len() {
            if let Some(ahead) = endpoints.get(at + AHEAD) {
                ahead.prefetch();
            }
            received += endpoints[at].recv_batch(BATCH, |_, _| ())?;
        }
        // One writer: a plain addition is enough.
        count.store(count.load(Ordering::Relaxed) + received as u64, Ordering::Relaxed);
        if received == 0 {
            thread::yield_now();
        }
    }
}
