/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Echo requests of ping sockets (and of raw ones that are allowed). Their sendto() passes no hook,
 * so the kernel gives them an address of the host; the program at the egress of the device and of
 * `lo` puts one of the compartment there.
 */
#ifndef AFNET_PING_H
#define AFNET_PING_H

#include <linux/if_ether.h>
#include <linux/icmpv6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include "source.h"

/* linux/icmp.h wants the C library. */
#define ICMP_ECHO 8

/* Devices whose egress runs the program. */
HASH(devices, __u32, __u8, 1 << 16);

static __always_inline bool chooses_source(__u32 ifindex)
{
	return bpf_map_lookup_elem(&devices, &ifindex);
}

/* Whether the packet, whose network header is at `offset`, is an echo request without fragment or
 * extension headers. */
static __always_inline bool echo_at(struct __sk_buff *skb, __u32 offset)
{
	__u8 version = 0, protocol = 0, type = 0;

	if (bpf_skb_load_bytes(skb, offset, &version, 1))
		return false;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, offset + offsetof(struct iphdr, protocol), &protocol,
				       1) ||
		    bpf_skb_load_bytes(skb, offset + (version & 15) * 4, &type, 1))
			return false;
		return protocol == IPPROTO_ICMP && type == ICMP_ECHO;
	}
	if (bpf_skb_load_bytes(skb, offset + offsetof(struct ipv6hdr, nexthdr), &protocol, 1) ||
	    bpf_skb_load_bytes(skb, offset + sizeof(struct ipv6hdr), &type, 1))
		return false;
	return protocol == IPPROTO_ICMPV6 && type == ICMPV6_ECHO_REQUEST;
}

/* Whether it can be ICMP at all: a look at a byte, for all the others that leave. */
static __always_inline bool may_be_icmp(struct __sk_buff *skb, bool four)
{
	void *l3 = (void *)(long)skb->data + ETH_HLEN, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip6 = l3;
	struct iphdr *ip = l3;

	if (four)
		return (void *)(ip + 1) > end || ip->protocol == IPPROTO_ICMP;
	return (void *)(ip6 + 1) > end || ip6->nexthdr == IPPROTO_ICMPV6;
}

SEC("tc")
int afnet_ping(struct __sk_buff *skb)
{
	bool four = skb->protocol == bpf_htons(ETH_P_IP);
	struct afnet_ip from = {}, to = {}, old;
	struct bpf_sock *sk = skb->sk;
	struct afnet_socket *s;
	__u32 l3 = ETH_HLEN;
	__u32 slot;

	if (!sk || (!four && skb->protocol != bpf_htons(ETH_P_IPV6)) || !may_be_icmp(skb, four))
		return TC_ACT_UNSPEC;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return TC_ACT_UNSPEC;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!s || !s->slot || !echo_at(skb, l3))
		return TC_ACT_UNSPEC;
	slot = s->slot;
	if (four) {
		old = ip4(0);
		to = ip4(0);
		if (bpf_skb_load_bytes(skb, l3 + offsetof(struct iphdr, saddr), &old.word[3], 4) ||
		    bpf_skb_load_bytes(skb, l3 + offsetof(struct iphdr, daddr), &to.word[3], 4))
			return TC_ACT_SHOT;
	} else if (bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6hdr, saddr), &old, 16) ||
		   bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6hdr, daddr), &to, 16)) {
		return TC_ACT_SHOT;
	}
	if (owner_of(&old) == slot)
		return TC_ACT_UNSPEC;
	if (!choose_source(slot, &to, skb->ifindex, &from)) {
		refused(slot, AFNET_DROP_EGRESS);
		return TC_ACT_SHOT;
	}
	if (four) {
		if (bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), old.word[3],
					from.word[3], 4) ||
		    bpf_skb_store_bytes(skb, l3 + offsetof(struct iphdr, saddr), &from.word[3], 4,
					0))
			return TC_ACT_SHOT;
	} else {
		__s64 difference = bpf_csum_diff(old.word, 16, from.word, 16, 0);

		if (bpf_l4_csum_replace(skb,
					l3 + sizeof(struct ipv6hdr) +
						offsetof(struct icmp6hdr, icmp6_cksum),
					0, difference, BPF_F_PSEUDO_HDR) ||
		    bpf_skb_store_bytes(skb, l3 + offsetof(struct ipv6hdr, saddr), &from, 16, 0))
			return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

#endif
