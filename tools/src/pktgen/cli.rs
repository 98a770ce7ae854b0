//! The command line: what there is, and the help that teaches it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use super::{
    args::{EndArgs, FlowArgs, IoArgs, OutputArgs, PaceArgs, PairArgs, ReplayArgs, seconds},
    device::{Device, parse_mac},
    flow::Mac,
    pace::Rate,
    span::Addresses,
    swap::Layer,
};

const EXAMPLES: &str = "\
Examples:
  Flood a device under test, as fast as possible, and count on the other side:
    pktgen rx eth2
    pktgen tx eth1 --dst 192.0.2.1 --dst-mac 02:00:00:00:00:01
  A gigabit of the internet mix from 60,000 flows:
    pktgen tx eth1 --dst 192.0.2.1 --src ~10.0.0.0/16 --sport ~1024-61023 --size imix --rate 1Gbit
  What a link or a switch between two ports carries, with latencies, as a picture:
    pktgen rfc2544 eth1 --rx eth2 --plot throughput.svg
  Round trip through a reflector or a UDP echo on another host:
    pktgen reflect eth0                                 # there, or: pktgen udp-echo 0.0.0.0:7
    pktgen measure eth1 --dst 192.0.2.1 --rate 100k     # here
  The XDP program on a device of this host, without any wire:
    pktgen tx eth1 --live --dst 192.0.2.10-192.0.2.99
  One tenant at 10,000 frames per second while others are flooded:
    pktgen victim eth1 --rx eth2 --dst 192.0.2.10 --victim-dst 192.0.2.11
  Neighbour tables under pressure:
    pktgen tx eth1 --kind arp --dst 192.0.2.0/24 --rate 1k --count 256
  On a test bed of network namespaces:
    pktgen measure veth0@left --rx veth1@right --rate 100k

Rates in bits count what the wire carries: 24 bytes for each frame beside the frame itself. Sizes are those of the \
frame without check sequence: 60 is what others call 64.";

/// Sends and receives packets as fast as the kernel can: AF_XDP, live frames, or a capture
///
/// UDP and TCP payloads carry a sequence number and a time, from which a receiver on the same host tells loss,
/// reordering, duplicates and latency. Needs root. A device that carries the default route is refused.
#[derive(Debug, Parser)]
#[command(name = "pktgen", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sends
    Tx(Box<TxArgs>),
    /// Receives and counts what other pktgens send
    Rx(RxArgs),
    /// Sends, and receives on another device or what comes back: loss, order, latency
    Measure(Box<MeasureArgs>),
    /// Searches the throughput of each size, and latencies below it (RFC 2544, 26.1 and 26.2)
    Rfc2544(Box<Rfc2544Args>),
    /// Latency and loss of one slow flow, alone and then under load
    Victim(Box<VictimArgs>),
    /// Sends every frame back
    Reflect(ReflectArgs),
    /// Sends every datagram back, with an ordinary UDP socket
    UdpEcho(EchoArgs),
}

/// Arguments of `tx`.
#[derive(Args, Debug)]
pub struct TxArgs {
    /// Where: NAME, or NAME@NAMESPACE
    pub device: Device,
    /// Frames.
    #[command(flatten)]
    pub flow: FlowArgs,
    /// Capture.
    #[command(flatten)]
    pub replay: ReplayArgs,
    /// Rate.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// End; none: until Ctrl-C.
    #[command(flatten)]
    pub end: EndArgs,
    /// Devices.
    #[command(flatten)]
    pub io: IoArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `rx`.
#[derive(Args, Debug)]
pub struct RxArgs {
    /// Where: NAME, or NAME@NAMESPACE
    pub device: Device,
    /// Take every frame away from the kernel, not only those of pktgen
    #[arg(long)]
    pub everything: bool,
    /// End; none: until Ctrl-C.
    #[command(flatten)]
    pub end: EndArgs,
    /// Devices.
    #[command(flatten)]
    pub io: IoArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `measure`.
#[derive(Args, Debug)]
pub struct MeasureArgs {
    /// Devices.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Frames.
    #[command(flatten)]
    pub flow: FlowArgs,
    /// Rate.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// End; none: 10 seconds.
    #[command(flatten)]
    pub end: EndArgs,
    /// Devices.
    #[command(flatten)]
    pub io: IoArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `rfc2544`.
#[derive(Args, Debug)]
pub struct Rfc2544Args {
    /// Devices.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Sizes to measure, in bytes without check sequence
    #[arg(long, value_delimiter = ',', default_value = "60,124,252,508,1020,1276,1514")]
    pub sizes: Vec<usize>,
    /// Fraction of the frames that may be lost
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    pub tolerance: f64,
    /// The search ends when it knows the rate to this fraction
    #[arg(long, default_value_t = 0.01, value_parser = fraction)]
    pub resolution: f64,
    /// Seconds of each trial (RFC 2544 wants 60 for the final one)
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub trial: Duration,
    /// Latencies are taken at these fractions of the throughput
    #[arg(long, value_delimiter = ',', default_value = "0.1,0.5,0.9", value_parser = fraction)]
    pub fractions: Vec<f64>,
    /// Write an SVG of rate and latency by size
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Frames; their sizes are those above.
    #[command(flatten)]
    pub flow: FlowArgs,
    /// Rate: where the search begins.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Devices.
    #[command(flatten)]
    pub io: IoArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `victim`.
#[derive(Args, Debug)]
pub struct VictimArgs {
    /// Devices.
    #[command(flatten)]
    pub pair: PairArgs,
    /// The victim's destination addresses
    #[arg(long, value_name = "RANGE")]
    pub victim_dst: Addresses,
    /// The victim's destination MAC address [default: that of the load]
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub victim_dst_mac: Option<Mac>,
    /// The victim's rate
    #[arg(long, default_value = "10k")]
    pub victim_rate: Rate,
    /// Bytes of the victim's frames [default: the smallest]
    #[arg(long)]
    pub victim_size: Option<usize>,
    /// Seconds of each of the two phases
    #[arg(long, short = 't', default_value = "5", value_parser = seconds)]
    pub time: Duration,
    /// The load's frames.
    #[command(flatten)]
    pub flow: FlowArgs,
    /// The load's rate.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Devices.
    #[command(flatten)]
    pub io: IoArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `reflect`.
#[derive(Args, Debug)]
pub struct ReflectArgs {
    /// Where: NAME, or NAME@NAMESPACE
    pub device: Device,
    /// What is swapped: `ethernet` for a reflector on the link, `transport` for an echo behind routers
    #[arg(long, value_enum, default_value_t)]
    pub layer: Layer,
    /// Take every frame away from the kernel, not only those of pktgen
    #[arg(long)]
    pub everything: bool,
    /// End; none: until Ctrl-C.
    #[command(flatten)]
    pub end: EndArgs,
    /// Devices.
    #[command(flatten)]
    pub io: IoArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `udp-echo`.
#[derive(Args, Debug)]
pub struct EchoArgs {
    /// Address and port to listen on, such as 0.0.0.0:7 or [::]:7
    pub listen: SocketAddr,
    /// End; none: until Ctrl-C.
    #[command(flatten)]
    pub end: EndArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Reads a number from 0 to 1.
fn fraction(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or_else(|| format!("`{text}` is no fraction from 0 to 1, such as 0.001"))
}
