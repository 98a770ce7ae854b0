//! What a host says and hears, whatever the family: IGMP and MLD are the same protocol in two encodings.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

/// An address family with its protocol.
pub trait Family: Debug {
    /// Addresses of it.
    type Address: Copy + Ord + Hash + Debug;

    /// Whether membership of the group is to be told at all: not of all hosts' groups, nor of what never leaves a host.
    fn reported(group: Self::Address) -> bool;

    /// Reads an IP packet; `None`: not of this protocol, damaged, forged, or of no interest to a host.
    fn parse(packet: &[u8]) -> Option<Heard<Self::Address>>;

    /// Reads what a host says in an IP packet of its own, which may be cut: nobody else's, so no rule is checked.
    fn read(packet: &[u8]) -> Option<Message<Self::Address>>;

    /// The IP packets for a message, none longer than `mtu`. The source may be the unspecified address.
    fn build(message: &Message<Self::Address>, source: Self::Address, mtu: usize) -> Vec<Vec<u8>>;
}

/// Versions, old to new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// IGMPv1: nobody says that he leaves. MLD has nothing like it.
    Oldest,
    /// IGMPv2, MLDv1: no source filters; one report for a group is enough.
    Old,
    /// IGMPv3, MLDv2.
    Current,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<A> {
    /// Of which version.
    pub version: Version,
    /// Who asks.
    pub querier: A,
    /// For which group; for all.
    pub group: Option<A>,
    /// For which of its sources; none: for the group.
    pub sources: BTreeSet<A>,
    /// Answers are to come within this time.
    pub max_response: Duration,
    /// The querier's robustness variable, if it says.
    pub robustness: Option<u8>,
    /// Its query interval, if it says.
    pub interval: Option<Duration>,
}

/// What is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard<A> {
    /// A query.
    Query(Query<A>),
    /// Another host's report of an old version.
    Report(A),
}

/// Kinds of group records (RFC 3376 4.2.12, RFC 3810 5.2.12), with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// MODE_IS_INCLUDE.
    IsInclude = 1,
    /// MODE_IS_EXCLUDE.
    IsExclude = 2,
    /// CHANGE_TO_INCLUDE_MODE.
    ToInclude = 3,
    /// CHANGE_TO_EXCLUDE_MODE.
    ToExclude = 4,
    /// ALLOW_NEW_SOURCES.
    Allow = 5,
    /// BLOCK_OLD_SOURCES.
    Block = 6,
}

