/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Source address selection within a compartment (RFC 6724 5). The hooks cannot ask for the route,
 * so "the outgoing interface" is that of SO_BINDTODEVICE, or of the candidate whose on-link prefix
 * holds the destination. Rules 3, 4, 5.5 and 7 never tell two candidates apart: no address of a
 * compartment is deprecated, a home or a temporary one.
 */
#ifndef AFNET_SOURCE_H
#define AFNET_SOURCE_H

#include "confine.h"

/* RFC 6724 2.1: the policy table's label. */
__noinline int label_of(const struct afnet_ip *ip)
{
	__u32 top;

	if (!ip)
		return 0;
	top = bpf_ntohl(ip->word[0]);
	if (is_ip4(ip))
		return 4;
	if (top >> 16 == 0x2002)
		return 2;
	if (top == 0x20010000)
		return 5;
	if (top >> 25 == 0xfc >> 1)
		return 13;
	if (top >> 16 == 0x3ffe)
		return 12;
	if (top >> 22 == 0xfec0 >> 6)
		return 11;
	return 1;
}

/* RFC 6724 3.1, RFC 4007: link-local 2, site-local 5, global 14; of groups, what they say. */
__noinline int scope_of(const struct afnet_ip *ip)
{
	__u32 top;

	if (!ip)
		return 0;
	top = bpf_ntohl(ip->word[0]);
	if (is_ip4(ip))
		return bpf_ntohl(ip->word[3]) >> 16 == 0xa9fe ? 2 : 14;
	if (top >> 24 == 0xff)
		return top >> 16 & 15;
	if (top >> 22 == 0xfe80 >> 6)
		return 2;
	return top >> 22 == 0xfec0 >> 6 ? 5 : 14;
}

/* Leading bits that two addresses have in common. */
__noinline int common_bits(const struct afnet_ip *a, const struct afnet_ip *b)
{
	if (!a || !b)
		return 0;
	for (int i = 0; i < 4; i++) {
		__u32 differ = bpf_ntohl(a->word[i] ^ b->word[i]);

		if (!differ)
			continue;
		/* Zeros before the first one, without a branch: fill up below it, count the ones.
		 */
		differ |= differ >> 1;
		differ |= differ >> 2;
		differ |= differ >> 4;
		differ |= differ >> 8;
		differ |= differ >> 16;
		differ -= differ >> 1 & 0x55555555;
		differ = (differ & 0x33333333) + (differ >> 2 & 0x33333333);
		differ = (differ + (differ >> 4)) & 0x0f0f0f0f;
		return i * 32 + 32 - (differ * 0x01010101 >> 24);
	}
	return 128;
}

/* How good a candidate is: the rules from the weightiest down, as digits of one number. */
__noinline __u64 merit(const struct afnet_source *from, const struct afnet_ip *to, __u32 ifindex)
{
	if (!from || !to)
		return 0;

	__u32 mine = scope_of(&from->addr), wanted = scope_of(to);
	__u32 common = common_bits(&from->addr, to);
	bool on_link = common >= from->prefix_len;
	__u64 merit = same_ip(&from->addr, to); /* rule 1 */

	/* Rule 2: the smallest scope that suffices; if none does, the largest. */
	merit = merit << 8 | (mine >= wanted ? 0x80 - mine : mine);
	/* Rule 5. */
	merit = merit << 1 | (ifindex ? from->ifindex == ifindex : on_link);
	/* Rule 6. */
	merit = merit << 1 | (label_of(&from->addr) == label_of(to));
	/* Rule 8, within the candidate's prefix. Without one in common it says nothing about IPv4:
	 * the first is best. */
	return merit << 8 | (on_link ? from->prefix_len : is_ip4(to) ? 0 : common);
}

/* Chooses a source for packets to `to` (which is no loopback address and no alias); false: there is
 * none. */
__noinline int choose_source(__u32 slot, const struct afnet_ip *to, __u32 ifindex,
			     struct afnet_ip *from)
{
	const struct afnet_confined *c = bpf_map_lookup_elem(&confined, &slot);
	const struct afnet_sources *all;
	__u64 best = 0;
	__u32 count;
	bool four;

	if (!c || !from || !to)
		return false;
	four = is_ip4(to);
	*from = four ? c->primary4 : c->primary6;
	count = four ? c->count4 : c->count6;
	if (is_none(from))
		return false;
	/* Rule 1, for addresses that are no candidates, too. */
	if (owner_of(to) == slot) {
		*from = *to;
		return true;
	}
	if (count < 2)
		return true;
	all = bpf_map_lookup_elem(&sources, &slot);
	if (!all)
		return true;
	for (__u32 i = 0; i < AFNET_SOURCES; i++) {
		const struct afnet_source *candidate = four ? &all->v4[i] : &all->v6[i];
		__u64 good;

		if (i >= count)
			break;
		good = merit(candidate, to, ifindex);
		/* Of equals the first. */
		if (good > best) {
			best = good;
			*from = candidate->addr;
		}
	}
	return true;
}

#endif
