//! A veth pair between two namespaces.

use crate::{netns::Netns, xdp_pass};

/// What a pair shall be like; [`Veth::connect`] makes it. It lives as long as its namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Veth {
    queues: u32,
    mtu: u32,
    passing: bool,
}

impl Default for Veth {
    fn default() -> Self {
        Self { queues: 1, mtu: 1500, passing: true }
    }
}

impl Veth {
    /// RX and TX queues of each end (the kernel's default, one for each CPU, would differ by machine).
    pub fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    /// MTU of both ends in bytes.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Without an XDP program at the right end: the test attaches its own.
    pub fn bare(mut self) -> Self {
        self.passing = false;
        self
    }

    /// Makes the pair, `left_name` in `left` and `right_name` in `right`, both up, IPv6 without DAD, and
    /// without checksum or segmentation offload: what either kernel sends is as on a wire. The right end is the
    /// peer's: it gets an XDP program that passes everything, see [`crate::xdp_pass`] (unless [`Self::bare`]).
    ///
    /// # Panics
    /// If the kernel refuses.
    #[track_caller]
    pub fn connect(self, (left, left_name): (&Netns, &str), (right, right_name): (&Netns, &str)) {
        let Self { queues, mtu, passing } = self;
        let end = |name: &str| format!("{name} mtu {mtu} numrxqueues {queues} numtxqueues {queues}");
        left.ip(&format!(
            "link add {} type veth peer {} netns {}",
            end(left_name),
            end(right_name),
            right.name()
        ));
        for (ns, name) in [(left, left_name), (right, right_name)] {
            ns.sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0");
            ns.sysctl(&format!("ipv6/conf/{name}/router_solicitations"), "0");
            ns.run(&format!("ethtool -K {name} rx off tx off tso off gso off gro off"));
            ns.ip(&format!("link set {name} up"));
        }
        if passing {
            let ifindex = right.ifindex(right_name);
            right.enter(|| xdp_pass::attach(ifindex)).expect("attach an XDP program to the peer's end");
        }
    }
}
