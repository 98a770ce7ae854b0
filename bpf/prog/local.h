/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Local delivery: what this host sends to an address of a compartment comes by the loopback device,
 * where no XDP program of the device sees it. This one does, at the ingress of `lo`, and moves what
 * the fast path wants into the host link, whose other end a worker reads. All else goes on to the
 * kernel's own sockets.
 *
 *  1. no host link, not IPv4/IPv6, extension headers, options -> kernel
 *  2. destination in the untagged realm; none, tentative      -> kernel
 *  3. raw compartment (but for IGMP, ND, MLD)                 -> host link
 *  4. UDP to a claimed port, or its fragment                  -> host link
 *  5. ICMP error about a claimed flow                         -> host link
 *
 * Loopback says nothing of VLANs, so tagged realms are not reached by this way: their datagrams
 * arrive at the kernel socket that every claim has. Packets longer than the host link's MTU go
 * there as well.
 */
#ifndef AFNET_LOCAL_H
#define AFNET_LOCAL_H

#include <linux/pkt_cls.h>
#include "icmp.h"
#include "icmp6.h"

/* "Next program", and for a clsact filter "as if there were none". */
#define LOCAL_NEXT TC_ACT_UNSPEC

/* Whether the compartment wants the packet whose transport header is at `l4`. */
static __always_inline bool local_wants4(const struct iphdr *ip, void *end, __u32 slot,
					 const struct afnet_compartment *c)
{
	struct udphdr *udp = (void *)(ip + 1);
	struct icmp_header *icmp = (void *)(ip + 1);
	struct iphdr *quoted = (void *)(icmp + 1);
	struct ports *ports = (void *)(quoted + 1);

	if (c->flags & AFNET_RAW)
		return ip->protocol != IPPROTO_IGMP;
	if (ip->protocol == IPPROTO_UDP && ip->frag_off & IPV4_FRAGMENT)
		return c->shifts;
	if (ip->protocol == IPPROTO_UDP)
		return (void *)(udp + 1) <= end && claimed(slot, c, bpf_ntohs(udp->dest));
	return ip->protocol == IPPROTO_ICMP && !(ip->frag_off & IPV4_FRAGMENT) &&
	       (void *)(ports + 1) <= end && icmp4_is_error(icmp->type) &&
	       *(__u8 *)quoted == IPV4_PLAIN && quoted->protocol == IPPROTO_UDP &&
	       quoted->saddr == ip->daddr && claimed(slot, c, bpf_ntohs(ports->source));
}

static __always_inline bool local_wants6(const struct ipv6hdr *ip, void *end, __u32 slot,
					 const struct afnet_compartment *c)
{
	struct udphdr *udp = (void *)(ip + 1);
	struct icmp_header *icmp = (void *)(ip + 1);
	struct ipv6hdr *quoted = (void *)(icmp + 1);
	struct ports *ports = (void *)(quoted + 1);

	if ((void *)(icmp + 1) > end)
		return false;
	if (c->flags & AFNET_RAW)
		return ip->nexthdr != IPPROTO_ICMPV6 ||
		       !(icmp6_is_nd(icmp->type) || icmp6_is_mld(icmp->type));
	if (ip->nexthdr == IPPROTO_FRAGMENT)
		return *(__u8 *)(ip + 1) == IPPROTO_UDP && c->shifts;
	if (ip->nexthdr == IPPROTO_UDP)
		return claimed(slot, c, bpf_ntohs(udp->dest));
	return ip->nexthdr == IPPROTO_ICMPV6 && (void *)(ports + 1) <= end &&
	       icmp6_is_error(icmp->type) && quoted->nexthdr == IPPROTO_UDP &&
	       ipv6_equal(quoted->saddr.in6_u.u6_addr32, ip->daddr.in6_u.u6_addr32) &&
	       claimed(slot, c, bpf_ntohs(ports->source));
}

SEC("tc")
int afnet_local(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct afnet_address *owner;
	const struct afnet_compartment *c;
	struct ipv6hdr *ip6 = data + ETH_HLEN;
	struct iphdr *ip = data + ETH_HLEN;
	__u32 slot, length = 0, link = host_ifindex;

	if (!link)
		return LOCAL_NEXT;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if ((void *)(ip + 1) > end || *(__u8 *)ip != IPV4_PLAIN)
			return LOCAL_NEXT;
		owner = owner4(0, ip->daddr);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if ((void *)(ip6 + 1) > end)
			return LOCAL_NEXT;
		owner = owner6(0, ip6->daddr.in6_u.u6_addr32);
	} else {
		return LOCAL_NEXT;
	}
	if (!owner || owner->flags & AFNET_TENTATIVE)
		return LOCAL_NEXT;
	slot = owner->slot;
	c = bpf_map_lookup_elem(&compartments, &slot);
	if (!c)
		return LOCAL_NEXT;
	if (skb->protocol == bpf_htons(ETH_P_IP) ? !local_wants4(ip, end, slot, c)
						 : !local_wants6(ip6, end, slot, c))
		return LOCAL_NEXT;
	if (bpf_check_mtu(skb, link, &length, 0, 0))
		return LOCAL_NEXT;
	count_slot(slot, AFNET_LOCAL);
	return bpf_redirect(link, 0);
}

#endif
