/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a socket hears a multicast group from a source: asked of the kernel's own lists, so that
 * source filters, leaving and closing are the kernel's business.
 *
 * As ip_mc_sf_allow() in net/ipv4/igmp.c and inet6_mc_check() in net/ipv6/mcast.c, but for this: a
 * socket without a membership hears the groups that every host is in, and not those that others
 * have joined (IP_MULTICAST_ALL), which may be of other compartments.
 */
#ifndef AFNET_MEMBER_H
#define AFNET_MEMBER_H

#include "confine.h"

/* Memberships of a socket, and sources of one, that are looked at; the kernel's own limits are 20
 * and 10 for IPv4 and by memory for IPv6 (net.ipv4.igmp_max_memberships, igmp_max_msf). */
#define MEMBERSHIPS_MAX 1024
#define SOURCES_MAX	512

#define MCAST_EXCLUDE 0

/* INET_FLAGS_MC_ALL, INET_FLAGS_MC6_ALL. */
#define MC_ALL	14
#define MC6_ALL 22

/* A group, a source and a device that a socket is asked for, and how far the walk along its lists
 * has got. The pointers are the kernel's, as numbers. */
struct walk {
	struct afnet_ip group;
	struct afnet_ip from;
	const void *at;
	const void *sources;
	__u32 ifindex;
	__u32 mode;
	bool found;
	bool listed;
};

static long find_membership4(__u32 step __attribute__((unused)), struct walk *w)
{
	const struct ip_mc_socklist *m = w->at;

	if (!m)
		return 1;
	if (BPF_CORE_READ(m, multi.imr_multiaddr.s_addr) == w->group.word[3] &&
	    (__u32)BPF_CORE_READ(m, multi.imr_ifindex) == w->ifindex) {
		w->found = true;
		w->mode = BPF_CORE_READ(m, sfmode);
		w->sources = BPF_CORE_READ(m, sflist);
		return 1;
	}
	w->at = BPF_CORE_READ(m, next_rcu);
	return 0;
}

static long find_membership6(__u32 step __attribute__((unused)), struct walk *w)
{
	const struct ipv6_mc_socklist *m = w->at;
	struct in6_addr addr;

	if (!m)
		return 1;
	BPF_CORE_READ_INTO(&addr, m, addr);
	if (same_ip((struct afnet_ip *)&addr, &w->group) &&
	    (__u32)BPF_CORE_READ(m, ifindex) == w->ifindex) {
		w->found = true;
		w->mode = BPF_CORE_READ(m, sfmode);
		w->sources = BPF_CORE_READ(m, sflist);
		return 1;
	}
	w->at = BPF_CORE_READ(m, next);
	return 0;
}

static long find_source(__u32 i, struct walk *w)
{
	const struct ip6_sf_socklist *six = w->sources;
	const struct ip_sf_socklist *four = w->sources;
	struct afnet_ip one = ip4(0);

	if (is_ip4(&w->group)) {
		if (i >= BPF_CORE_READ(four, sl_count))
			return 1;
		bpf_probe_read_kernel(&one.word[3], sizeof(one.word[3]),
				      w->sources + bpf_core_field_offset(four->sl_addr) +
					      i * sizeof(one.word[3]));
	} else {
		if (i >= BPF_CORE_READ(six, sl_count))
			return 1;
		bpf_probe_read_kernel(&one, sizeof(one),
				      w->sources + bpf_core_field_offset(six->sl_addr) +
					      i * sizeof(one));
	}
	w->listed = same_ip(&one, &w->from);
	return w->listed;
}

/* 224.0.0.1; ff01::1, ff02::1 */
static __always_inline bool is_everyones(const struct afnet_ip *group)
{
	if (is_ip4(group))
		return group->word[3] == bpf_htonl(0xe0000001);
	return (group->word[0] == bpf_htonl(0xff010000) ||
		group->word[0] == bpf_htonl(0xff020000)) &&
	       !group->word[1] && !group->word[2] && group->word[3] == bpf_htonl(1);
}

/* IP_MULTICAST_ALL, IPV6_MULTICAST_ALL; `np` is NULL for the former. */
static __always_inline bool hears_all(const struct inet_sock *inet, const struct ipv6_pinfo *np)
{
	const struct ipv6_pinfo___old *old6 = (const void *)np;
	const struct inet_sock___old *old = (const void *)inet;

	if (np && bpf_core_field_exists(old6->mc_all))
		return BPF_CORE_READ_BITFIELD_PROBED(old6, mc_all);
	if (!np && bpf_core_field_exists(old->mc_all))
		return BPF_CORE_READ_BITFIELD_PROBED(old, mc_all);
	return BPF_CORE_READ(inet, inet_flags) >> (np ? MC6_ALL : MC_ALL) & 1;
}

/* Whether the socket is in the group at the device, for datagrams from this source. */
static __always_inline bool is_member(struct walk *w, const struct inet_sock *inet)
{
	const struct ipv6_pinfo *np = NULL;

	w->found = w->listed = false;
	if (is_ip4(&w->group)) {
		w->at = BPF_CORE_READ(inet, mc_list);
		bpf_loop(MEMBERSHIPS_MAX, find_membership4, w, 0);
	} else {
		np = BPF_CORE_READ(inet, pinet6);
		if (!np)
			return false;
		w->at = BPF_CORE_READ(np, ipv6_mc_list);
		bpf_loop(MEMBERSHIPS_MAX, find_membership6, w, 0);
	}
	if (!w->found)
		return is_everyones(&w->group) && hears_all(inet, np);
	if (w->sources)
		bpf_loop(SOURCES_MAX, find_source, w, 0);
	return (w->mode == MCAST_EXCLUDE) != w->listed;
}

#endif
