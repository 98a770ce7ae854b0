//! Arguments that several commands share.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    device::{Device, parse_mac},
    flow::{Kind, Mac},
    pace::Rate,
    port::Mode,
    sizes::Sizes,
    span::{self, Addresses, Span},
};

/// What the frames are
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Frames")]
pub struct FlowArgs {
    /// What to send
    #[arg(long, value_enum, default_value_t)]
    pub kind: Kind,
    /// Destination addresses: one, `A-B`, `A/LEN`, `~...` for random ones; targets of ARP and ND, groups of IGMP and
    /// MLD [default: of the benchmark network 198.18.0.0/15 or 2001:2::/48]
    #[arg(long, short = 'd', value_name = "RANGE")]
    pub dst: Option<Addresses>,
    /// Source addresses, likewise
    #[arg(long, short = 's', value_name = "RANGE")]
    pub src: Option<Addresses>,
    /// Destination ports: one, `A-B`, `~A-B`
    #[arg(long, value_name = "RANGE", value_parser = span::ports, default_value = "7")]
    pub dport: Span,
    /// Source ports, likewise
    #[arg(long, value_name = "RANGE", value_parser = span::ports, default_value = "49184")]
    pub sport: Span,
    /// VLAN tags, the outer one first: `10`, `100,1-9`, `~1-4094`
    #[arg(long, value_name = "RANGE", value_parser = span::vlans, value_delimiter = ',')]
    pub vlan: Vec<Span>,
    /// Destination MAC address [default: that of the receiving device, else of the kernel's neighbour]
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub dst_mac: Option<Mac>,
    /// Source MAC address [default: that of the device]
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub src_mac: Option<Mac>,
    /// Time to live or hop limit of UDP and TCP
    #[arg(long, default_value_t = 64)]
    pub ttl: u8,
    /// Bytes of a frame without check sequence, 60 to 9000: one size, several in turn (`60,1514`), weighted
    /// (`60:7,1514:1`) or `imix`; ARP, ND, IGMP and MLD are padded to it [default: the smallest]
    #[arg(long)]
    pub size: Option<Sizes>,
    /// Seed of random values: the same one sends the same frames
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of the first stream in the stamps; each thread has one of its own
    #[arg(long, default_value_t = 0)]
    pub stream: u16,
    /// No sequence number and time in the payload
    #[arg(long)]
    pub no_stamp: bool,
}

/// How fast, how many, how long
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Rate")]
pub struct PaceArgs {
    /// `max`, frames per second (`10k`, `1.5Mpps`), or bits per second on the wire (`1Gbit`: with preamble, check
    /// sequence and gap), of all threads together
    #[arg(long, short = 'r', default_value = "max")]
    pub rate: Rate,
    /// Frames of a burst: so many back to back, at the same mean rate
    #[arg(long, default_value_t = 1)]
    pub burst: usize,
}

/// When it ends
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "End")]
pub struct EndArgs {
    /// Seconds
    #[arg(long, short = 't', value_parser = seconds)]
    pub time: Option<Duration>,
    /// Frames
    #[arg(long, short = 'c')]
    pub count: Option<u64>,
}

/// How frames leave and arrive
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Devices")]
pub struct IoArgs {
    /// AF_XDP mode; what is refused is shown
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Live frames instead of AF_XDP: as if DEVICE had received them, into the XDP program attached to it
    #[arg(long)]
    pub live: bool,
    /// With --live on a device without XDP program: drop the frames (else the kernel's stack gets them)
    #[arg(long, requires = "live")]
    pub live_drop: bool,
    /// Device queues to send on, a thread for each: `0`, `0-3`
    #[arg(long, value_parser = numbers, default_value = "0")]
    pub queues: Numbers,
    /// Device queues to receive on, a thread for each
    #[arg(long, value_parser = numbers, default_value = "0")]
    pub rx_queues: Numbers,
    /// CPUs of the sending threads; with --live also their number
    #[arg(long, value_parser = numbers)]
    pub cpus: Option<Numbers>,
    /// CPUs of the receiving threads
    #[arg(long, value_parser = numbers)]
    pub rx_cpus: Option<Numbers>,
    /// Entries of each AF_XDP ring, a power of two: bounds the burst that is received without loss
    #[arg(long, default_value_t = 4096)]
    pub ring: u32,
    /// Use a device although it carries the default route
    #[arg(long)]
    pub force: bool,
}

/// What is shown
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// The result as one JSON object
    #[arg(long, short = 'j')]
    pub json: bool,
    /// The result as CSV
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Nothing while it runs
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Seconds between two lines where the output is no terminal
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub interval: Duration,
}

/// A list of small numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(pub Vec<u32>);

/// Reads `0`, `0-3`, `0,2,5`.
///
/// # Errors
/// If the text is no such list, or longer than 64.
pub fn numbers(text: &str) -> Result<Numbers, String> {
    let bad = || format!("`{text}` is no list such as `0`, `0-3` or `0,2` (numbers up to 4095, at most 64)");
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < 4096).ok_or_else(bad);
        list.extend(number(first)?..=number(last)?);
    }
    if list.is_empty() || list.len() > 64 {
        return Err(bad());
    }
    Ok(Numbers(list))
}

/// Reads seconds.
///
/// # Errors
/// If they are negative, none, or more than a year.
pub fn seconds(text: &str) -> Result<Duration, String> {
    text.trim()
        .trim_end_matches('s')
        .parse::<f64>()
        .ok()
        .filter(|time| (1e-3..=31_536_000.0).contains(time))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` are no seconds such as `10` or `0.5`"))
}

/// A capture to replay
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Replay")]
pub struct ReplayArgs {
    /// Send the frames of a pcap or pcapng file, in turn, instead of a flow
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Once, with the gaps of the capture
    #[arg(long, requires = "pcap")]
    pub as_captured: bool,
}

/// Where frames come back
#[derive(Args, Clone, Debug)]
pub struct PairArgs {
    /// Sends: NAME, or NAME@NAMESPACE
    pub device: Device,
    /// Receives [default: the sending device, which measures the round trip through a reflector or an echo]
    #[arg(long, value_name = "DEVICE")]
    pub rx: Option<Device>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(numbers("0-2,7"), Ok(Numbers(vec![0, 1, 2, 7])));
        for text in ["", "x", "3-1", "0-4096", "0-64", "4294967295"] {
            assert!(numbers(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5s"), Ok(Duration::from_millis(500)));
        for text in ["", "-1", "nan", "inf", "1e99", "0"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
