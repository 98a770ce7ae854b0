/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which compartments may want a datagram to a group or to broadcast at a UDP port: those with a
 * socket there on all addresses (`bound`), and those where such a socket has joined a group
 * (`joined`). Both say too much rather than too little: whether a socket really wants it is asked
 * when a datagram comes (group.h). A bit goes with the compartment's last such socket at the port.
 *
 * Each bit of `bound` holds a reference to its entry; entries go as those of `ports` do (ports.h).
 */
#ifndef AFNET_HEARERS_H
#define AFNET_HEARERS_H

#include "confine.h"

/* Times that an entry is looked for anew because it was being removed: some 5 us in all. */
#define HEARERS_TRIES 64

/* Beyond this many sockets hear neither groups nor broadcast. Fixed, since the map is kept. */
HASH(hearers, struct afnet_hearers_key, struct afnet_hearers, 1 << 18);

static const struct afnet_hearers no_hearers;

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

static __always_inline void mark_hearer(struct afnet_hearers *h, __u32 slot, bool joined)
{
	__u64 mask = 1ull << (slot & 63);
	__u32 word = slot / 64 % (AFNET_HEARERS_BLOCK / 64);

	if (joined)
		__sync_fetch_and_or(&h->joined[word], mask);
	if (!(__sync_fetch_and_or(&h->bound[word], mask) & mask))
		__sync_fetch_and_add(&h->references, 1);
}

/* A UDP socket of the compartment on all addresses of a family has the port, or has joined a group.
 */
__noinline int enter_hearer(__u32 slot, __u32 port, __u32 family, bool joined)
{
	struct afnet_hearers_key key = {
		.port = port, .family = family, .block = slot / AFNET_HEARERS_BLOCK};
	struct afnet_hearers *h = get_hearers(&key, true);

	if (!h)
		return 0;
	mark_hearer(h, slot, joined);
	put_hearers(h, &key);
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
__noinline int leave_hearer(__u32 slot, __u32 port, __u32 family)
{
	struct afnet_hearers_key key = {
		.port = port, .family = family, .block = slot / AFNET_HEARERS_BLOCK};
	__u32 word = slot / 64 % (AFNET_HEARERS_BLOCK / 64);
	__u64 mask = 1ull << (slot & 63);
	struct afnet_hearers *h;

	if (has_hearer(slot, port, family))
		return 0;
	h = get_hearers(&key, false);
	if (!h)
		return 0;
	__sync_fetch_and_and(&h->joined[word], ~mask);
	if (__sync_fetch_and_and(&h->bound[word], ~mask) & mask)
		__sync_fetch_and_add(&h->references, -1);
	if (has_hearer(slot, port, family))
		mark_hearer(h, slot, true);
	put_hearers(h, &key);
	return 0;
}

#endif
