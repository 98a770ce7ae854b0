/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The register of local ports: who in a compartment has which port on which address. The kernel's
 * own register cannot answer that, since its sockets are elsewhere (TCP: at a hidden port) or share
 * what they would not (UDP: SO_REUSEADDR is forced on them, against the wildcard sockets of the
 * host).
 *
 * A socket on one address stands in two entries: that of the address, among `own`, and that of all
 * the family's addresses, among `single`. So a socket on all addresses finds those it collides
 * with, and they find it.
 *
 * Functions that are not static are verified once, by themselves, and not at each call.
 *
 * Rules of sharing: inet_csk_bind_conflict() in net/ipv4/inet_connection_sock.c,
 * udp_lib_lport_inuse() in net/ipv4/udp.c.
 */
#ifndef AFNET_PORTS_H
#define AFNET_PORTS_H

#include "hearers.h"

/* Times that an entry is looked for anew because it was being removed: some 5 us in all. */
#define PORT_TRIES 64

/* Waits for the port that the kernel chooses for another thread's bind(): some 20 us in all. */
#define PORT_WAITS 256

/* Who wants a port. */
struct claimant {
	__u32 uid;
	bool reuse;
	bool reuseport;
	bool tcp;
};

static __always_inline struct afnet_port_key port_key(const struct afnet_socket *s,
						      const struct afnet_ip *addr)
{
	struct afnet_port_key key = {
		.addr = *addr, .home = s->cgroup, .port = s->port, .protocol = s->protocol};

	return key;
}

/* The key for all addresses of the family of `addr`. */
static __always_inline struct afnet_ip any_of(const struct afnet_ip *addr)
{
	struct afnet_ip any = {};

	return is_ip4(addr) ? ip4(0) : any;
}

/* Whether `who`, already counted in if `counted`, may not be beside the others. */
static __always_inline bool collides(const struct afnet_sharers *with, const struct claimant *who,
				     bool counted)
{
	if (with->count <= counted)
		return false;
	if (who->reuse && !with->no_reuse && !(who->tcp && with->engaged))
		return false;
	return !(who->reuseport && !with->no_reuseport && with->uid == who->uid);
}

static __always_inline void leave(struct afnet_sharers *group, const struct claimant *who,
				  bool engaged)
{
	if (!who->reuse)
		__sync_fetch_and_add(&group->no_reuse, -1);
	if (!who->reuseport)
		__sync_fetch_and_add(&group->no_reuseport, -1);
	if (engaged)
		__sync_fetch_and_add(&group->engaged, -1);
	__sync_fetch_and_add(&group->count, -1);
}

/* Gives a reference up; the last one removes the entry, unless somebody takes one meanwhile. */
static __always_inline void put_port(struct afnet_port *p, const struct afnet_port_key *key)
{
	if (__sync_fetch_and_add(&p->references, -1) != 1)
		return;
	if (!__sync_val_compare_and_swap(&p->references, 0, AFNET_PORT_DEAD))
		bpf_map_delete_elem(&ports, key);
}

/*
 * The entry, made if need be, with a reference. One that is being removed is left to who does that:
 * two who do would remove its successor. The kernel gives the memory of a removed entry to the next
 * one at once, so what was found is looked for again when it cannot go any more.
 */
static __always_inline struct afnet_port *get_port(const struct afnet_port_key *key)
{
	struct afnet_port none = {}, *p;
	int tries = PORT_TRIES;

	do {
		p = bpf_map_lookup_elem(&ports, key);
		if (!p) {
			if (bpf_map_update_elem(&ports, key, &none, BPF_NOEXIST) == -E2BIG)
				return NULL;
		} else if (!(__sync_fetch_and_add(&p->references, 1) & AFNET_PORT_DEAD)) {
			if (bpf_map_lookup_elem(&ports, key) == p)
				return p;
			__sync_fetch_and_add(&p->references, -1);
		}
	} while (--tries);
	return NULL;
}

/* Enters `who` into an entry: 0, or the errno. The order of the counting makes one of two colliding
 * threads fail. */
__noinline int take_port(const struct afnet_port_key *key, const struct claimant *who, bool single)
{
	struct afnet_sharers *group;
	struct afnet_port_key own;
	struct afnet_port *p;

	if (!key || !who)
		return EINVAL;
	/* Before 6.6 the key of a look-up may not be an argument. */
	own = *key;
	key = &own;
	p = get_port(key);
	if (!p)
		return ENOBUFS;
	group = single ? &p->single : &p->own;
	if (!who->reuse)
		__sync_fetch_and_add(&group->no_reuse, 1);
	if (!who->reuseport)
		__sync_fetch_and_add(&group->no_reuseport, 1);
	if (!__sync_fetch_and_add(&group->count, 1))
		group->uid = who->uid;
	/* Sockets on single addresses collide among themselves in the entries of these addresses.
	 */
	if (collides(&p->own, who, !single) || (!single && collides(&p->single, who, false))) {
		leave(group, who, false);
		put_port(p, key);
		return EADDRINUSE;
	}
	return 0;
}

__noinline int leave_port(const struct afnet_port_key *key, const struct claimant *who, __u32 flags)
{
	struct afnet_port_key own;
	struct afnet_port *p;

	if (!key || !who)
		return 0;
	own = *key;
	key = &own;
	p = bpf_map_lookup_elem(&ports, key);
	if (!p)
		return 0;
	leave(flags & AFNET_SOCKET_SINGLE ? &p->single : &p->own, who,
	      flags & AFNET_SOCKET_ENGAGED);
	put_port(p, key);
	return 0;
}

