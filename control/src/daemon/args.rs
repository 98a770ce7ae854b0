//! Command line of `afnetd`.

use std::path::PathBuf;

use clap::Parser;

use crate::config::{Config, ConfigError, DeviceConfig, Membership, Mode, Wake};

/// Gives compartments IP addresses of their own behind one network device and one MAC address.
///
/// Takes over Ethernet devices: loads an XDP program that answers ARP and neighbour solicitations for the
/// compartments' addresses and hands their claimed traffic to worker threads, which share memory with tenants. All
/// else goes on to the kernel as before. Stays in the foreground; tells a service manager when it is ready
/// (NOTIFY_SOCKET). Ends on SIGTERM and removes what it has made; killed otherwise, the next start of the same
/// instance takes over what it left.
///
/// Needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON, and CAP_SYS_ADMIN to mount bpffs where it is not.
#[derive(Debug, Parser)]
#[command(name = "afnetd", version)]
pub struct Args {
    /// Configuration file; options beside it take precedence.
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["devices", "help_counters"])]
    pub config: Option<PathBuf>,
    /// Device to own; may be given several times.
    #[arg(short, long = "device", value_name = "DEV")]
    pub devices: Vec<String>,
    /// How packets of the devices given here reach the workers.
    #[arg(long, value_name = "MODE", requires = "devices")]
    pub mode: Option<Mode>,
    /// Number of worker threads, not pinned to CPUs.
    #[arg(long, value_name = "N", conflicts_with = "cpus")]
    pub workers: Option<usize>,
    /// One worker on each of these CPUs.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// How workers wait for packets.
    #[arg(long, value_name = "MODE")]
    pub wake: Option<Wake>,
    /// Who speaks IGMP and MLD for this host in untagged realms: the kernel, or afnetd alone.
    #[arg(long, value_name = "WHO")]
    pub membership: Option<Membership>,
    /// Instance name: several daemons on one machine, one for each network namespace.
    #[arg(long, value_name = "NAME", env = "AFNET_INSTANCE")]
    pub instance: Option<String>,
    /// Use addresses at once: do not ask whether other hosts have them, announce nothing, defend nothing. For test beds.
    #[arg(long)]
    pub no_dad: bool,
    /// Leave compartments, addresses and the XDP program in place when ending, for the next start.
    #[arg(long)]
    pub keep: bool,
    /// Print what every counter of `afnet stats` means, and end.
    #[arg(long)]
    pub help_counters: bool,
}

impl Args {
    /// File and options together.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        for name in &self.devices {
            config.devices.retain(|d| d.name != *name);
            config.devices.push(DeviceConfig { name: name.clone(), mode: self.mode.unwrap_or_default() });
        }
        if let Some(count) = self.workers {
            config.workers.count = count;
            config.workers.cpus.clear();
        }
        if !self.cpus.is_empty() {
            config.workers.cpus.clone_from(&self.cpus);
        }
        if let Some(wake) = self.wake {
            config.workers.wake = wake;
        }
        if let Some(membership) = self.membership {
            config.membership = membership;
        }
        if let Some(instance) = &self.instance {
            config.instance.clone_from(instance);
        }
        config.keep |= self.keep;
        config.dad.enabled &= !self.no_dad;
        config.check()?;
        Ok(config)
    }
}
