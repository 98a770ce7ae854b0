//! The membership machine beside the Linux kernel as a host: the same members, filters and queries, and what a router
//! learns from the one and from the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use afnet_control::multicast::igmp::Igmp;
use afnet_control::multicast::mld::Mld;
use afnet_control::multicast::{Family, Filter, Host, Limits, Message};
use afnet_control::system::membership::{self, Place};
use afnet_tests::membership::{Query, Router, Said, read};
use afnet_tests::netns::Netns;
use afnet_tests::packet::Mac;
use afnet_tests::veth::Veth;
use afnet_tests::wait;
use afnet_tests::wire::Wire;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const MEMBERS: u64 = 3;
const GROUPS: u8 = 2;
const SOURCES: u8 = 4;
const ROUTER_MAC: Mac = [2, 0xcc, 0, 0, 0, 1];
/// Steps of a sequence, and sequences of each family: each step takes as long as a report is repeated.
const STEPS: usize = 24;
const SEQUENCES: u64 = 4;

/// A family, by its addresses.
trait Known: Family<Address: Into<IpAddr>> + 'static {
    /// Current version, and the one before.
    const VERSIONS: (u8, u8);
    const ROUTER: &str;

    fn address(address: IpAddr) -> Self::Address;
    fn group(number: u8) -> IpAddr;
    fn source(number: u8) -> IpAddr;
}

impl Known for Igmp {
    const VERSIONS: (u8, u8) = (3, 2);
    const ROUTER: &str = "192.0.2.254";

    fn address(address: IpAddr) -> Ipv4Addr {
        if let IpAddr::V4(address) = address { address } else { panic!("not IPv4") }
    }

    fn group(number: u8) -> IpAddr {
        Ipv4Addr::new(239, 1, 1, number).into()
    }

    fn source(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, 100 + number).into()
    }
}

impl Known for Mld {
    const VERSIONS: (u8, u8) = (2, 1);
    const ROUTER: &str = "fe80::fe";

    fn address(address: IpAddr) -> Ipv6Addr {
        if let IpAddr::V6(address) = address { address } else { panic!("not IPv6") }
    }

    fn group(number: u8) -> IpAddr {
        Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 1, number.into()).into()
    }

    fn source(number: u8) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number.into()).into()
    }
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// A member wants this of a group.
    Want { member: u64, group: IpAddr, exclude: bool, sources: BTreeSet<IpAddr> },
    /// A router asks.
    Ask { version: u8, group: Option<IpAddr>, sources: Vec<IpAddr> },
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    fn small(&mut self, most: u8) -> u8 {
        u8::try_from(self.below(most.into())).unwrap_or(0)
    }
}

fn step<F: Known>(random: &mut Random, old: bool) -> Step {
    let group = F::group(random.small(GROUPS));
    let some = |random: &mut Random| -> BTreeSet<IpAddr> {
        (0..SOURCES).filter(|_| random.below(2) == 0).map(F::source).collect()
    };
    match random.below(10) {
        0..7 => Step::Want {
            member: random.below(MEMBERS),
            group,
            exclude: random.below(2) == 0,
            sources: some(random),
        },
        kind => Step::Ask {
            version: if old { F::VERSIONS.1 } else { F::VERSIONS.0 },
            group: (kind > 7).then_some(group),
            sources: if kind > 8 && !old { some(random).into_iter().collect() } else { Vec::new() },
        },
    }
}

/// The machine, in a time of its own.
struct Ours<F: Family> {
    host: Host<F>,
    now: Instant,
    random: Random,
}

