/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv6: whose packet is it, and does the fast path want it?
 *
 * ipv6() handles what there is most of, UDP without extension headers; ipv6_other() handles the
 * rest:
 *
 *  1. extension headers cut short, out of order, too many -> pass
 *  2. MLD; NS and NA (nd.h); other neighbour discovery    -> pass
 *  3. multicast                                           -> redirect if endpoints have joined
 *  4. owner of the destination; none, tentative, impossible source -> pass
 *  5. compartment with a raw endpoint                     -> redirect
 *  6. routing header with segments left, AH               -> pass
 *  7. fragment of UDP, the compartment has claims         -> redirect
 *  8. UDP to a claimed port                               -> redirect
 *  9. ICMPv6 error about a claimed flow                   -> redirect
 * 10. echo request to a fast-only address                 -> reply by XDP_TX
 * 11. anything else                                       -> pass
 */
#ifndef AFNET_IPV6_H
#define AFNET_IPV6_H

#include "deliver.h"
#include "icmp6.h"
#include "nd.h"

/* UDP at `offset`, the packet ending at `packet_end` by its IPv6 payload length. */
static __always_inline int udp6(struct xdp_md *xdp, void *data, void *end, __u32 offset,
				__u32 packet_end, __u32 slot, const struct afnet_compartment *c)
{
	struct udphdr *udp = data + offset;
	__u32 length;

	if (offset + sizeof(*udp) > packet_end)
		return pass_slot(slot, AFNET_PASS_UDP_LENGTH);
	if ((void *)(udp + 1) > end)
		return pass_short(xdp);
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) || length > packet_end - offset)
		return pass_slot(slot, AFNET_PASS_UDP_LENGTH);
	if (!claimed(slot, c, bpf_ntohs(udp->dest)))
		return pass_slot(slot, AFNET_PASS_NO_CLAIM);
	return deliver(xdp, slot, c, AFNET_REDIRECT_UDP);
}

/* Whether endpoints have joined the group. */
static __noinline bool joined6(__u32 vlan, const __be32 *group)
{
	struct afnet_key6 key = {.vlan = vlan, .addr = {group[0], group[1], group[2], group[3]}};

	return bpf_map_lookup_elem(&groups6, &key);
}

