//! Runs frames through the program by BPF_PROG_TEST_RUN. Needs root, and fails without.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod frames;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use afnet_abi::vlan::Vlan;
use afnet_bpf::{AddressEntry, CompartmentConfig, Counter, Demux, DemuxConfig, Event, Limits, Membership};
use libbpf_rs::libbpf_sys;

/// Our MAC address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The other host's.
pub const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// enum xdp_action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// What one frame did.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub bytes: Vec<u8>,
    /// Every counter that changed, and by how much.
    pub counters: BTreeMap<Counter, u64>,
}

/// A loaded program with some compartments. Slot 1 has claims and sockets, slot 2 is raw, slot 3 has sockets and
/// no claims, slot 4 has claims and no socket.
pub struct Bench {
    pub demux: Demux,
    /// AF_XDP sockets of slots 1 to 3 on queue 0; unbound, which is enough for the redirect's verdict.
    _sockets: Vec<OwnedFd>,
}

/// Port that slots 1 and 4 have claimed.
pub const PORT: u16 = 5353;
/// A block of ports that slot 1 has claimed: first port and number.
pub const BLOCK: (u16, u16) = (1000, 1000);

/// Who owns what: address, slot, tentative, fast-only.
pub const ADDRESSES: [(&str, u32, bool, bool); 16] = [
    ("192.0.2.1", 1, false, false),
    ("192.0.2.11", 1, false, false),
    ("192.0.2.2", 2, false, false),
    ("192.0.2.3", 3, false, false),
    ("192.0.2.4", 4, false, false),
    ("192.0.2.5", 1, true, false),
    ("192.0.2.6", 1, false, true),
    ("2001:db8::1", 1, false, false),
    ("2001:db8::11", 1, false, false),
    ("2001:db8::2", 2, false, false),
    ("2001:db8::3", 3, false, false),
    ("2001:db8::4", 4, false, false),
    ("2001:db8::5", 1, true, false),
    ("2001:db8::6", 1, false, true),
    ("20.30|2001:db8::2030", 1, false, false),
    ("7|192.0.2.77", 1, false, false),
];

