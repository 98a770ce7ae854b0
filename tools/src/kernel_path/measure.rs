//! What is measured of each place.
//!
//! | measure | by | what it stresses |
//! |---|---|---|
//! | connections | wrk on nginx, `Connection: close` | accept, the hooks of a connection's life |
//! | requests | wrk on nginx, keep-alive | packets of established connections |
//! | tcp-rtt, udp-rtt | own client, one request at a time | wake-ups and the way of one packet, both directions |
//! | udp-echo | own client, 64 datagrams on their way | receive and send hooks of unconnected UDP |
//! | udp-packets | own client as fast as it can, a counting server | receiving |
//! | connects | own client, one connection after the other | the way of a connection, both ends |
//! | bulk-in, bulk-out | iperf3 | throughput of one TCP connection |
//! | sockperf-udp, sockperf-tcp | sockperf ping-pong | the third party's word on round trips |
//! | sockperf-p99 | the same | the 99th percentile |
//! | dns | dnsperf on unbound | queries per second |
//! | memcached-udp | own client, 64 requests on their way | a server on libevent |
//! | iperf-udp | iperf3 -u as fast as it can, 64 bytes | datagrams received |
//! | quic-in, quic-out | quinn's client and server, one stream | segments, their bundles, and encryption |

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    client,
    site::{Site, finish, installed, whole_seconds},
};

/// Ports of the third-party servers.
pub const HTTP: u16 = 80;
/// iperf3.
pub const IPERF: u16 = 5201;
/// sockperf.
pub const SOCKPERF_UDP: u16 = 11_111;
/// sockperf with TCP.
pub const SOCKPERF_TCP: u16 = 11_112;

/// unbound.
pub const DNS: u16 = 53;
/// memcached, TCP and UDP.
pub const MEMCACHED: u16 = 11_211;
/// quinn.
pub const QUIC: u16 = 4433;

/// Connections that wrk keeps going.
const CONNECTIONS: &str = "32";

/// A measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// HTTP, a connection for each request.
    Connections,
    /// HTTP, connections kept.
    Requests,
    /// One request at a time over TCP.
    TcpRoundTrip,
    /// One datagram at a time.
    UdpRoundTrip,
    /// Many datagrams at a time, answered.
    UdpEcho,
    /// Datagrams received.
    UdpPackets,
    /// Connections without a word, one after the other.
    Connects,
    /// One connection to the server.
    BulkIn,
    /// One connection from the server.
    BulkOut,
    /// sockperf's round trip with UDP.
    SockperfUdp,
    /// sockperf's round trip with TCP.
    SockperfTcp,
    /// The slow ones of sockperf's round trips with UDP.
    SockperfSlow,
    /// DNS queries.
    Dns,
    /// memcached over UDP.
    MemcachedUdp,
    /// iperf3's datagrams.
    IperfUdp,
    /// One QUIC stream to the server.
    QuicIn,
    /// One QUIC stream from the server.
    QuicOut,
}

impl Measure {
    /// All that places are compared by, in the order of the report.
    pub const ALL: [Self; 11] = [
        Self::Connections,
        Self::Connects,
        Self::Requests,
        Self::TcpRoundTrip,
        Self::UdpRoundTrip,
        Self::UdpEcho,
        Self::UdpPackets,
        Self::BulkIn,
        Self::BulkOut,
        Self::SockperfUdp,
        Self::SockperfTcp,
    ];

    /// Those of UDP servers under the socket shim.
    pub const UDP: [Self; 10] = [
        Self::Dns,
        Self::MemcachedUdp,
        Self::UdpEcho,
        Self::UdpPackets,
        Self::IperfUdp,
        Self::QuicIn,
        Self::QuicOut,
        Self::UdpRoundTrip,
        Self::SockperfUdp,
        Self::SockperfSlow,
    ];