impl Kind {
    /// Whether it names all that is wanted from now on.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::IsExclude | Self::ToInclude | Self::ToExclude)
    }

    fn of(number: u8) -> Option<Self> {
        let all =
            [Self::IsInclude, Self::IsExclude, Self::ToInclude, Self::ToExclude, Self::Allow, Self::Block];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A group record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<A> {
    /// What it says.
    pub kind: Kind,
    /// Of which group.
    pub group: A,
    /// And which sources.
    pub sources: BTreeSet<A>,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<A> {
    /// A report of the current version.
    Report(Vec<Record<A>>),
    /// A report of an old one.
    OldReport(Version, A),
    /// Version [`Version::Old`]: the last one that has reported the group leaves it.
    Leave(A),
}

/// The same in fewer reports: each group has its say once.
pub fn joined<A>(said: Vec<Message<A>>) -> Vec<Message<A>> {
    let (mut all, mut records) = (Vec::new(), Vec::new());
    for message in said {
        match message {
            Message::Report(more) => records.extend(more),
            other => all.push(other),
        }
    }
    all.extend((!records.is_empty()).then_some(Message::Report(records)));
    all
}

/// Cuts records into those of packets with room for `room` bytes of records, each with a head of `head` bytes and sources of
/// `size`. Of a list that says what is not wanted only as much is said as fits into one packet, since a second record
/// would replace the first (RFC 3376 4.2.16); other lists go on in the next one.
pub(super) fn pack<A: Copy + Ord>(
    records: &[Record<A>],
    room: usize,
    head: usize,
    size: usize,
) -> Vec<Vec<Record<A>>> {
    let most = room.saturating_sub(head) / size;
    let mut packets: Vec<Vec<Record<A>>> = Vec::new();
    let mut left = 0;
    let mut put = |record: Record<A>| {
        let len = head + record.sources.len() * size;
        match packets.last_mut().filter(|_| len <= left) {
            Some(packet) => packet.push(record),
            None => {
                packets.push(vec![record]);
                left = room;
            }
        }
        left = left.saturating_sub(len);
    };
    for record in records {
        let sources: Vec<A> = record.sources.iter().copied().collect();
        let with = |sources: &[A]| Record { sources: sources.iter().copied().collect(), ..record.clone() };
        if sources.len() <= most {
            put(record.clone());
        } else if matches!(record.kind, Kind::IsExclude | Kind::ToExclude) {
            put(with(&sources[..most]));
        } else {
            sources.chunks(most.max(1)).for_each(|chunk| put(with(chunk)));
        }
    }
    packets
}

/// Records of addresses of `N` bytes: those that are there whole. What is of no known kind is skipped.
pub(super) fn unpack<A: Copy + Ord + From<[u8; N]>, const N: usize>(mut rest: &[u8]) -> Vec<Record<A>> {
    let mut records = Vec::new();
    while let Some([kind, auxiliary, high, low]) = rest.first_chunk() {
        let sources = usize::from(u16::from_be_bytes([*high, *low]));
        let end = 4 + N * (sources + 1);
        let Some((group, list)) = rest.get(4..end).and_then(<[u8]>::split_first_chunk) else { break };
        if let Some(kind) = Kind::of(*kind) {
            let sources = list.as_chunks::<N>().0.iter().map(|bytes| A::from(*bytes)).collect();
            records.push(Record { kind, group: A::from(*group), sources });
        }
        rest = rest.get(end + 4 * usize::from(*auxiliary)..).unwrap_or_default();
    }
    records
}

/// A number in the floating form of Max Resp Code and QQIC: below 2^(m+e) as it is, else a mantissa of `m` bits and an
/// exponent of 3 (RFC 3376 4.1.1, RFC 3810 5.1.3).
pub(super) fn float(code: u32, mantissa: u32) -> u32 {
    let limit = 1 << (mantissa + 3);
    if code < limit {
        return code;
    }
    let exponent = code >> mantissa & 7;
    (code & ((1 << mantissa) - 1) | 1 << mantissa) << (exponent + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_floating() {
        for (code, value) in [(0, 0), (100, 100), (127, 127), (0x80, 128), (0x8f, 248), (0xff, 31744)] {
            assert_eq!(float(code, 4), value, "{code:#x}");
        }
        for (code, value) in [(32767, 32767), (0x8000, 32768), (0xffff, 8_387_584)] {
            assert_eq!(float(code, 12), value, "{code:#x}");
        }
    }

    #[test]
    fn records_are_packed_and_cut_where_that_is_allowed() {
        let record = |kind, group: u8, sources: std::ops::Range<u8>| Record {
            kind,
            group,
            sources: sources.collect(),
        };
        let room = 8 + 10 * 4;
        let packed = pack(&[record(Kind::Allow, 1, 0..25), record(Kind::ToExclude, 2, 0..25)], room, 8, 4);
        let sizes: Vec<Vec<(u8, usize)>> =
            packed.iter().map(|p| p.iter().map(|r| (r.group, r.sources.len())).collect()).collect();
        assert_eq!(sizes, [vec![(1, 10)], vec![(1, 10)], vec![(1, 5)], vec![(2, 10)]]);
        let small: Vec<_> = (0..10).map(|group| record(Kind::IsExclude, group, 0..0)).collect();
        let packed = pack(&small, room, 8, 4);
        assert_eq!(packed.iter().map(Vec::len).collect::<Vec<_>>(), [6, 4]);
    }
}