pub fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Bench {
    /// Untagged unless the text starts with a VLAN: `7|192.0.2.9`.
    pub fn new(frags: bool) -> Self {
        let limits = Limits { compartments: 16, addresses: 256, prefixes: 16, claims: 256, groups: 16 };
        Self::with(&DemuxConfig { ifindex: 1, mac: MAC, queues: 2, frags, limits })
    }

    pub fn with(config: &DemuxConfig) -> Self {
        let demux = Demux::load(config).expect("load the program (needs root)");
        let sockets = demux.sockets().expect("sockets");
        let mut held = Vec::new();
        for slot in 1..=4 {
            let raw = slot == 2;
            demux.set_compartment(slot, CompartmentConfig { raw, ..Default::default() }).unwrap();
            if slot != 4 {
                let socket = xdp_socket();
                sockets.set(slot, 0, socket.as_fd()).expect("put a socket into the map");
                held.push(socket);
            }
        }
        let socket = xdp_socket();
        sockets.set(0, 0, socket.as_fd()).expect("put a socket into the map");
        held.push(socket);
        for slot in [1, 4] {
            demux.insert_claim(slot, 17, PORT, 1).unwrap();
        }
        demux.insert_claim(1, 17, BLOCK.0, BLOCK.1).unwrap();
        let bench = Self { demux, _sockets: held };
        for (text, slot, tentative, fast_only) in ADDRESSES {
            bench.own(text, AddressEntry { slot, tentative, fast_only });
        }
        bench
    }

    pub fn own(&self, text: &str, entry: AddressEntry) {
        let (vlan, text) = text.split_once('|').unwrap_or(("none", text));
        self.demux.insert_address(vlan.parse().unwrap(), addr(text), entry).unwrap();
    }

    pub fn counters(&self) -> Vec<u64> {
        self.demux.counters().expect("counters")
    }

    /// Runs one frame, all of it in the first buffer.
    pub fn run(&self, frame: &[u8]) -> Outcome {
        let before = self.counters();
        let (verdict, bytes, _) = self.raw_run(frame, None, 1).expect("BPF_PROG_TEST_RUN");
        let after = self.counters();
        let counters = Counter::all()
            .map(|c| (c, after[c as usize] - before[c as usize]))
            .filter(|(_, delta)| *delta != 0)
            .collect();
        Outcome { verdict, bytes, counters }
    }

    /// Runs a frame `repeat` times, its first buffer `linear` bytes long if given. Verdict, bytes out, time for
    /// each.
    pub fn raw_run(
        &self,
        frame: &[u8],
        linear: Option<u32>,
        repeat: i32,
    ) -> std::io::Result<(Verdict, Vec<u8>, Duration)> {
        let mut out = vec![0; frame.len() + 512];
        let mut context = libbpf_sys::xdp_md { data_end: linear.unwrap_or(0), ..Default::default() };
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
            data_in: frame.as_ptr().cast(),
            data_size_in: u32::try_from(frame.len()).unwrap(),
            data_out: out.as_mut_ptr().cast(),
            data_size_out: u32::try_from(out.len()).unwrap(),
            repeat,
            ..Default::default()
        };
        if linear.is_some() {
            options.ctx_in = (&raw const context).cast();
            options.ctx_size_in = u32::try_from(size_of_val(&context)).unwrap();
            options.ctx_out = (&raw mut context).cast();
            options.ctx_size_out = options.ctx_size_in;
        }
        let fd = self.demux.program_fd().as_raw_fd();
        // SAFETY: all buffers are as long as the options say and live across the call.
        let answer = unsafe { libbpf_sys::bpf_prog_test_run_opts(fd, &raw mut options) };
        if answer < 0 {
            return Err(std::io::Error::from_raw_os_error(-answer));
        }
        out.truncate(options.data_size_out as usize);
        let verdict = match options.retval {
            0 => Verdict::Aborted,
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Tx,
            4 => Verdict::Redirect,
            other => panic!("verdict {other}"),
        };
        Ok((verdict, out, Duration::from_nanos(options.duration.into())))
    }

    /// The frame is passed or redirected unchanged, and counts `counter` and nothing else.
    #[track_caller]
    pub fn expect(&self, what: &str, frame: &[u8], verdict: Verdict, counter: Counter) {
        let outcome = self.run(frame);
        let counters = BTreeMap::from([(counter, 1)]);
        assert_eq!(outcome, Outcome { verdict, bytes: frame.to_vec(), counters }, "{what}");
    }

    #[track_caller]
    pub fn expect_pass(&self, what: &str, frame: &[u8], counter: Counter) {
        self.expect(what, frame, Verdict::Pass, counter);
    }

    /// The frame is answered with `answer`, and counts `counter` and nothing else.
    #[track_caller]
    pub fn expect_answer(&self, what: &str, frame: &[u8], answer: &[u8], counter: Counter) {
        let outcome = self.run(frame);
        let counters = BTreeMap::from([(counter, 1)]);
        assert_eq!(outcome, Outcome { verdict: Verdict::Tx, bytes: answer.to_vec(), counters }, "{what}");
    }

    /// The packets of IGMP and MLD since the last call.
    pub fn memberships(&mut self) -> Vec<Membership> {
        let mut all = Vec::new();
        while self.demux.memberships().drain(|m| all.push(m)).expect("the ring") {}
        all
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.demux.events().drain(|event| events.push(event)).expect("events") {}
        events
    }
}

/// An AF_XDP socket that is not bound to anything.
pub fn xdp_socket() -> OwnedFd {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "AF_XDP socket: {}", std::io::Error::last_os_error());
    // SAFETY: just opened, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub const UNTAGGED: Vlan = Vlan::NONE;
