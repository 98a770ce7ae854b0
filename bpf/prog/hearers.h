/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which compartments may want a datagram to a group or to broadcast at a UDP port: those with a
 * socket there on all addresses, and those where such a socket has joined a group of a sort. Both
 * say too much rather than too little: whether a socket really wants it is asked when a datagram
 * comes (group.h). Bits go with the compartment's last such socket at the port.
 *
 * What is joined while the socket is bound is seen by setsockopt(), what was joined before in the
 * kernel's lists. 32-bit system calls pass no such hook: sockets that were bound by one are in all
 * sorts.
 *
 * Each bit of `slots` holds a reference to its entry; entries go as those of `ports` do (ports.h).
 */
#ifndef AFNET_HEARERS_H
#define AFNET_HEARERS_H

#include "member.h"

/* Times that an entry is looked for anew because it was being removed: some 5 us in all. */
#define HEARERS_TRIES 64

/* Beyond this many sockets hear neither groups nor broadcast. Fixed, since the map is kept. */
HASH(hearers, struct afnet_hearers_key, struct afnet_hearers, 1 << 18);

static const struct afnet_hearers no_hearers;

static __always_inline __u32 sort_of(const struct afnet_ip *group)
{
	__u32 mixed = group->word[0] * 3 ^ group->word[1] * 5 ^ group->word[2] * 7 ^ group->word[3];

	return 1 + (mixed * 0x9e3779b1 >> 26) % AFNET_HEARERS_SORTS;
}

static __always_inline struct afnet_hearers_key hearers_key(__u32 slot, __u32 port, __u32 family,
							    __u32 sort)
{
	struct afnet_hearers_key key = {
		.port = port, .family = family, .sort = sort, .block = slot / AFNET_HEARERS_BLOCK};

	return key;
}

static __always_inline void put_hearers(struct afnet_hearers *h,
					const struct afnet_hearers_key *key)
{
	if (__sync_fetch_and_add(&h->references, -1) != 1)
		return;
	if (!__sync_val_compare_and_swap(&h->references, 0, AFNET_PORT_DEAD))
		bpf_map_delete_elem(&hearers, key);
}

/* The entry with a reference; made, if `make`. */
static __always_inline struct afnet_hearers *get_hearers(const struct afnet_hearers_key *key,
							 bool make)
{
	struct afnet_hearers *h;
	int tries = HEARERS_TRIES;

	do {
		h = bpf_map_lookup_elem(&hearers, key);
		if (!h) {
			if (!make ||
			    bpf_map_update_elem(&hearers, key, &no_hearers, BPF_NOEXIST) == -E2BIG)
				return NULL;
		} else if (!(__sync_fetch_and_add(&h->references, 1) & AFNET_PORT_DEAD)) {
			if (bpf_map_lookup_elem(&hearers, key) == h)
				return h;
			__sync_fetch_and_add(&h->references, -1);
		}
	} while (--tries);
	return NULL;
}

#define WORD(slot) ((slot) / 64 % (AFNET_HEARERS_BLOCK / 64))

/* Enters the compartment. */
__noinline int enter_hearer(__u32 slot, __u32 port, __u32 family, __u32 sort)
{
	struct afnet_hearers_key key = hearers_key(slot, port, family, sort);
	struct afnet_hearers *h = get_hearers(&key, true);
	__u64 mask = 1ull << (slot & 63);

	if (!h)
		return 0;
	if (!(__sync_fetch_and_or(&h->slots[WORD(slot)], mask) & mask))
		__sync_fetch_and_add(&h->references, 1);
	put_hearers(h, &key);
	return 0;
}

/* Takes it out: whether it stood under other sorts, too. */
__noinline int remove_hearer(__u32 slot, __u32 port, __u32 family, __u32 sort)
{
	struct afnet_hearers_key key = hearers_key(slot, port, family, sort);
	struct afnet_hearers *h = get_hearers(&key, false);
	__u64 mask = 1ull << (slot & 63), joined;

	if (!h)
		return 0;
	joined = __sync_fetch_and_and(&h->joined[WORD(slot)], ~mask) & mask;
	if (__sync_fetch_and_and(&h->slots[WORD(slot)], ~mask) & mask)
		__sync_fetch_and_add(&h->references, -1);
	put_hearers(h, &key);
	return !!joined;
}

