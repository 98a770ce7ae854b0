//! Configuration: a TOML file or the command line of `afnetd`, both into one [`Config`].
//!
//! Every key is explained in `control/afnetd.toml`, which a test reads with this parser. Unknown keys are refused.

use std::path::Path;

use afnet_abi::control::{AddressSpec, Defend, Policy};
use afnet_abi::shm;
use serde::Deserialize;

use crate::names::{self, Instance};

/// How a worker waits for packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Wake {
    /// Never sleeps: lowest latency, one CPU each.
    Busy,
    /// Spins for a while after work, then sleeps.
    #[default]
    Adaptive,
    /// Sleeps whenever there is nothing to do.
    Interrupt,
}

impl Wake {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Adaptive => "adaptive",
            Self::Interrupt => "interrupt",
        }
    }
}

/// How packets get from the device to the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The best that works: zero-copy, copy, generic.
    #[default]
    Auto,
    /// The driver writes into our memory; refused if it cannot.
    ZeroCopy,
    /// XDP in the driver, the kernel copies; refused if the driver has no XDP.
    Copy,
    /// XDP behind the driver: slow, works with every device.
    Generic,
}

/// Who tells the network of memberships where both could: in untagged realms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Membership {
    /// The kernel, which is given what endpoints want.
    #[default]
    Kernel,
    /// afnetd, which is told what the kernel wants.
    Own,
}

/// The daemon's configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Instance name; empty: the default instance.
    pub instance: String,
    /// Group whose members may do what root may on the control socket.
    pub group: Option<String>,
    /// Keep compartments, their kernel addresses and the XDP program when the daemon ends.
    pub keep: bool,
    /// Who speaks IGMP and MLD.
    pub membership: Membership,
    /// Devices.
    #[serde(rename = "device")]
    pub devices: Vec<DeviceConfig>,
    /// Duplicate addresses.
    pub dad: DadConfig,
    /// Workers.
    pub workers: WorkersConfig,
    /// Sizes.
    pub limits: LimitsConfig,
    /// Compartments that exist from the start.
    #[serde(rename = "compartment")]
    pub compartments: Vec<CompartmentConfig>,
}

/// A device to own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Interface name.
    pub name: String,
    /// XDP mode.
    #[serde(default)]
    pub mode: Mode,
}

/// What is done about addresses that other hosts may have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DadConfig {
    /// Addresses are probed before they are used, announced and defended.
    pub enabled: bool,
    /// How, for addresses that do not say it themselves.
    pub defend: Defend,
}

impl Default for DadConfig {
    fn default() -> Self {
        Self { enabled: true, defend: Defend::default() }
    }
}

/// Worker threads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkersConfig {
    /// How many, if `cpus` is empty.
    pub count: usize,
    /// The CPU of each worker; empty: not pinned.
    pub cpus: Vec<usize>,
    /// How they wait.
    pub wake: Wake,
}

/// Sizes and bounds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Compartments, one more than can be made.
    pub compartments: u32,
    /// Addresses of one device.
    pub addresses: u32,
    /// Delegated prefixes of one device.
    pub prefixes: u32,
    /// Claimed port blocks of one device.
    pub claims: u32,
    /// Groups of one device that endpoints are in, of each family.
    pub groups: u32,
    /// Groups that the endpoints of one compartment may be in.
    pub memberships: usize,
    /// Connections to the control socket.
    pub connections: usize,
    /// Connections of one user that is not an administrator.
    pub user_connections: usize,
    /// Endpoints of one compartment.
    pub endpoints: usize,
    /// Bytes of an endpoint's RX ring for each worker, if the tenant does not say.
    pub rx_ring: usize,
    /// Bytes of an endpoint's TX ring for each worker, if the tenant does not say.
    pub tx_ring: usize,
    /// Bytes that one compartment may hold in incomplete datagrams.
    pub reassembly: usize,
    /// Frames of each queue's UMEM.
    pub frames: u32,
    /// Bytes of a frame: 2048 or 4096.
    pub frame_size: u32,
}

