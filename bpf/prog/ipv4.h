/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv4: whose packet is it, and does the fast path want it?
 *
 *  1. header wrong                              -> pass
 *  2. IGMP                                      -> pass
 *     multicast, broadcast                      -> redirect if endpoints have joined, else pass
 *  3. owner of the destination; none, tentative, impossible source -> pass
 *  4. compartment with a raw endpoint           -> redirect
 *  5. options                                   -> pass
 *  6. fragment of UDP, the compartment has claims -> redirect
 *  7. UDP to a claimed port                     -> redirect
 *  8. ICMP error about a claimed flow           -> redirect (icmp.h)
 *  9. echo request to a fast-only address       -> reply by XDP_TX (icmp.h)
 * 10. anything else                             -> pass
 */
#ifndef AFNET_IPV4_H
#define AFNET_IPV4_H

#include "events.h"
#include "deliver.h"
#include "icmp.h"

/*
 * Multicast and broadcast; one to a subnet shows by the frame alone. What asks for an answer (ICMP)
 * is the kernel's. Only the source of somebody who has none yet may be 0.
 */
static __noinline int group4(struct xdp_md *xdp, __u32 vlan, __be32 to, __be32 from, __u8 protocol)
{
	struct afnet_key4 key = {.vlan = vlan, .addr = to};

	if (protocol == IPPROTO_ICMP || (from && ipv4_bad_source(from)) ||
	    !bpf_map_lookup_elem(&groups4, &key))
		return pass(ipv4_is_group(to) ? AFNET_PASS_MULTICAST : AFNET_PASS_GROUP_FRAME);
	return deliver_group(xdp);
}

static __always_inline int ipv4(struct xdp_md *xdp, void *data, void *end, const struct frame *f,
				bool group)
{
	const struct afnet_compartment *c;
	const struct afnet_address *owner;
	struct iphdr *ip = data + f->l3;
	struct udphdr *udp;
	__u32 first, slot, total, length;

	if ((void *)(ip + 1) > end)
		return pass_short(xdp);
	first = *(__u8 *)ip;
	total = bpf_ntohs(ip->tot_len);
	if (first >> 4 != 4 || (first & 15) < 5)
		return pass(AFNET_PASS_IPV4_HEADER);
	if (total < (first & 15) * 4 || !frame_has(xdp, f->l3 + total))
		return pass(AFNET_PASS_IPV4_LENGTH);
	if (ip->protocol == IPPROTO_IGMP)
		return igmp(xdp, f->l3, f->vlan, (first & 15) * 4, total);
	if (group || ipv4_is_group(ip->daddr))
		return group4(xdp, f->vlan, ip->daddr, ip->saddr, ip->protocol);

	owner = owner4(f->vlan, ip->daddr);
	if (!owner)
		return pass(AFNET_PASS_NOT_OURS);
	slot = owner->slot;
	c = bpf_map_lookup_elem(&compartments, &slot);
	if (!c)
		return pass(AFNET_PASS_NOT_OURS);
	if (owner->flags & AFNET_TENTATIVE)
		return pass_slot(slot, AFNET_PASS_TENTATIVE);
	if (ipv4_bad_source(ip->saddr))
		return pass_slot(slot, AFNET_PASS_BAD_SOURCE);
	/* The worker checks the sum of a header with options. */
	if (first == IPV4_PLAIN && !ipv4_checksum_ok(ip))
		return pass_slot(slot, AFNET_PASS_IPV4_CHECKSUM);
	if (c->flags & AFNET_RAW)
		return deliver(xdp, slot, c, AFNET_REDIRECT_RAW);
	if (first != IPV4_PLAIN)
		return pass_slot(slot, AFNET_PASS_IPV4_OPTIONS);
	if (ip->frag_off & IPV4_FRAGMENT) {
		if (ip->protocol == IPPROTO_UDP && c->shifts)
			return deliver(xdp, slot, c, AFNET_REDIRECT_FRAGMENT);
		return pass_slot(slot, AFNET_PASS_FRAGMENT);
	}
	if (ip->protocol == IPPROTO_ICMP)
		return icmp4(xdp, f->l3, f->vlan, slot, owner->flags);
	if (ip->protocol != IPPROTO_UDP)
		return pass_slot(slot, AFNET_PASS_PROTOCOL);

	udp = (void *)(ip + 1);
	if (total < sizeof(*ip) + sizeof(*udp))
		return pass_slot(slot, AFNET_PASS_UDP_LENGTH);
	if ((void *)(udp + 1) > end)
		return pass_short(xdp);
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) || length > total - sizeof(*ip))
		return pass_slot(slot, AFNET_PASS_UDP_LENGTH);
	if (!claimed(slot, c, bpf_ntohs(udp->dest)))
		return pass_slot(slot, AFNET_PASS_NO_CLAIM);
	return deliver(xdp, slot, c, AFNET_REDIRECT_UDP);
}

#endif
