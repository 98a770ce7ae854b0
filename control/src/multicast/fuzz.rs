//! What the fuzz targets `igmp` and `mld` of `tests/fuzz` run: any bytes are read as a packet, and a host that has heard it
//! keeps its promises.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::{Family, Filter, Heard, Host, Limits, Message};
use super::{igmp::Igmp, mld::Mld};

const MTU: usize = 1280;

/// IGMP.
pub fn igmp(packet: &[u8]) {
    hear::<Igmp>(packet, Ipv4Addr::new(239, 0, 0, 1), Ipv4Addr::UNSPECIFIED);
}

/// MLD.
pub fn mld(packet: &[u8]) {
    hear::<Mld>(packet, Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::UNSPECIFIED);
}

/// # Panics
/// If a promise is broken.
fn hear<F: Family>(packet: &[u8], group: F::Address, source: F::Address) {
    if let Some(Message::Report(records)) = F::read(packet) {
        // What is believed of the kernel never takes more than its packet.
        let sources: usize = records.iter().map(|record| 1 + record.sources.len()).sum();
        assert!(sources * 4 <= packet.len());
    }
    let Some(heard) = F::parse(packet) else { return };
    let (start, mut next) = (Instant::now(), 1u64);
    let mut random = || {
        next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        next >> 8
    };
    let mut host = Host::<F>::new(Limits::default());
    let mut groups = vec![group];
    if let Heard::Query(query) = &heard {
        groups.extend(query.group);
    }
    for (member, group) in (0..).zip(groups) {
        let joined = host.listen(member, group, Filter::all(), start, &mut random);
        assert!(joined.is_ok(), "{joined:?}");
    }
    host.hear(&heard, start, &mut random);
    let slowest = match &heard {
        Heard::Query(query) => query.max_response,
        Heard::Report(_) => Duration::ZERO,
    };
    let mut said = 0;
    while let Some(due) = host.due() {
        for message in host.timer(due, &mut random) {
            said += 1;
            assert!(said <= 16, "it does not stop: {message:?}");
            // Answers in time, repetitions soon: RFC 3376 5.1, 5.2.
            assert!(due <= start + slowest.max(Duration::from_secs(20)), "{message:?} late");
            for packet in F::build(&message, source, MTU) {
                assert!(packet.len() <= MTU);
                if let Message::OldReport(_, group) = message {
                    assert_eq!(F::parse(&packet), Some(Heard::Report(group)));
                }
            }
        }
    }
}