/* Enters the compartment, which stands under sort 0, under another one; 0: under all. */
__noinline int enter_member(__u32 slot, __u32 port, __u32 family, __u32 sort)
{
	struct afnet_hearers_key key = hearers_key(slot, port, family, 0);
	struct afnet_hearers *h = get_hearers(&key, false);

	if (!h)
		return 0;
	__sync_fetch_and_or(&h->joined[WORD(slot)], 1ull << (slot & 63));
	put_hearers(h, &key);
	if (sort)
		return enter_hearer(slot, port, family, sort);
	for (int i = 1; i <= AFNET_HEARERS_SORTS; i++)
		enter_hearer(slot, port, family, i);
	return 0;
}

/* Whether the compartment that has the slot now has such a socket. */
static __always_inline bool has_hearer(__u32 slot, __u32 port, __u32 family)
{
	struct afnet_port_key key = {.port = port, .protocol = IPPROTO_UDP};
	const struct afnet_confined *c = bpf_map_lookup_elem(&confined, &slot);
	const struct afnet_port *p;

	if (!c)
		return false;
	key.home = c->cgroup;
	if (family == AF_INET)
		key.addr = ip4(0);
	p = bpf_map_lookup_elem(&ports, &key);
	return p && p->own.count;
}

/* The last one is gone, or seems to be: who comes meanwhile counts itself in `ports` first. */
__noinline int leave_hearers(__u32 slot, __u32 port, __u32 family)
{
	bool joined;

	if (has_hearer(slot, port, family))
		return 0;
	joined = remove_hearer(slot, port, family, 0);
	for (int i = 1; joined && i <= AFNET_HEARERS_SORTS; i++)
		remove_hearer(slot, port, family, i);
	if (has_hearer(slot, port, family)) {
		enter_hearer(slot, port, family, 0);
		if (joined)
			enter_member(slot, port, family, 0);
	}
	return 0;
}

/* Where the groups of a socket are entered. */
struct entering {
	const void *at; /* the kernel's pointer, as a number */
	__u32 slot;
	__u32 port;
};

static long enter_membership4(__u32 step __attribute__((unused)), struct entering *e)
{
	const struct ip_mc_socklist *m = e->at;
	struct afnet_ip group;

	if (!m)
		return 1;
	group = ip4(BPF_CORE_READ(m, multi.imr_multiaddr.s_addr));
	enter_member(e->slot, e->port, AF_INET, sort_of(&group));
	e->at = BPF_CORE_READ(m, next_rcu);
	return 0;
}

static long enter_membership6(__u32 step __attribute__((unused)), struct entering *e)
{
	const struct ipv6_mc_socklist *m = e->at;
	struct in6_addr group;

	if (!m)
		return 1;
	BPF_CORE_READ_INTO(&group, m, addr);
	enter_member(e->slot, e->port, AF_INET6, sort_of((struct afnet_ip *)&group));
	e->at = BPF_CORE_READ(m, next);
	return 0;
}

/* Enters a compartment by a socket that is at the port, with what that has joined already. `inet`
 * is the kernel's pointer, as a number; 0: it may join what it will. */
__noinline int enter_hearers(__u32 slot, __u32 port, __u32 flags, __u64 inet)
{
	const struct inet_sock *sk = (const void *)inet;
	struct entering e = {.slot = slot, .port = port};
	const struct ipv6_pinfo *np;

	if (flags & AFNET_SOCKET_ANY4) {
		enter_hearer(slot, port, AF_INET, 0);
		if (!inet) {
			enter_member(slot, port, AF_INET, 0);
		} else {
			e.at = BPF_CORE_READ(sk, mc_list);
			if (e.at)
				bpf_loop(MEMBERSHIPS_MAX, enter_membership4, &e, 0);
		}
	}
	if (flags & AFNET_SOCKET_ANY6) {
		enter_hearer(slot, port, AF_INET6, 0);
		if (!inet) {
			enter_member(slot, port, AF_INET6, 0);
		} else {
			np = BPF_CORE_READ(sk, pinet6);
			e.at = np ? BPF_CORE_READ(np, ipv6_mc_list) : NULL;
			if (e.at)
				bpf_loop(MEMBERSHIPS_MAX, enter_membership6, &e, 0);
		}
	}
	return 0;
}

#endif