impl<F: Known> Ours<F> {
    fn act(&mut self, step: &Step) -> Vec<Said> {
        let Self { host, now, random } = self;
        let mut said = Vec::new();
        let mut draw = || random.below(u64::MAX);
        let mut say = |messages: Vec<Message<F::Address>>| {
            let source = F::address(F::ROUTER.parse().unwrap());
            for packet in messages.iter().flat_map(|message| F::build(message, source, 1500)) {
                said.extend(read(&packet).expect("a proper message"));
            }
        };
        match step {
            Step::Want { member, group, exclude, sources } => {
                let list = sources.iter().map(|s| F::address(*s)).collect();
                let filter = if *exclude { Filter::Exclude(list) } else { Filter::Include(list) };
                say(host.listen(*member, F::address(*group), filter, *now, &mut draw).unwrap());
            }
            Step::Ask { .. } => {
                let heard = F::parse(&query::<F>(step).packet()).expect("a proper query");
                host.hear(&heard, *now, &mut draw);
            }
        }
        // All that is said of it, within the repetitions; not so long that the querier counts as gone.
        let end = *now + Duration::from_secs(12);
        while let Some(due) = host.due().filter(|due| *due <= end) {
            *now = due;
            say(host.timer(due, &mut draw));
        }
        said
    }
}

fn query<F: Known>(step: &Step) -> Query<'_> {
    let Step::Ask { version, group, sources } = step else { panic!("no query") };
    let from = F::ROUTER.parse().unwrap();
    Query { version: *version, from, group: *group, sources, response: 100, ttl: 1 }
}

/// The kernel, in a namespace.
struct Theirs {
    ns: Netns,
    _router: Netns,
    wire: Wire,
    ifindex: u32,
    sockets: BTreeMap<(u64, IpAddr), OwnedFd>,
}

impl Theirs {
    fn new() -> Self {
        let (ns, router) = (Netns::new("kernel-host"), Netns::new("kernel-router"));
        ns.sysctl("ipv4/igmp_max_msf", "64");
        Veth::default().bare().connect((&ns, "host0"), (&router, "router0"));
        for (key, value) in [
            ("ipv4/conf/host0/igmpv3_unsolicited_report_interval", "50"),
            ("ipv4/conf/host0/igmpv2_unsolicited_report_interval", "50"),
            ("ipv6/conf/host0/mldv2_unsolicited_report_interval", "50"),
            ("ipv6/conf/host0/mldv1_unsolicited_report_interval", "50"),
            ("ipv6/conf/host0/accept_dad", "0"),
        ] {
            ns.sysctl(key, value);
        }
        ns.ip("addr add 192.0.2.1/24 dev host0");
        let _ = ns.attempt("ip link set host0 up");
        let _ = router.attempt("ip link set router0 up");
        let link_local = || ns.ip("-6 addr show dev host0 scope link");
        if !link_local().contains("fe80") {
            ns.ip("addr add fe80::1/64 dev host0 nodad");
        }
        wait::until_true("a link-local address", || {
            link_local().contains("fe80") && !link_local().contains("tentative")
        });
        let (wire, ifindex) = (Wire::open(&router, "router0"), ns.ifindex("host0"));
        // When an interface comes up the kernel reports its IPv6 groups anew, and those that are joined meanwhile with
        // sources that it should not name.
        while wire.find(Duration::from_millis(2500), |frame| read(frame.get(14..)?)).is_some() {}
        Self { ns, _router: router, wire, ifindex, sockets: BTreeMap::new() }
    }

    fn act<F: Known>(&mut self, step: &Step) {
        let Self { ns, wire, ifindex, sockets, .. } = self;
        match step {
            Step::Ask { .. } => wire.send(&query::<F>(step).frame(ROUTER_MAC)),
            Step::Want { member, group, exclude, sources } => {
                let place: Place = (*ifindex, *group);
                let list: Vec<IpAddr> = sources.iter().copied().collect();
                if !exclude && list.is_empty() {
                    sockets.remove(&(*member, *group));
                } else if let Some(socket) = sockets.get(&(*member, *group)) {
                    membership::set_filter(socket, place, *exclude, &list).expect("set a filter");
                } else {
                    let family = if group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                    let new = ns.enter(|| {
                        let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
                        membership::enter(&socket, place, *exclude, &list).map(|()| socket)
                    });
                    sockets.insert((*member, *group), new.expect("join"));
                }
            }
        }
    }

    /// What is said next of our groups, if anything in time.
    fn hear<F: Known>(&self, time: Duration) -> Option<Vec<Said>> {
        let ours = |group: &IpAddr| (0..GROUPS).any(|n| F::group(n) == *group);
        self.wire.find(time, |frame| {
            let said = read(frame.get(14..)?)?;
            let about = said.into_iter().filter(|said| {
                let (Said::Record(_, group, _) | Said::Old(group) | Said::Leave(group)) = said;
                ours(group)
            });
            let about: Vec<Said> = about.collect();
            (!about.is_empty()).then_some(about)
        })
    }
}

