/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's own membership reports, where the daemon speaks for the host: the program at the
 * egress of the device takes them and hands them to the daemon, for which the kernel is a member
 * among others.
 *
 *  1. neither report nor leave of IGMP or MLD                    -> out
 *  2. the daemon has not said for a while that it is there       -> out
 *  3. tagged, from another MAC address, from the daemon's socket -> out
 *  4. from a program's socket: not what the kernel wants         -> dropped
 *  5. all else                         -> the ring `memberships`, and no further
 *
 * Of a report that is too long for the ring the daemon gets what fits, of one too many nothing: it
 * reads the kernel's lists, too.
 */
#ifndef AFNET_SPEAK_H
#define AFNET_SPEAK_H

#include <linux/pkt_cls.h>
#include "events.h"

/* linux/socket.h has no families. */
#define AF_INET6 10

/* Whether a host says it of itself: not a query, which a router on this host may send. */
static __always_inline bool igmp_is_hosts(__u8 type)
{
	return type == 0x12 || type == 0x16 || type == 0x17 || type == 0x22;
}

static __always_inline bool mld_is_hosts(__u8 type)
{
	return type == 131 || type == 132 || type == 143;
}

/* Of the kernel's own there is a hop-by-hop header with Router Alert; options in any other place
 * are nobody's who keeps to the rules. */
static __noinline bool is_mld_report(struct __sk_buff *skb, __u8 next)
{
	__u32 at = ETH_HLEN + sizeof(struct ipv6hdr);
	__u8 hop[2] = {}, type = 0;

	if (next == IPPROTO_HOPOPTS) {
		if (bpf_skb_load_bytes(skb, at, hop, sizeof(hop)))
			return false;
		next = hop[0];
		at += 8 * (hop[1] + 1);
	}
	return next == IPPROTO_ICMPV6 && !bpf_skb_load_bytes(skb, at, &type, 1) &&
	       mld_is_hosts(type);
}

static __noinline bool is_igmp_report(struct __sk_buff *skb, __u32 header)
{
	__u8 type = 0;

	return !bpf_skb_load_bytes(skb, ETH_HLEN + header, &type, 1) && igmp_is_hosts(type);
}

/* Whether the kernel itself may have made it up: IGMP has no socket, MLD one that is as a program's
 * raw IPv6 socket. */
static __always_inline bool is_kernels(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return true;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->family == AF_INET6 && skb->protocol == bpf_htons(ETH_P_IPV6);
}

/* Hands over the packet of `length` bytes, or as much as there is room for. */
static __noinline int take_report(struct __sk_buff *skb)
{
	struct afnet_packet *packet = bpf_ringbuf_reserve(&memberships, sizeof(*packet), 0);
	__u64 rest = to_bound(skb->len - ETH_HLEN - 1);

	if (!packet) {
		count(AFNET_MEMBERSHIP_LOST);
		return TC_ACT_SHOT;
	}
	if (rest > AFNET_PACKET_MAX - 1)
		rest = AFNET_PACKET_MAX - 1;
	barrier_var(rest);
	packet->vlan = 0;
	packet->flags = AFNET_PACKET_KERNELS;
	packet->length = rest + 1;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, packet->bytes, rest + 1)) {
		bpf_ringbuf_discard(packet, 0);
		count(AFNET_MEMBERSHIP_LOST);
		return TC_ACT_SHOT;
	}
	bpf_ringbuf_submit(packet, 0);
	count(AFNET_TAKE_REPORT);
	return TC_ACT_SHOT;
}

SEC("tc")
int afnet_speak(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	bool report = false, ours;

	/* What the kernel makes up lies in one piece. */
	if ((void *)(ip + 1) > end)
		return TC_ACT_UNSPEC;
	ours = mac_number(eth->h_source) == device_mac;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (ip->protocol == IPPROTO_IGMP)
			report = is_igmp_report(skb, (*(__u8 *)ip & 15) * 4);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end) {
		if (ip6->nexthdr == IPPROTO_HOPOPTS || ip6->nexthdr == IPPROTO_ICMPV6)
			report = is_mld_report(skb, ip6->nexthdr);
	}
	if (!report || !ours || skb->vlan_present || bpf_ktime_get_ns() >= speaks_until ||
	    bpf_get_socket_cookie(skb) == speaker)
		return TC_ACT_UNSPEC;
	if (!is_kernels(skb)) {
		count(AFNET_DROP_REPORT);
		return TC_ACT_SHOT;
	}
	return take_report(skb);
}

#endif