    /// Name for tables and for `--measures`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::TcpRoundTrip => "tcp-rtt",
            Self::UdpRoundTrip => "udp-rtt",
            Self::UdpEcho => "udp-echo",
            Self::UdpPackets => "udp-packets",
            Self::Connects => "connects",
            Self::BulkIn => "bulk-in",
            Self::BulkOut => "bulk-out",
            Self::SockperfUdp => "sockperf-udp",
            Self::SockperfTcp => "sockperf-tcp",
            Self::SockperfSlow => "sockperf-p99",
            Self::Dns => "dns",
            Self::MemcachedUdp => "memcached-udp",
            Self::IperfUdp => "iperf-udp",
            Self::QuicIn => "quic-in",
            Self::QuicOut => "quic-out",
        }
    }

    /// Unit of its figures.
    pub fn unit(self) -> &'static str {
        match self {
            Self::TcpRoundTrip
            | Self::UdpRoundTrip
            | Self::SockperfUdp
            | Self::SockperfTcp
            | Self::SockperfSlow => "us",
            Self::BulkIn | Self::BulkOut | Self::QuicIn | Self::QuicOut => "Gbit/s",
            _ => "1000/s",
        }
    }

    /// Whether less is better.
    pub fn is_time(self) -> bool {
        self.unit() == "us"
    }

    /// Why it cannot be measured here, if so.
    pub fn missing(self) -> Option<String> {
        let programs: &[&str] = match self {
            Self::Connections | Self::Requests => &["wrk", "nginx"],
            Self::BulkIn | Self::BulkOut | Self::IperfUdp => &["iperf3"],
            Self::SockperfUdp | Self::SockperfTcp | Self::SockperfSlow => &["sockperf"],
            Self::Dns => &["dnsperf", "unbound"],
            Self::MemcachedUdp => &["memcached"],
            _ => &[],
        };
        if matches!(self, Self::QuicIn | Self::QuicOut) && !quic_program().ok()?.exists() {
            return Some("examples/quic of afnet-tests is not built (tools/bench does)".into());
        }
        let missing = programs.iter().find(|program| !installed(program))?;
        Some(format!("{missing} is not installed (tools/setup --bench)"))
    }

    /// Measures for `time`.
    ///
    /// # Errors
    /// If a client fails or says what nobody understands.
    pub fn of(self, site: &mut Site<'_>, time: Duration) -> Result<f64> {
        match self {
            Self::Connections => wrk(site, time, &["-H", "Connection: close"]),
            Self::Requests => wrk(site, time, &[]),
            Self::TcpRoundTrip => site.as_client(|server, _| client::tcp_round_trip(server, time)),
            Self::UdpRoundTrip => site.as_client(|server, _| client::udp_round_trip(server, time)),
            Self::UdpEcho => site.as_client(|server, _| Ok(client::udp_echo(server, time)? / 1e3)),
            Self::UdpPackets => {
                site.as_client(|server, counter| Ok(client::udp_packets(server, time, counter)? / 1e3))
            }
            Self::Connects => site.as_client(|server, _| Ok(client::connects(server, time)? / 1e3)),
            Self::BulkIn => iperf(site, time, &[]),
            Self::BulkOut => iperf(site, time, &["--reverse"]),
            Self::SockperfUdp => sockperf(site, time, SOCKPERF_UDP, &[], "50.000"),
            Self::SockperfTcp => sockperf(site, time, SOCKPERF_TCP, &["--tcp"], "50.000"),
            Self::SockperfSlow => sockperf(site, time, SOCKPERF_UDP, &[], "99.000"),
            Self::Dns => dnsperf(site, time),
            Self::MemcachedUdp => site.as_client(|server, _| Ok(client::memcached(server, time)? / 1e3)),
            Self::IperfUdp => iperf_udp(site, time),
            Self::QuicIn => quic(site, time, "send"),
            Self::QuicOut => quic(site, time, "fetch"),
        }
    }
}

fn wrk(site: &Site<'_>, time: Duration, arguments: &[&str]) -> Result<f64> {
    let url = format!("http://{}:{HTTP}/", site.server);
    let mut command = site.client("wrk");
    command.args(["-t", "1", "-c", CONNECTIONS, "-d", &format!("{}s", whole_seconds(time))]);
    wrk_rate(&finish(command.args(arguments).arg(url))?)
}

/// wrk's requests per second, in thousands. Answers that are none, or connections that fail, are no rate.
fn wrk_rate(text: &str) -> Result<f64> {
    let bad = text.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    ensure!(bad.is_none(), "wrk: {}", bad.unwrap_or_default().trim());
    number_after(text, "Requests/sec:").map(|rate| rate / 1e3)
}

fn iperf(site: &Site<'_>, time: Duration, arguments: &[&str]) -> Result<f64> {
    let mut command = site.client("iperf3");
    command.args([
        "-J",
        "-p",
        &IPERF.to_string(),
        "-t",
        &whole_seconds(time),
        "-c",
        &site.server.to_string(),
    ]);
    iperf_rate(&finish(command.args(arguments))?)
}