/// What is answered to a query, and not said by itself.
fn answers(said: &[Said]) -> BTreeSet<Said> {
    said.iter().filter(|said| matches!(said, Said::Record(1 | 2, ..) | Said::Old(_))).cloned().collect()
}

/// Asked for sources of a group of which it wants all but some, the kernel tells all that it wants; RFC 3376 5.2 has it tell
/// which of those sources it wants.
fn in_kernels_words<F: Known>(step: &Step, wanted: &BTreeSet<Said>, host: &Host<F>) -> BTreeSet<Said> {
    let Step::Ask { group: Some(group), sources, .. } = step else { return wanted.clone() };
    match host.wanted(F::address(*group)) {
        Some(Filter::Exclude(excluded)) if !sources.is_empty() && !wanted.is_empty() => {
            let excluded = excluded.iter().map(|source| (*source).into()).collect();
            BTreeSet::from([Said::Record(2, *group, excluded)])
        }
        _ => wanted.clone(),
    }
}

fn compare<F: Known>(seed: u64, old: bool) {
    let mut theirs = Theirs::new();
    let limits = Limits { groups: 16, sources: 16 };
    let mut ours =
        Ours::<F> { host: Host::new(limits), now: Instant::now(), random: Random(seed ^ 0x5555_5555) };
    let (mut ours_known, mut theirs_known) = (Router::default(), Router::default());
    let mut random = Random(seed);
    let mut steps = Vec::new();
    if old {
        steps.push(Step::Ask { version: F::VERSIONS.1, group: None, sources: Vec::new() });
    }
    steps.extend((0..STEPS).map(|_| step::<F>(&mut random, old)));
    for (at, step) in steps.iter().enumerate() {
        let context = || format!("seed {seed}, old {old}, step {at} of {steps:#?}");
        let expected = ours.act(step);
        expected.iter().for_each(|said| ours_known.hear(said));
        theirs.act::<F>(step);
        let wanted = answers(&expected);
        let mut heard = Vec::new();
        let asked = matches!(step, Step::Ask { .. });
        // An old host's report may be another's repetition of what it has said before.
        let answered = in_kernels_words(step, &wanted, &ours.host);
        let done = |heard: &[Said], known: &Router| {
            *known == ours_known && (!asked || answers(heard).is_superset(&answered))
        };
        let end = Instant::now() + wait::PATIENCE;
        while !done(&heard, &theirs_known) && Instant::now() < end {
            for said in theirs.hear::<F>(Duration::from_millis(100)).into_iter().flatten() {
                theirs_known.hear(&said);
                heard.push(said);
            }
        }
        // Whatever follows changes nothing any more.
        while let Some(more) = theirs.hear::<F>(Duration::from_millis(80)) {
            more.iter().for_each(|said| theirs_known.hear(said));
            heard.extend(more);
        }
        assert_eq!(theirs_known, ours_known, "{}: {heard:#?} but ours {expected:#?}", context());
        if asked && !old {
            assert_eq!(answers(&heard), answered, "{}", context());
        }
        // And it is what the members want.
        if !old {
            let merged: BTreeMap<_, _> = (0..GROUPS)
                .filter_map(|n| {
                    let filter = ours.host.wanted(F::address(F::group(n))).filter(|f| !f.is_none())?;
                    let sources = filter.sources().iter().map(|s| (*s).into()).collect();
                    Some((F::group(n), (filter.excludes(), sources)))
                })
                .collect();
            assert_eq!(ours_known.0, merged, "{}", context());
        }
    }
}

fn all<F: Known>() {
    std::thread::scope(|scope| {
        for seed in 1..=SEQUENCES {
            for old in [false, true] {
                scope.spawn(move || compare::<F>(seed * 0x9e37_79b9, old));
            }
        }
    });
}

#[test]
fn igmp_is_that_of_the_kernel() {
    all::<Igmp>();
}

#[test]
fn mld_is_that_of_the_kernel() {
    all::<Mld>();
}
