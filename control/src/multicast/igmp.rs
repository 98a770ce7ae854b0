//! IGMP in IPv4 (RFC 1112 appendix I, RFC 2236, RFC 3376): packets with TTL 1, precedence Internetwork Control and the
//! Router Alert option.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use afnet_dataplane::net::{checksum, protocol};

use super::message::{Family, Heard, Message, Query, Record, Version, float, pack, unpack};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct Igmp;

const QUERY: u8 = 0x11;
const REPORT_1: u8 = 0x12;
const REPORT_2: u8 = 0x16;
const LEAVE: u8 = 0x17;
const REPORT_3: u8 = 0x22;
/// IPv4 header with Router Alert (RFC 2113).
const HEADER: usize = 24;
const ALERT: [u8; 4] = [0x94, 4, 0, 0];
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ALL_IGMPV3: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
/// RFC 1112: hosts answer within 10 s.
const OLDEST_RESPONSE: Duration = Duration::from_secs(10);
/// Head of a report, and of a record in it.
const HEAD: usize = 8;

impl Family for Igmp {
    type Address = Ipv4Addr;

    fn reported(group: Ipv4Addr) -> bool {
        group.is_multicast() && group != Ipv4Addr::new(224, 0, 0, 1)
    }

    fn parse(packet: &[u8]) -> Option<Heard<Ipv4Addr>> {
        let (header, message) = split(packet)?;
        let word = |at: usize| message.get(at..).and_then(<[u8]>::first_chunk).map(|b| Ipv4Addr::from(*b));
        if !checksum::is_valid(checksum::sum(message)) {
            return None;
        }
        let group = word(4)?;
        match (message[0], message.len()) {
            (REPORT_1 | REPORT_2, 8..) => group.is_multicast().then_some(Heard::Report(group)),
            (QUERY, 8) if message[1] == 0 => Some(Heard::Query(old(
                Version::Oldest,
                header.source,
                Ipv4Addr::UNSPECIFIED,
                OLDEST_RESPONSE,
            ))),
            // RFC 2236 9, RFC 3376 9.1: without Router Alert, or from beyond a router, it is forged.
            (QUERY, len) if header.alert && header.ttl == 1 && sane(group) => {
                let response = u64::from(float(message[1].into(), 4)) * 100;
                let response = Duration::from_millis(response);
                if len == 8 {
                    return Some(Heard::Query(old(Version::Old, header.source, group, response)));
                }
                let [flags, interval] = *message.get(8..)?.first_chunk()?;
                let [high, low] = *message.get(10..)?.first_chunk()?;
                let count = usize::from(u16::from_be_bytes([high, low]));
                let sources = message.get(12..12 + 4 * count)?.as_chunks().0;
                Some(Heard::Query(Query {
                    version: Version::Current,
                    querier: header.source,
                    group: (!group.is_unspecified()).then_some(group),
                    sources: sources.iter().map(|b| Ipv4Addr::from(*b)).collect(),
                    max_response: response,
                    robustness: Some(flags & 7),
                    interval: Some(Duration::from_secs(float(interval.into(), 4).into())),
                }))
            }
            _ => None,
        }
    }

    fn read(packet: &[u8]) -> Option<Message<Ipv4Addr>> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let message = packet.get(usize::from(fixed[0] & 15) * 4..)?;
        let group = Ipv4Addr::from(*message.get(4..)?.first_chunk::<4>()?);
        match (fixed[0] >> 4, fixed[9], message[0]) {
            (4, protocol::IGMP, REPORT_1) => Some(Message::OldReport(Version::Oldest, group)),
            (4, protocol::IGMP, REPORT_2) => Some(Message::OldReport(Version::Old, group)),
            (4, protocol::IGMP, LEAVE) => Some(Message::Leave(group)),
            (4, protocol::IGMP, REPORT_3) => Some(Message::Report(unpack(message.get(HEAD..)?))),
            _ => None,
        }
    }

    fn build(message: &Message<Ipv4Addr>, source: Ipv4Addr, mtu: usize) -> Vec<Vec<u8>> {
        let simple = |kind, to: Ipv4Addr, group: Ipv4Addr| {
            let [a, b, c, d] = group.octets();
            vec![packet(source, to, vec![kind, 0, 0, 0, a, b, c, d])]
        };
        match message {
            Message::OldReport(Version::Oldest, group) => simple(REPORT_1, *group, *group),
            Message::OldReport(_, group) => simple(REPORT_2, *group, *group),
            Message::Leave(group) => simple(LEAVE, ALL_ROUTERS, *group),
            Message::Report(records) => pack(records, mtu.saturating_sub(HEADER + HEAD), HEAD, 4)
                .iter()
                .map(|records| packet(source, ALL_IGMPV3, report(records)))
                .collect(),
        }
    }
}

