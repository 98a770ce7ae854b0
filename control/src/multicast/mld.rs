//! MLD in IPv6 (RFC 2710, RFC 3810): packets with hop limit 1 and a hop-by-hop header that holds Router Alert.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Duration;

use afnet_dataplane::net::{checksum, protocol};

use super::message::{Family, Heard, Message, Query, Record, Version, float, pack, unpack};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct Mld;

const QUERY: u8 = 130;
const REPORT_1: u8 = 131;
const DONE: u8 = 132;
const REPORT_2: u8 = 143;
/// IPv6 header and hop-by-hop header.
const HEADER: usize = 48;
/// Router Alert for MLD (RFC 2711), and a padding of two bytes.
const HOP_BY_HOP: [u8; 8] = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_MLDV2: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

impl Family for Mld {
    type Address = Ipv6Addr;

    /// RFC 3810 5.2.13, 6: not all nodes' group, not the scopes reserved and interface-local.
    fn reported(group: Ipv6Addr) -> bool {
        let scope = group.segments()[0] & 15;
        group.is_multicast() && scope > 1 && group != Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
    }

    fn parse(packet: &[u8]) -> Option<Heard<Ipv6Addr>> {
        let (source, to, message) = split(packet)?;
        let len = u16::try_from(message.len()).ok()?;
        let pseudo = checksum::pseudo(&source.octets(), &to.octets(), protocol::ICMPV6, len);
        // RFC 3810 5.1.14: anybody's but a link-local address is a forgery (an old report may have none: RFC 3590).
        let local = source.is_unicast_link_local();
        if !checksum::is_valid(pseudo + checksum::sum(message)) || message[1] != 0 {
            return None;
        }
        let group = Ipv6Addr::from(*message.get(8..)?.first_chunk::<16>()?);
        let code = u16::from_be_bytes([message[4], message[5]]);
        match (message[0], message.len()) {
            (REPORT_1, 24..) if local || source.is_unspecified() => {
                group.is_multicast().then_some(Heard::Report(group))
            }
            (QUERY, len) if local && (group.is_unspecified() || group.is_multicast()) => {
                let mut query = Query {
                    version: Version::Old,
                    querier: source,
                    group: (!group.is_unspecified()).then_some(group),
                    sources: BTreeSet::new(),
                    max_response: Duration::from_millis(code.into()),
                    robustness: None,
                    interval: None,
                };
                if len == 24 {
                    return Some(Heard::Query(query));
                }
                let [flags, interval] = *message.get(24..)?.first_chunk()?;
                let [high, low] = *message.get(26..)?.first_chunk()?;
                let count = usize::from(u16::from_be_bytes([high, low]));
                let sources = message.get(28..28 + 16 * count)?.as_chunks::<16>().0;
                query.version = Version::Current;
                query.sources = sources.iter().map(|b| Ipv6Addr::from(*b)).collect();
                query.max_response = Duration::from_millis(float(code.into(), 12).into());
                query.robustness = Some(flags & 7);
                query.interval = Some(Duration::from_secs(float(interval.into(), 4).into()));
                Some(Heard::Query(query))
            }
            _ => None,
        }
    }

    fn read(packet: &[u8]) -> Option<Message<Ipv6Addr>> {
        let fixed: &[u8; 40] = packet.first_chunk()?;
        let (mut next, mut at) = (fixed[6], 40);
        if next == 0 {
            let [after, len] = *packet.get(at..)?.first_chunk()?;
            (next, at) = (after, at + 8 + 8 * usize::from(len));
        }
        let message = packet.get(at..)?;
        let group = || message.get(8..)?.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
        match (fixed[0] >> 4, next, *message.first()?) {
            (6, protocol::ICMPV6, REPORT_1) => Some(Message::OldReport(Version::Old, group()?)),
            (6, protocol::ICMPV6, DONE) => Some(Message::Leave(group()?)),
            (6, protocol::ICMPV6, REPORT_2) => Some(Message::Report(unpack(message.get(8..)?))),
            _ => None,
        }
    }

    fn build(message: &Message<Ipv6Addr>, source: Ipv6Addr, mtu: usize) -> Vec<Vec<u8>> {
        let simple = |kind, to: Ipv6Addr, group: Ipv6Addr| {
            let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat();
            vec![packet(source, to, message)]
        };
        match message {
            Message::OldReport(_, group) => simple(REPORT_1, *group, *group),
            Message::Leave(group) => simple(DONE, ALL_ROUTERS, *group),
            Message::Report(records) => pack(records, mtu.saturating_sub(HEADER + 8), 20, 16)
                .iter()
                .map(|records| packet(source, ALL_MLDV2, report(records)))
                .collect(),
        }
    }
}

/// Source, destination and message of a packet with hop limit 1 and Router Alert (RFC 2710 3, RFC 3810 6.2).
fn split(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr, &[u8])> {
    let fixed: &[u8; 40] = packet.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let payload = packet.get(40..40 + len)?;
    let address = |at: usize| fixed[at..].first_chunk::<16>().map(|b| Ipv6Addr::from(*b));
    let options = 8 + 8 * usize::from(*payload.get(1)?);
    if fixed[0] >> 4 != 6 || fixed[6] != 0 || fixed[7] != 1 || payload[0] != protocol::ICMPV6 {
        return None;
    }
    if !alert(payload.get(2..options)?) {
        return None;
    }
    let message = &payload[options..];
    (message.len() >= 24).then_some((address(8)?, address(24)?, message))
}

