//! Why this module refuses a packet: one table makes the enum, the counters' names and their help.
//!
//! [`net_drops!`] hands the table to another macro, so that the dataplane's counter table can embed it.

#![deny(unsafe_code)]

/// Calls `$then! { [$args] Variant "name" "help"; ... }` with every drop reason of this module, in the order of
/// [`Drop`]'s discriminants.
macro_rules! net_drops {
    ($then:ident $($args:tt)*) => {
        $then! { [$($args)*]
            Truncated "truncated" "the frame ends inside of a header";
            EtherType "ether_type" "neither IPv4 nor IPv6, or an unknown stack of VLAN tags";
            LinkGroup "link_group" "unicast IP packet in a broadcast or multicast frame (RFC 1122 3.3.6)";
            IpVersion "ip_version" "version field and Ethertype disagree";
            IpHeader "ip_header" "IPv4 header shorter than 20 bytes or malformed options (RFC 791 3.1)";
            IpLength "ip_length" "IP length outside of the frame or shorter than the header";
            IpChecksum "ip_checksum" "IPv4 header checksum is wrong (RFC 1122 3.2.1.2)";
            Source "source" "source address that no host may send from: multicast, loopback, 0/8, IPv4-mapped (RFC 1122 3.2.1.3)";
            SourceRoute "source_route" "source route option, or IPv6 routing header with segments left (RFC 5095, 7126)";
            Extension "extension" "IPv6 extension headers out of order, malformed, too many or with an option that says discard (RFC 8200 4.2)";
            Protocol "protocol" "not the protocol that was asked for";
            UdpLength "udp_length" "UDP length below 8 or beyond the IP payload (RFC 768)";
            UdpChecksum "udp_checksum" "UDP checksum is wrong (RFC 768, 8200 8.1)";
            UdpNoChecksum "udp_no_checksum" "UDP over IPv6 without a checksum (RFC 8200 8.1)";
            IcmpLength "icmp_length" "ICMP message shorter than its header";
            IcmpChecksum "icmp_checksum" "ICMP checksum is wrong";
            IcmpIgnored "icmp_ignored" "ICMP message that is no error about a datagram, or must be ignored (RFC 1122 3.2.2, 8201 4)";
            IcmpQuote "icmp_quote" "the packet that an ICMP error quotes is malformed or too short to name a flow";
            FragmentLength "fragment_length" "empty fragment, or one with more to follow whose length is no multiple of 8 (RFC 8200 4.5)";
            FragmentTooBig "fragment_too_big" "fragment that ends beyond 65535 bytes";
            FragmentHeader "fragment_header" "first fragment without the whole header chain (RFC 7112), or headers too long to keep";
            FragmentOverlap "fragment_overlap" "overlapping or contradicting fragment: the whole datagram is dropped (RFC 5722)";
            FragmentDead "fragment_dead" "further fragment of a datagram dropped before (RFC 5722)";
            FragmentDuplicate "fragment_duplicate" "exact copy of a fragment that is here already (RFC 8200 4.5)";
            FragmentCount "fragment_count" "more fragments than one datagram may have";
            FragmentEcn "fragment_ecn" "CE and Not-ECT fragments in one datagram (RFC 3168 5.3)";
            FragmentMemory "fragment_memory" "no reassembly memory for this fragment";
            FragmentEvicted "fragment_evicted" "unfinished datagram given up for a newer one";
            FragmentTimeout "fragment_timeout" "unfinished datagram given up after its time (RFC 1122 3.3.2, 8200 4.5)";
            TxLength "tx_length" "to send: does not fit into a datagram or its buffer";
            TxTooBig "tx_too_big" "to send: above the path MTU and not to be fragmented";
            TxAddress "tx_address" "to send: source and destination of different families, or no destination";
            TxMalformed "tx_malformed" "raw, to send: no valid IP packet";
            TxSource "tx_source" "raw, to send: source address is not the compartment's";
            TxProtocol "tx_protocol" "raw, to send: protocol that only the host speaks (IGMP, MLD, ND, redirects, router discovery)";
            RouteFull "route_full" "to send: too many packets wait for a route or a neighbour";
            RouteTimeout "route_timeout" "to send: no route or neighbour in time";
        }
    };
}
pub(crate) use net_drops;

macro_rules! define {
    ([] $($variant:ident $name:literal $help:literal;)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Drop {
            $(#[doc = $help] $variant,)*
        }

        impl Drop {
            /// Every reason, in the order of the discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Number of reasons.
            pub const COUNT: usize = Self::ALL.len();

            /// Name in counters and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line for a person.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}
net_drops!(define);

impl std::fmt::Display for Drop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.help())
    }
}

impl std::error::Error for Drop {}

#[cfg(test)]
mod tests {
    use super::Drop;

    #[test]
    fn names_are_unique_and_indices_dense() {
        let mut names: Vec<_> = Drop::ALL.iter().map(|d| d.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Drop::COUNT);
        assert!(Drop::ALL.iter().enumerate().all(|(i, d)| *d as usize == i && !d.help().is_empty()));
    }
}