static __always_inline struct claimant claimant_of(const struct afnet_socket *s)
{
	struct claimant who = {
		.reuse = s->flags & AFNET_SOCKET_REUSE,
		.reuseport = s->flags & AFNET_SOCKET_REUSEPORT,
		.tcp = s->protocol == IPPROTO_TCP,
	};

	return who;
}

/* Whether groups and broadcast may be for it: a UDP socket of a compartment that was bound. (The
 * kernel has others on all addresses, and delivers by itself.) */
static __always_inline bool is_hearer(const struct afnet_socket *s)
{
	return s->protocol == IPPROTO_UDP && s->slot && s->flags & AFNET_SOCKET_BOUND &&
	       s->flags & (AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6);
}

/* Takes a socket out of the register. */
__noinline int unregister(struct afnet_socket *s)
{
	struct afnet_ip none = {}, four = ip4(0);
	struct afnet_port_key key;
	struct claimant who;
	__u32 flags;

	if (!s)
		return 0;
	who = claimant_of(s);
	flags = s->flags;
	if (flags & AFNET_SOCKET_ANY4) {
		key = port_key(s, &four);
		leave_port(&key, &who, flags & ~AFNET_SOCKET_SINGLE);
		if (is_hearer(s))
			leave_hearers(s->slot, s->port, AF_INET);
	}
	if (flags & AFNET_SOCKET_ANY6) {
		key = port_key(s, &none);
		leave_port(&key, &who, flags & ~AFNET_SOCKET_SINGLE);
		if (is_hearer(s))
			leave_hearers(s->slot, s->port, AF_INET6);
	}
	if (flags & AFNET_SOCKET_SINGLE) {
		key = port_key(s, &s->addr);
		leave_port(&key, &who, flags & ~AFNET_SOCKET_SINGLE);
		four = any_of(&s->addr);
		key = port_key(s, &four);
		leave_port(&key, &who, flags);
	}
	s->flags = flags & ~(AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6 | AFNET_SOCKET_SINGLE |
			     AFNET_SOCKET_ENGAGED);
	s->port = 0;
	return 0;
}

/*
 * Enters a socket, whose `port`, `addr` and `protocol` are set, as one on all addresses of the
 * families or on `addr` alone: 0, or the errno.
 */
__noinline int enroll(struct afnet_socket *s, __u32 kinds, __u32 uid)
{
	struct afnet_ip none = {}, four = ip4(0);
	struct afnet_port_key key;
	struct claimant who;
	int error = 0;

	if (!s)
		return EINVAL;
	who = claimant_of(s);
	who.uid = uid;
	if (kinds & AFNET_SOCKET_ANY4) {
		key = port_key(s, &four);
		error = take_port(&key, &who, false);
		if (!error)
			s->flags |= AFNET_SOCKET_ANY4;
	}
	if (!error && kinds & AFNET_SOCKET_ANY6) {
		key = port_key(s, &none);
		error = take_port(&key, &who, false);
		if (!error)
			s->flags |= AFNET_SOCKET_ANY6;
	}
	if (!error && kinds & AFNET_SOCKET_SINGLE) {
		key = port_key(s, &s->addr);
		error = take_port(&key, &who, false);
		if (!error) {
			four = any_of(&s->addr);
			key = port_key(s, &four);
			error = take_port(&key, &who, true);
			if (!error) {
				s->flags |= AFNET_SOCKET_SINGLE;
			} else {
				key = port_key(s, &s->addr);
				leave_port(&key, &who, 0);
			}
		}
	}
	if (error)
		unregister(s);
	return error;
}

/* The entry that says where the kernel has sockets like this one. */
static __always_inline struct afnet_port *port_of(const struct afnet_socket *s, __u32 kind)
{
	struct afnet_ip none = {};
	struct afnet_port_key key = port_key(s, &none);

	if (kind == AFNET_SOCKET_ANY4)
		key.addr = ip4(0);
	else if (kind == AFNET_SOCKET_SINGLE)
		key.addr = s->addr;
	return bpf_map_lookup_elem(&ports, &key);
}

/* A TCP socket listens; a UDP socket is connected, or no more. */
__noinline int engage(struct afnet_socket *s, bool engaged)
{
	struct afnet_port *p;

	if (!s || engaged == !!(s->flags & AFNET_SOCKET_ENGAGED))
		return 0;
	for (__u32 kind = AFNET_SOCKET_ANY4; kind <= AFNET_SOCKET_SINGLE; kind <<= 1) {
		if (!(s->flags & kind))
			continue;
		p = port_of(s, kind);
		if (p)
			__sync_fetch_and_add(&p->own.engaged, engaged ? 1 : -1);
	}
	if (s->flags & AFNET_SOCKET_SINGLE) {
		p = port_of(s, is_ip4(&s->addr) ? AFNET_SOCKET_ANY4 : AFNET_SOCKET_ANY6);
		if (p)
			__sync_fetch_and_add(&p->single.engaged, engaged ? 1 : -1);
	}
	s->flags ^= AFNET_SOCKET_ENGAGED;
	return 0;
}

/* UDP: whether there is one that takes datagrams from anybody. */
static __always_inline bool receives(const struct afnet_port *p)
{
	return p->own.count > p->own.engaged;
}

/* Says where the kernel has the socket: for those that join it, and for who looks for it. */
__noinline int place(struct afnet_socket *s, __u16 port, __u32 flags)
{
	if (!s)
		return 0;
	for (__u32 kind = AFNET_SOCKET_ANY4; kind <= AFNET_SOCKET_SINGLE; kind <<= 1) {
		struct afnet_port *p;

		if (!(s->flags & kind))
			continue;
		p = port_of(s, kind);
		if (p && (!p->port || p->own.count == 1)) {
			p->anchor = s->anchor;
			p->flags = flags;
			p->port = port;
		}
	}
	return 0;
}

#endif
