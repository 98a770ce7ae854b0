// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Early demux at the device: the decision ladder. For each frame, in this order; anything unknown
 * is passed to the kernel, and each frame counts exactly one verdict (include/counters.h).
 *
 *  1. Ethernet, up to two VLAN tags: the realm                          parse.h
 *     unicast frame to another MAC address                      -> pass
 *  2. ARP                                                               arp.h
 *     request for an address of ours                            -> reply (XDP_TX)
 *     somebody else uses an address of ours                     -> conflict event, pass
 *  3. neighbour solicitation and advertisement, likewise                nd.h
 *  4. IGMP, MLD                                                 -> pass; queries to the daemon too
 *     multicast, broadcast that endpoints have joined           -> AF_XDP socket of slot 0
 *  5. unicast to an address of ours: compartment, claim                 ipv4.h ipv6.h icmp.h
 * icmp6.h claimed                                                   -> AF_XDP socket (deliver.h)
 *     echo request to an address that only the fast path has    -> reply (XDP_TX)
 *  6. everything else                                           -> pass
 *
 * Cost of a claimed UDP datagram: an address hash, a claim hash, a redirect; no clock unless the
 * compartment is limited. Everything rarer is in functions of its own (__noinline), out of the way
 * of that path.
 *
 * VLAN tags must be in the frame: a device that strips them (or a veth peer that keeps them aside)
 * needs `ethtool -K DEV rxvlan off` (`-K PEER txvlan off`), or tagged frames look untagged.
 * And veth wakes the other end for XDP_TX only if that end runs an XDP program too (one that passes
 * everything will do; GRO alone makes it poll, but leaves our answers in the ring until something
 * else wakes it).
 */
#include "parse.h"
#include "arp.h"
#include "ipv4.h"
#include "ipv6.h"
#include "local.h"
#include "speak.h"

SEC("xdp")
int afnet_demux(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	struct ethhdr *eth = data;
	struct frame f = {.l3 = sizeof(*eth)};
	bool group;

	if ((void *)(eth + 1) > end)
		return pass_short(xdp);
	group = eth->h_dest[0] & 1;
	if (!group && mac_number(eth->h_dest) != device_mac)
		return pass(AFNET_PASS_OTHER_MAC);
	/* On its way to sockets already: in generic mode such frames come by here as well. */
	if (group && *(__be16 *)eth->h_dest == bpf_htons(AFNET_MAC_COPY))
		return pass(AFNET_PASS_MULTICAST);

	f.ethertype = eth->h_proto;
	if (is_tag(f.ethertype)) {
		switch (parse_tags(data, end, &f)) {
		case TAGS_OK:
			break;
		case TAGS_SHORT:
			return pass_short(xdp);
		default:
			return pass(AFNET_PASS_VLAN);
		}
	}
	if (f.ethertype == bpf_htons(ETH_P_IP))
		return ipv4(xdp, data, end, &f, group);
	if (f.ethertype == bpf_htons(ETH_P_IPV6))
		return ipv6(xdp, data, end, &f, group);
	if (f.ethertype == bpf_htons(ETH_P_ARP))
		return arp(xdp, f.l3, f.vlan);
	return pass(AFNET_PASS_ETHERTYPE);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