/// A compartment of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompartmentConfig {
    /// Name.
    pub name: String,
    /// What it may do.
    #[serde(default)]
    pub policy: Policy,
    /// Addresses and prefixes.
    #[serde(default, rename = "address")]
    pub addresses: Vec<AddressSpec>,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self { count: 1, cpus: Vec::new(), wake: Wake::default() }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            compartments: 4096,
            addresses: 65536,
            prefixes: 4096,
            claims: 65536,
            groups: 16384,
            memberships: 256,
            connections: 8192,
            user_connections: 2048,
            endpoints: 1024,
            rx_ring: 1 << 20,
            tx_ring: 1 << 20,
            reassembly: 1 << 20,
            frames: 2048,
            frame_size: 4096,
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel answered.
        error: std::io::Error,
    },
    /// Not TOML, or an unknown key.
    #[error("{path}: {error}")]
    Parse {
        /// The file.
        path: String,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("{0}")]
    Value(String),
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = || path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: name(), error })?;
        let config: Self =
            toml::from_str(&text).map_err(|e| ConfigError::Parse { path: name(), error: Box::new(e) })?;
        config.check().map_err(|e| match e {
            ConfigError::Value(why) => ConfigError::Value(format!("{}: {why}", name())),
            other => other,
        })?;
        Ok(config)
    }

    /// CPU of each worker, as many as there are workers.
    pub fn worker_cpus(&self) -> Vec<Option<usize>> {
        if self.workers.cpus.is_empty() {
            vec![None; self.workers.count]
        } else {
            self.workers.cpus.iter().copied().map(Some).collect()
        }
    }

    /// Refuses values that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |why: String| Err(ConfigError::Value(why));
        Instance::new(&self.instance).map_err(|e| ConfigError::Value(e.to_string()))?;
        let workers = self.worker_cpus().len();
        if workers == 0 || workers > shm::MAX_WORKERS {
            return refuse(format!("1 to {} workers, not {workers}", shm::MAX_WORKERS));
        }
        for (i, device) in self.devices.iter().enumerate() {
            if self.devices[..i].iter().any(|d| d.name == device.name) {
                return refuse(format!("device {} is listed twice", device.name));
            }
        }
        let l = &self.limits;
        for (key, len) in [("rx_ring", l.rx_ring), ("tx_ring", l.tx_ring)] {
            if !shm::valid_ring_len(len) {
                let (low, high) = (shm::MIN_RING_LEN, shm::MAX_RING_LEN);
                return refuse(format!("limits.{key} is a power of two, {low} to {high}, not {len}"));
            }
        }
        if !matches!(l.frame_size, 2048 | 4096) {
            return refuse(format!("limits.frame_size is 2048 or 4096, not {}", l.frame_size));
        }
        if !l.frames.is_power_of_two() || !(256..=1 << 20).contains(&l.frames) {
            return refuse(format!("limits.frames is a power of two, 256 to 1048576, not {}", l.frames));
        }
        for (key, value, most) in [
            ("compartments", l.compartments, 65536),
            ("addresses", l.addresses, 1 << 22),
            ("prefixes", l.prefixes, 1 << 20),
            ("claims", l.claims, 1 << 22),
            ("groups", l.groups, 1 << 20),
        ] {
            if !(2..=most).contains(&value) {
                return refuse(format!("limits.{key} is 2 to {most}, not {value}"));
            }
        }
        for compartment in &self.compartments {
            names::check_compartment(&compartment.name).map_err(|e| ConfigError::Value(e.to_string()))?;
            for address in &compartment.addresses {
                if !self.devices.iter().any(|d| d.name == address.dev) {
                    return refuse(format!(
                        "compartment {}: {} is no [[device]] of this file",
                        compartment.name, address.dev
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string()).map(|()| config)
    }

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let text = include_str!("../afnetd.toml");
        let example = parse(text).unwrap();
        // Keys without a default are shown as comments `# key = ...`; uncommented they must parse too.
        let all: String =
            text.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l).to_owned() + "\n").collect();
        let full = parse(&all).unwrap();
        assert_eq!(example.workers, WorkersConfig::default());
        assert_eq!(example.limits, LimitsConfig::default());
        assert_eq!(example.dad, DadConfig::default());
        assert_eq!(example.membership, Membership::default());
        assert!(full.group.is_some() && !full.compartments.is_empty() && !full.workers.cpus.is_empty());
        assert_eq!(full.compartments[0].addresses.len(), 3);
        let policy = Policy { users: full.compartments[0].policy.users.clone(), ..Policy::default() };
        assert_eq!(full.compartments[0].policy, policy, "the others are shown with their defaults");
        // Every key of the structures stands in the file.
        for key in [
            "instance",
            "group",
            "keep",
            "membership",
            "name",
            "mode",
            "enabled",
            "defend",
            "nodad",
            "count",
            "cpus",
            "wake",
            "compartments",
            "addresses",
            "prefixes",
            "claims",
            "connections",
            "user_connections",
            "endpoints",
            "rx_ring",
            "tx_ring",
            "reassembly",
            "frames",
            "frame_size",
            "rate_pps",
            "burst",
            "isolated",
            "raw_sockets",
            "unprivileged_ports",
            "capabilities",
            "sockets",
            "users",
            "groups",
            "address",
            "prefix_len",
            "dev",
            "vlan",
            "delegated",
            "fast_only",
        ] {
            let assigned = |l: &str| {
                let name = l.split_once(" =").map(|(name, _)| name.trim_start_matches("policy."));
                name == Some(key)
            };
            assert!(all.lines().any(assigned), "{key}");
        }
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        for (text, why) in [
            ("colour = 1", "unknown field"),
            ("[[device]]\nname = \"a\"\nspeed = 1", "unknown field"),
            ("[workers]\ncount = 0", "1 to 64 workers"),
            ("instance = \"a/b\"", "bad instance name"),
            ("[limits]\nrx_ring = 1000", "power of two"),
            ("[limits]\ncompartments = 1", "limits.compartments"),
            ("[[device]]\nname = \"a\"\n[[device]]\nname = \"a\"", "twice"),
            ("[[compartment]]\nname = \".a\"", "bad name"),
            (
                "[[compartment]]\nname = \"a\"\n[[compartment.address]]\naddress = \"192.0.2.1\"\nprefix_len = 24\ndev = \"x\"",
                "no [[device]]",
            ),
            ("[workers]\nwake = \"never\"", "unknown variant"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