/* Not static, for the verifier's sake (chain.h). */
__noinline int ipv6_other(struct xdp_md *xdp, __u32 offset_l3, __u32 vlan, bool group)
{
	__u64 l3 = to_bound(offset_l3);
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	struct chain chain = {.offset = l3 + sizeof(struct ipv6hdr)};
	const struct afnet_compartment *c;
	const struct afnet_address *owner;
	__u32 slot, packet_end, offset;
	struct ipv6hdr *ip;
	__u8 *type = NULL;

	if (l3 > L3_MAX)
		return pass(AFNET_PASS_VLAN);
	ip = data + l3;
	if ((void *)(ip + 1) > end)
		return pass_short(xdp);
	packet_end = l3 + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	chain.protocol = ip->nexthdr;
	switch (walk_chain(xdp, &chain)) {
	case CHAIN_OK:
		break;
	case CHAIN_SHORT:
		return pass_short(xdp);
	default:
		return pass(AFNET_PASS_IPV6_CHAIN);
	}
	offset = chain.offset;
	if (offset > CHAIN_END || offset > packet_end)
		return pass(AFNET_PASS_IPV6_CHAIN);

	if (chain.protocol == IPPROTO_ICMPV6 && !(chain.seen & SEEN_LATER)) {
		if (offset + 8 > packet_end)
			return pass(AFNET_PASS_IPV6_LENGTH);
		type = data + offset;
		if ((void *)type + 8 > end)
			return pass_short(xdp);
		if (icmp6_is_mld(*type)) {
			if (mld_concerns(*type))
				tell_membership(xdp, l3, vlan, packet_end - l3);
			return pass(AFNET_PASS_MLD);
		}
		if (icmp6_is_nd(*type) && chain.seen & SEEN_FRAGMENT)
			return pass(AFNET_PASS_ND_FRAGMENT);
		if (*type == ND_NS || *type == ND_NA) {
			struct nd nd = {
				.l3 = l3,
				.vlan = vlan,
				.offset = offset,
				.length = packet_end - offset,
			};

			return nd_receive(xdp, &nd);
		}
		if (icmp6_is_nd(*type))
			return pass(AFNET_PASS_ND_OTHER);
	}
	if (ipv6_is_group(ip->daddr.in6_u.u6_addr32)) {
		if (chain.protocol == IPPROTO_ICMPV6 || chain.seen & (SEEN_ROUTING | SEEN_AH) ||
		    ipv6_bad_source(ip->saddr.in6_u.u6_addr32) ||
		    !joined6(vlan, ip->daddr.in6_u.u6_addr32))
			return pass(AFNET_PASS_MULTICAST);
		return deliver_group(xdp);
	}
	if (group)
		return pass(AFNET_PASS_GROUP_FRAME);

	owner = owner6(vlan, ip->daddr.in6_u.u6_addr32);
	if (!owner)
		return pass(AFNET_PASS_NOT_OURS);
	slot = owner->slot;
	c = bpf_map_lookup_elem(&compartments, &slot);
	if (!c)
		return pass(AFNET_PASS_NOT_OURS);
	if (owner->flags & AFNET_TENTATIVE)
		return pass_slot(slot, AFNET_PASS_TENTATIVE);
	if (ipv6_bad_source(ip->saddr.in6_u.u6_addr32))
		return pass_slot(slot, AFNET_PASS_BAD_SOURCE);
	if (c->flags & AFNET_RAW)
		return deliver(xdp, slot, c, AFNET_REDIRECT_RAW);
	if (chain.seen & SEEN_ROUTING)
		return pass_slot(slot, AFNET_PASS_ROUTING);
	if (chain.seen & SEEN_AH)
		return pass_slot(slot, AFNET_PASS_AH);
	if (chain.seen & SEEN_PIECE) {
		if (chain.protocol == IPPROTO_UDP && c->shifts)
			return deliver(xdp, slot, c, AFNET_REDIRECT_FRAGMENT);
		return pass_slot(slot, AFNET_PASS_FRAGMENT);
	}
	if (chain.protocol == IPPROTO_UDP)
		return udp6(xdp, data, end, offset, packet_end, slot, c);
	if (chain.protocol != IPPROTO_ICMPV6 || !type)
		return pass_slot(slot, AFNET_PASS_PROTOCOL);
	if (*type == ICMP6_ECHO_REQUEST) {
		/* An answer in place would send the extension headers back. */
		if (owner->flags & AFNET_FAST_ONLY && !chain.seen)
			return icmp6_echo(xdp, l3, slot);
		return pass_slot(slot, AFNET_PASS_ICMP);
	}
	if (!icmp6_is_error(*type))
		return pass_slot(slot, AFNET_PASS_ICMP);

	struct quote quote = {.vlan = vlan, .offset = offset + 8, .end = packet_end};

	return icmp6_error(xdp, &quote, slot);
}

static __always_inline int ipv6(struct xdp_md *xdp, void *data, void *end, const struct frame *f,
				bool group)
{
	const struct afnet_compartment *c;
	const struct afnet_address *owner;
	struct ipv6hdr *ip = data + f->l3;
	__u32 slot, packet_end;

	if ((void *)(ip + 1) > end)
		return pass_short(xdp);
	packet_end = f->l3 + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (*(__u8 *)ip >> 4 != 6)
		return pass(AFNET_PASS_IPV6_HEADER);
	if (!frame_has(xdp, packet_end))
		return pass(AFNET_PASS_IPV6_LENGTH);
	if (ip->nexthdr != IPPROTO_UDP || group || ipv6_is_group(ip->daddr.in6_u.u6_addr32))
		return ipv6_other(xdp, f->l3, f->vlan, group);

	owner = owner6(f->vlan, ip->daddr.in6_u.u6_addr32);
	if (!owner)
		return pass(AFNET_PASS_NOT_OURS);
	slot = owner->slot;
	c = bpf_map_lookup_elem(&compartments, &slot);
	if (!c)
		return pass(AFNET_PASS_NOT_OURS);
	if (owner->flags & AFNET_TENTATIVE)
		return pass_slot(slot, AFNET_PASS_TENTATIVE);
	if (ipv6_bad_source(ip->saddr.in6_u.u6_addr32))
		return pass_slot(slot, AFNET_PASS_BAD_SOURCE);
	if (c->flags & AFNET_RAW)
		return deliver(xdp, slot, c, AFNET_REDIRECT_RAW);
	return udp6(xdp, data, end, f->l3 + sizeof(*ip), packet_end, slot, c);
}

#endif
