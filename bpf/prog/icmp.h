/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP to an address of ours: errors go to the flow that they quote (RFC 1122 3.2.2), echo requests
 * to an address that the kernel does not have are answered (RFC 1122 3.2.2.6).
 */
#ifndef AFNET_ICMP_H
#define AFNET_ICMP_H

#include "deliver.h"
#include "parse.h"

/* Types (RFC 792). Source quench and redirect are the kernel's business (RFC 6633, RFC
 * 1122 3.2.2.2). */
#define ICMP4_ECHO_REPLY    0
#define ICMP4_UNREACHABLE   3
#define ICMP4_ECHO	    8
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER	    12

/* The start of a transport header, as far as errors must quote it (RFC 792: 8 bytes). */
struct ports {
	__be16 source;
	__be16 dest;
	__be32 rest;
};

static __always_inline bool icmp4_is_error(__u8 type)
{
	return type == ICMP4_UNREACHABLE || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER;
}

/* What we answer with, as the kernel's ip_default_ttl (RFC 1700). */
#define ANSWER_TTL 64

/* Turns the echo request around in place. Without options, so the header's length and sum stay
 * simple. */
static __always_inline int icmp4_echo(struct ethhdr *eth, struct iphdr *ip,
				      struct icmp_header *icmp, __u32 slot)
{
	const struct afnet_compartment *c = bpf_map_lookup_elem(&compartments, &slot);
	__u16 *ttl = (__u16 *)&ip->ttl; /* with the protocol: one word of the sum */
	__u16 *type = (__u16 *)&icmp->type;
	__u16 before;
	__be32 addr;

	if (c && !take_token(slot, c)) {
		count_slot(slot, AFNET_DROP_RATE);
		return XDP_DROP;
	}
	swap_macs(eth);
	addr = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = addr;
	before = *ttl;
	ip->ttl = ANSWER_TTL;
	replace_sum(&ip->check, before, *ttl);
	before = *type;
	icmp->type = ICMP4_ECHO_REPLY;
	replace_sum(&icmp->checksum, before, *type);
	count_slot(slot, AFNET_TX_ECHO);
	return XDP_TX;
}

/* The caller has checked the IPv4 header: no options, no fragment, ours. */
static __noinline int icmp4(struct xdp_md *xdp, __u32 l3, __u32 vlan, __u32 slot, __u32 flags)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	const struct afnet_compartment *c;
	const struct afnet_address *owner;
	struct iphdr *ip = data + l3, *quoted;
	struct icmp_header *icmp;
	struct ports *ports;
	__u32 length;

	icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > end)
		return pass_short(xdp);
	if (bpf_ntohs(ip->tot_len) < sizeof(*ip) + sizeof(*icmp))
		return pass_slot(slot, AFNET_PASS_ICMP);
	if (icmp->type == ICMP4_ECHO && !icmp->code && flags & AFNET_FAST_ONLY)
		return icmp4_echo(data, ip, icmp, slot);
	if (!icmp4_is_error(icmp->type))
		return pass_slot(slot, AFNET_PASS_ICMP);

	/* The quoted header and 8 bytes of what follows it, options in between. */
	quoted = (void *)(icmp + 1);
	if ((void *)(quoted + 1) > end || quoted->version != 4 || quoted->ihl < 5 ||
	    quoted->protocol != IPPROTO_UDP || quoted->frag_off & bpf_htons(IPV4_OFFSET))
		return pass_slot(slot, AFNET_PASS_ICMP);
	length = quoted->ihl * 4;
	ports = (void *)quoted + length;
	if ((void *)(ports + 1) > end ||
	    sizeof(*ip) + sizeof(*icmp) + length + sizeof(*ports) > bpf_ntohs(ip->tot_len))
		return pass_slot(slot, AFNET_PASS_ICMP);
	if (quoted->saddr != ip->daddr) {
		owner = owner4(vlan, quoted->saddr);
		if (!owner || owner->slot != slot)
			return pass_slot(slot, AFNET_PASS_ICMP);
	}
	c = bpf_map_lookup_elem(&compartments, &slot);
	if (!c || !claimed(slot, c, bpf_ntohs(ports->source)))
		return pass_slot(slot, AFNET_PASS_ICMP);
	return deliver(xdp, slot, c, AFNET_REDIRECT_ERROR);
}

#endif