/// What matters of an IPv4 header.
struct Header {
    source: Ipv4Addr,
    ttl: u8,
    alert: bool,
}

fn split(packet: &[u8]) -> Option<(Header, &[u8])> {
    let fixed: &[u8; 20] = packet.first_chunk()?;
    let len = usize::from(fixed[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let header = packet.get(20..len).map(|_| &packet[..len])?;
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
    if fixed[0] >> 4 != 4
        || fixed[9] != protocol::IGMP
        || fragment
        || !checksum::is_valid(checksum::sum(header))
    {
        return None;
    }
    let source = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
    let message = packet.get(len..total)?;
    (message.len() >= 8).then(|| (Header { source, ttl: fixed[8], alert: alert(&header[20..]) }, message))
}

/// Whether there is a Router Alert among options.
fn alert(mut options: &[u8]) -> bool {
    loop {
        match options {
            [0x94, 4, ..] => return options.len() >= 4,
            [1, rest @ ..] => options = rest,
            [kind, len, ..] if *kind != 0 && *len >= 2 && usize::from(*len) <= options.len() => {
                options = &options[usize::from(*len)..];
            }
            _ => return false,
        }
    }
}

/// What a query may name.
fn sane(group: Ipv4Addr) -> bool {
    group.is_unspecified() || group.is_multicast()
}

fn old(version: Version, querier: Ipv4Addr, group: Ipv4Addr, max_response: Duration) -> Query<Ipv4Addr> {
    Query {
        version,
        querier,
        group: (!group.is_unspecified()).then_some(group),
        sources: BTreeSet::new(),
        max_response,
        robustness: None,
        interval: None,
    }
}

fn report(records: &[Record<Ipv4Addr>]) -> Vec<u8> {
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    let mut message = vec![REPORT_3, 0, 0, 0, 0, 0];
    message.extend(count(records.len()));
    for Record { kind, group, sources } in records {
        message.extend([*kind as u8, 0]);
        message.extend(count(sources.len()));
        message.extend(group.octets());
        sources.iter().for_each(|source| message.extend(source.octets()));
    }
    message
}

fn packet(source: Ipv4Addr, to: Ipv4Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum::finish(checksum::sum(&message));
    message[2..4].copy_from_slice(&sum);
    let total = u16::try_from(HEADER + message.len()).unwrap_or(u16::MAX);
    // Version and length, TOS, no identification and no fragments, TTL 1.
    let mut packet = vec![0x46, 0xc0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 1, protocol::IGMP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(ALERT);
    let sum = checksum::finish(checksum::sum(&packet));
    packet[10..12].copy_from_slice(&sum);
    packet.extend(message);
    packet
}

#[cfg(test)]
mod tests {
    use super::super::message::Kind;
    use super::*;

    const ME: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

    /// A query as a kernel bridge sends it, from its parts.
    fn query(code: u8, group: Ipv4Addr, rest: &[u8]) -> Vec<u8> {
        let [a, b, c, d] = group.octets();
        let message = [&[QUERY, code, 0, 0, a, b, c, d][..], rest].concat();
        packet(ME, Ipv4Addr::new(224, 0, 0, 1), message)
    }

    fn heard(packet: &[u8]) -> Option<Query<Ipv4Addr>> {
        match Igmp::parse(packet)? {
            Heard::Query(query) => Some(query),
            Heard::Report(_) => None,
        }
    }

    #[test]
    fn queries_are_told_apart_by_length_and_code() {
        let none = Ipv4Addr::UNSPECIFIED;
        let first = heard(&query(0, none, &[])).unwrap();
        assert_eq!((first.version, first.max_response), (Version::Oldest, Duration::from_secs(10)));
        let second = heard(&query(100, GROUP, &[])).unwrap();
        assert_eq!((second.version, second.group), (Version::Old, Some(GROUP)));
        assert_eq!(second.max_response, Duration::from_secs(10));
        let rest = [&[0x0a, 125, 0, 2][..], &ME.octets(), &[10, 0, 0, 1]].concat();
        let third = heard(&query(0x8f, GROUP, &rest)).unwrap();
        assert_eq!((third.version, third.max_response), (Version::Current, Duration::from_millis(24_800)));
        assert_eq!((third.robustness, third.interval), (Some(2), Some(Duration::from_secs(125))));
        assert_eq!(third.sources, [ME, Ipv4Addr::new(10, 0, 0, 1)].into());
        // 9 to 11 bytes are of no version (RFC 3376 7.1); a count beyond the message is none.
        assert_eq!(heard(&query(1, none, &[0, 0, 0])), None);
        assert_eq!(heard(&query(1, none, &[0, 0, 0, 9])), None);
    }

    #[test]
    fn what_is_forged_or_damaged_is_not_heard() {
        let good = query(100, GROUP, &[2, 125, 0, 0]);
        assert!(heard(&good).is_some());
        for len in 0..good.len() {
            assert_eq!(Igmp::parse(&good[..len]), None, "cut to {len}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert_eq!(Igmp::parse(&bad), None, "byte {at}");
        }
        let mut far = good.clone();
        // TTL 2, and the checksum for it.
        (far[8], far[10]) = (2, far[10].wrapping_sub(1));
        assert_eq!(heard(&far), None);
    }

    #[test]
    fn reports_have_the_form_of_the_rfcs() {
        let record = Record { kind: Kind::ToExclude, group: GROUP, sources: [ME].into() };
        let said = Message::Report(vec![record]);
        let [report] = &Igmp::build(&said, ME, 1500)[..] else { panic!() };
        assert_eq!(Igmp::read(report), Some(said));
        assert_eq!(Igmp::read(&report[..43]), Some(Message::Report(vec![])), "cut");
        let wanted = [
            0x46, 0xc0, 0, 44, 0, 0, 0x40, 0, 1, 2, report[10], report[11], 192, 0, 2, 9, 224, 0, 0, 22,
            0x94, 4, 0, 0, 0x22, 0, report[26], report[27], 0, 0, 0, 1, 4, 0, 0, 1, 239, 1, 2, 3, 192, 0, 2,
            9,
        ];
        assert_eq!(report[..], wanted);
        assert!(
            checksum::is_valid(checksum::sum(&report[..24]))
                && checksum::is_valid(checksum::sum(&report[24..]))
        );
        for (version, kind) in [(Version::Oldest, 0x12), (Version::Old, 0x16)] {
            let [report] = &Igmp::build(&Message::OldReport(version, GROUP), ME, 1500)[..] else { panic!() };
            assert_eq!((report[24], &report[16..20]), (kind, &GROUP.octets()[..]));
            assert_eq!(Igmp::parse(report), Some(Heard::Report(GROUP)));
            assert_eq!(Igmp::read(report), Some(Message::OldReport(version, GROUP)));
        }
        let [leave] = &Igmp::build(&Message::Leave(GROUP), ME, 1500)[..] else { panic!() };
        assert_eq!((leave[24], &leave[16..20]), (0x17, &[224, 0, 0, 2][..]));
        assert_eq!(Igmp::read(leave), Some(Message::Leave(GROUP)));
        let many: BTreeSet<Ipv4Addr> = (0..2000u32).map(Ipv4Addr::from).collect();
        let record = Record { kind: Kind::Allow, group: GROUP, sources: many };
        let packets = Igmp::build(&Message::Report(vec![record]), ME, 1500);
        assert!(packets.len() == 6 && packets.iter().all(|p| p.len() <= 1500));
    }
}
