/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * UDP at the ingress of devices: reading headers, and finding sockets.
 */
#ifndef AFNET_UDP_H
#define AFNET_UDP_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include "names.h"

/* Finds a UDP socket by where the kernel has it. */
static __always_inline struct bpf_sock *find_udp(struct __sk_buff *skb,
						 const struct afnet_ip *anchor,
						 const struct afnet_ip *from, __be16 port,
						 __be16 from_port)
{
	struct bpf_sock_tuple tuple = {};

	if (is_ip4(anchor)) {
		tuple.ipv4.saddr = from->word[3];
		tuple.ipv4.daddr = anchor->word[3];
		tuple.ipv4.sport = from_port;
		tuple.ipv4.dport = port;
		return bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	__builtin_memcpy(tuple.ipv6.saddr, from, sizeof(tuple.ipv6.saddr));
	__builtin_memcpy(tuple.ipv6.daddr, anchor, sizeof(tuple.ipv6.daddr));
	tuple.ipv6.sport = from_port;
	tuple.ipv6.dport = port;
	return bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/* What a packet says of a UDP port of ours. */
struct flow {
	struct afnet_ip ours;
	struct afnet_ip theirs;
	__be16 port;
	__be16 their_port;
	bool whole; /* no fragment, no quotation */
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

/* Reads a UDP packet, or the first fragment of one, whose network header is at `l3`; of one that an
 * ICMP error quotes, the source is ours. */
static __always_inline bool read_udp(struct __sk_buff *skb, void *l3, void *end, bool quoted,
				     struct flow *flow)
{
	struct udphdr *udp;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = l3;

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP ||
		    ip->frag_off & bpf_htons(0x1fff))
			return false;
		flow->whole = !(ip->frag_off & bpf_htons(0x3fff)) && !quoted;
		flow->ours = ip4(quoted ? ip->saddr : ip->daddr);
		flow->theirs = ip4(quoted ? ip->daddr : ip->saddr);
		udp = l3 + ip->ihl * 4;
	} else {
		struct ipv6hdr *ip = l3;
		struct fragment_header *fragment = (void *)(ip + 1);

		if ((void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(&flow->ours, quoted ? &ip->saddr : &ip->daddr, 16);
		__builtin_memcpy(&flow->theirs, quoted ? &ip->daddr : &ip->saddr, 16);
		udp = (void *)(ip + 1);
		flow->whole = ip->nexthdr != IPPROTO_FRAGMENT && !quoted;
		if (ip->nexthdr == IPPROTO_FRAGMENT) {
			if ((void *)(fragment + 1) > end || fragment->next != IPPROTO_UDP ||
			    fragment->offset & bpf_htons(0xfff8))
				return false;
			udp = (void *)(fragment + 1);
		} else if (ip->nexthdr != IPPROTO_UDP) {
			return false;
		}
	}
	if ((void *)(udp + 1) > end)
		return false;
	flow->port = quoted ? udp->source : udp->dest;
	flow->their_port = quoted ? udp->dest : udp->source;
	return true;
}

#endif
