/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMPv6 to an address of ours: errors go to the flow that they quote, echo requests to an address
 * that the kernel does not have are answered (RFC 4443 4.2).
 */
#ifndef AFNET_ICMP6_H
#define AFNET_ICMP6_H

#include "chain.h"
#include "deliver.h"
#include "icmp.h"

/* Types (RFC 4443 4). */
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY   129

/* Where the packet that an error quotes is; on the stack of the caller. */
struct quote {
	__u32 vlan;
	__u32 offset; /* of the quoted IPv6 header */
	__u32 end;    /* of the error, by its IPv6 payload length */
};

/* MLDv1 query, report, done (RFC 2710), MLDv2 report (RFC 3810). */
static __always_inline bool icmp6_is_mld(__u8 type)
{
	return (type >= 130 && type <= 132) || type == 143;
}

/* RS, RA, NS, NA, redirect (RFC 4861), inverse discovery (RFC 3122), SEND's path (RFC 3971). */
static __always_inline bool icmp6_is_nd(__u8 type)
{
	return (type >= 133 && type <= 137) || type == 141 || type == 142 || type == 148 ||
	       type == 149;
}

/* Unreachable, too big, time exceeded, parameter problem (RFC 4443 3). */
static __always_inline bool icmp6_is_error(__u8 type)
{
	return type >= 1 && type <= 4;
}

/* Turns the echo request around in place: swapping the addresses leaves the sum as it is. */
static __noinline int icmp6_echo(struct xdp_md *xdp, __u32 l3, __u32 slot)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	const struct afnet_compartment *c = bpf_map_lookup_elem(&compartments, &slot);
	struct ipv6hdr *ip = data + l3;
	struct icmp_header *icmp = (void *)(ip + 1);
	struct in6_addr addr;
	__u16 *type, before;

	if ((void *)((struct ethhdr *)data + 1) > end || (void *)(icmp + 1) > end)
		return pass_short(xdp);
	if (icmp->code)
		return pass_slot(slot, AFNET_PASS_ICMP);
	if (c && !take_token(slot, c)) {
		count_slot(slot, AFNET_DROP_RATE);
		return XDP_DROP;
	}
	swap_macs(data);
	addr = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = addr;
	ip->hop_limit = ANSWER_TTL;
	type = (__u16 *)&icmp->type;
	before = *type;
	icmp->type = ICMP6_ECHO_REPLY;
	replace_sum(&icmp->checksum, before, *type);
	count_slot(slot, AFNET_TX_ECHO);
	return XDP_TX;
}

/* An error to an address of `slot`: is the quoted packet one that a claimed port of the same
 * compartment sent? */
__noinline int icmp6_error(struct xdp_md *xdp, struct quote *quote, __u32 slot)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	const struct afnet_compartment *c;
	const struct afnet_address *owner;
	struct ipv6hdr *quoted;
	struct chain chain = {};
	struct ports *ports;
	__u32 offset;

	if (!quote || quote->offset > CHAIN_END)
		return pass_slot(slot, AFNET_PASS_ICMP);
	quoted = data + quote->offset;
	if ((void *)(quoted + 1) > end || quoted->version != 6)
		return pass_slot(slot, AFNET_PASS_ICMP);
	chain.offset = quote->offset + sizeof(*quoted);
	chain.protocol = quoted->nexthdr;
	if (walk_chain(xdp, &chain) != CHAIN_OK || chain.protocol != IPPROTO_UDP ||
	    chain.seen & SEEN_LATER)
		return pass_slot(slot, AFNET_PASS_ICMP);
	offset = chain.offset;
	if (offset > CHAIN_END || offset + sizeof(*ports) > quote->end)
		return pass_slot(slot, AFNET_PASS_ICMP);
	ports = data + offset;
	if ((void *)(ports + 1) > end)
		return pass_slot(slot, AFNET_PASS_ICMP);
	/* Mostly the error's own destination, but any address of the compartment will do. */
	owner = owner6(quote->vlan, quoted->saddr.in6_u.u6_addr32);
	if (!owner || owner->slot != slot)
		return pass_slot(slot, AFNET_PASS_ICMP);
	c = bpf_map_lookup_elem(&compartments, &slot);
	if (!c || !claimed(slot, c, bpf_ntohs(ports->source)))
		return pass_slot(slot, AFNET_PASS_ICMP);
	return deliver(xdp, slot, c, AFNET_REDIRECT_ERROR);
}

#endif