/// Whether there is a Router Alert for MLD among options.
fn alert(mut options: &[u8]) -> bool {
    loop {
        match options {
            [5, 2, value @ ..] => return value.first_chunk() == Some(&[0, 0]),
            [0, rest @ ..] => options = rest,
            [_, len, rest @ ..] if usize::from(*len) <= rest.len() => options = &rest[usize::from(*len)..],
            _ => return false,
        }
    }
}

fn report(records: &[Record<Ipv6Addr>]) -> Vec<u8> {
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    let mut message = vec![REPORT_2, 0, 0, 0, 0, 0];
    message.extend(count(records.len()));
    for Record { kind, group, sources } in records {
        message.extend([*kind as u8, 0]);
        message.extend(count(sources.len()));
        message.extend(group.octets());
        sources.iter().for_each(|source| message.extend(source.octets()));
    }
    message
}

fn packet(source: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let pseudo = checksum::pseudo(&source.octets(), &to.octets(), protocol::ICMPV6, len);
    let sum = checksum::finish(pseudo + checksum::sum(&message));
    message[2..4].copy_from_slice(&sum);
    // Version, length, hop-by-hop options next, hop limit 1.
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.saturating_add(8).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(HOP_BY_HOP);
    packet.extend(message);
    packet
}

#[cfg(test)]
mod tests {
    use super::super::message::Kind;
    use super::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 7);
    const SOURCE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    fn query(from: Ipv6Addr, code: u16, group: Ipv6Addr, rest: &[u8]) -> Vec<u8> {
        let [high, low] = code.to_be_bytes();
        let message = [&[QUERY, 0, 0, 0, high, low, 0, 0][..], &group.octets(), rest].concat();
        packet(from, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), message)
    }

    fn heard(packet: &[u8]) -> Option<Query<Ipv6Addr>> {
        match Mld::parse(packet)? {
            Heard::Query(query) => Some(query),
            Heard::Report(_) => None,
        }
    }

    #[test]
    fn queries_are_told_apart_by_length() {
        let first = heard(&query(ROUTER, 10_000, Ipv6Addr::UNSPECIFIED, &[])).unwrap();
        assert_eq!(
            (first.version, first.group, first.max_response),
            (Version::Old, None, Duration::from_secs(10))
        );
        let rest = [&[0x0a, 0x8f, 0, 1][..], &SOURCE.octets()].concat();
        let second = heard(&query(ROUTER, 0x8000, GROUP, &rest)).unwrap();
        assert_eq!((second.version, second.group), (Version::Current, Some(GROUP)));
        assert_eq!((second.max_response, second.robustness), (Duration::from_millis(32768), Some(2)));
        assert_eq!((second.interval, second.sources), (Some(Duration::from_secs(248)), [SOURCE].into()));
        // 25 to 27 bytes are of no version (RFC 3810 8.1).
        assert_eq!(heard(&query(ROUTER, 1, GROUP, &[0, 0, 0])), None);
        assert_eq!(heard(&query(ROUTER, 1, GROUP, &[0, 0, 0, 9])), None);
    }

    #[test]
    fn what_is_forged_or_damaged_is_not_heard() {
        let good = query(ROUTER, 100, GROUP, &[2, 125, 0, 0]);
        assert!(heard(&good).is_some());
        assert_eq!(heard(&query(SOURCE, 100, GROUP, &[2, 125, 0, 0])), None, "not link-local");
        assert_eq!(heard(&query(ROUTER, 100, SOURCE, &[2, 125, 0, 0])), None, "no group");
        for len in 0..good.len() {
            assert_eq!(Mld::parse(&good[..len]), None, "cut to {len}");
        }
        // All but traffic class and flow label.
        for at in (4..good.len()).filter(|at| *at != 46 && *at != 47) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert_eq!(Mld::parse(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn reports_have_the_form_of_the_rfcs() {
        let record = Record { kind: Kind::ToExclude, group: GROUP, sources: [SOURCE].into() };
        let said = Message::Report(vec![record]);
        let [report] = &Mld::build(&said, ROUTER, 1500)[..] else { panic!() };
        assert_eq!(Mld::read(report), Some(said));
        assert_eq!(Mld::read(&report[..91]), Some(Message::Report(vec![])), "cut");
        assert_eq!(report[..8], [0x60, 0, 0, 0, 0, 52, 0, 1]);
        assert_eq!(report[24..48], [&ALL_MLDV2.octets()[..], &[58, 0, 5, 2, 0, 0, 1, 0]].concat());
        let body = [&[0, 0, 0, 1, 4, 0, 0, 1][..], &GROUP.octets(), &SOURCE.octets()].concat();
        assert_eq!((report[48], &report[52..]), (143, &body[..]));
        let old = Mld::build(&Message::OldReport(Version::Old, GROUP), Ipv6Addr::UNSPECIFIED, 1500);
        assert_eq!((old[0][48], &old[0][24..40]), (131, &GROUP.octets()[..]));
        assert_eq!(Mld::parse(&old[0]), Some(Heard::Report(GROUP)));
        let done = Mld::build(&Message::Leave(GROUP), ROUTER, 1500);
        assert_eq!((done[0][48], &done[0][24..40]), (132, &ALL_ROUTERS.octets()[..]));
        assert_eq!(Mld::read(&old[0]), Some(Message::OldReport(Version::Old, GROUP)));
        assert_eq!(Mld::read(&done[0]), Some(Message::Leave(GROUP)));
        for (group, told) in [
            ("ff02::1", false),
            ("ff01::5", false),
            ("ff00::5", false),
            ("ff02::2", true),
            ("ff02::1:ff00:1", true),
        ] {
            assert_eq!(Mld::reported(group.parse().unwrap()), told, "{group}");
        }
    }
}