/// What arrived, in Gbit/s.
fn iperf_rate(text: &str) -> Result<f64> {
    let report: serde_json::Value = serde_json::from_str(text).context("iperf3's JSON")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.map(|rate| rate / 1e9).with_context(|| format!("no rate in what iperf3 said: {text}"))
}

fn sockperf(site: &Site<'_>, time: Duration, port: u16, arguments: &[&str], percentile: &str) -> Result<f64> {
    let mut command = site.client("sockperf");
    command.args(["ping-pong", "-i", &site.server.to_string(), "-p", &port.to_string()]);
    command.args(["-t", &whole_seconds(time), "-m", "64", "--full-rtt"]).args(arguments);
    let text = finish(&mut command)?;
    number_after(&text, &format!("percentile {percentile} ="))
}

/// Answers per second, in thousands.
fn dnsperf(site: &Site<'_>, time: Duration) -> Result<f64> {
    let queries = site.directory().context("queries")?.join("queries");
    let mut command = site.client("dnsperf");
    command.args(["-s", &site.server.to_string(), "-p", &DNS.to_string(), "-d"]).arg(queries);
    command.args(["-l", &whole_seconds(time), "-c", "4", "-T", "1", "-q", "100", "-t", "2"]);
    let text = finish(&mut command)?;
    number_after(&text, "Queries per second:").map(|rate| rate / 1e3)
}

/// Datagrams that arrived, in thousands each second.
fn iperf_udp(site: &Site<'_>, time: Duration) -> Result<f64> {
    let mut command = site.client("iperf3");
    command.args(["-J", "-u", "-b", "0", "-l", "64", "-p", &IPERF.to_string(), "-t", &whole_seconds(time)]);
    command.args(["-c", &site.server.to_string()]);
    iperf_datagrams(&finish(&mut command)?)
}

/// What went over one stream, in Gbit/s.
fn quic(site: &Site<'_>, time: Duration, what: &str) -> Result<f64> {
    let directory = site.directory().context("the server's certificate")?;
    let mut command = site.client(&quic_program()?.display().to_string());
    command.args([what, &site.server.to_string(), &QUIC.to_string()]).arg(directory);
    let text = finish(command.arg(time.as_secs_f64().to_string()))?;
    number_after(&text, "bits per second:").map(|rate| rate / 1e9)
}

/// The example of `afnet-tests`, built beside this program.
pub fn quic_program() -> Result<PathBuf> {
    Ok(env::current_exe().context("path of this program")?.with_file_name("examples").join("quic"))
}

fn iperf_datagrams(text: &str) -> Result<f64> {
    let report: serde_json::Value = serde_json::from_str(text).context("iperf3's JSON")?;
    let sum = &report["end"]["sum"];
    let number = |name: &str| sum[name].as_f64().with_context(|| format!("no {name:?} in what iperf3 said"));
    let (packets, lost, seconds) = (number("packets")?, number("lost_packets")?, number("seconds")?);
    ensure!(packets > lost && seconds > 0.0, "nothing arrived: {packets} sent, {lost} lost");
    Ok((packets - lost) / seconds / 1e3)
}

/// The number that follows a word.
fn number_after(text: &str, word: &str) -> Result<f64> {
    let rest = text.split_once(word).map(|(_, rest)| rest.trim_start());
    let number =
        rest.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok());
    number.with_context(|| format!("no {word:?} in {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clients_say_is_understood() {
        let wrk =
            "Running 1s test @ http://192.0.2.1/\n  1 threads and 32 connections\nRequests/sec:  12345.50\n";
        assert!((wrk_rate(wrk).expect("a rate") - 12.3455).abs() < 1e-9);
        let failed = format!("{wrk}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert!(wrk_rate(&failed).is_err());
        let iperf = r#"{"end": {"sum_received": {"bits_per_second": 2.5e9}}}"#;
        assert!((iperf_rate(iperf).expect("a rate") - 2.5).abs() < 1e-9);
        assert!(iperf_rate("{}").is_err());
        let udp = r#"{"end": {"sum": {"packets": 3000, "lost_packets": 1000, "seconds": 2.0}}}"#;
        assert!((iperf_datagrams(udp).expect("a rate") - 1.0).abs() < 1e-9);
        let sockperf = "sockperf: ---> percentile 50.000 =   14.567\nsockperf: ---> <MIN>";
        assert!((number_after(sockperf, "percentile 50.000 =").expect("a time") - 14.567).abs() < 1e-9);
    }
}
