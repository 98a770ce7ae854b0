/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Layouts of the kernel path's maps (prog/confine.bpf.c). As in afnet.h they stand here only.
 * Numbers are in host byte order unless the type says __be.
 */
#ifndef AFNET_CONFINE_H
#define AFNET_CONFINE_H

#include <linux/types.h>
#include "counters.h"
#include "tags.h"

/* An address of either family; IPv4 as ::ffff:a.b.c.d. */
struct afnet_ip {
	__be32 word[4];
};

/* Key of `owner_prefixes`, value: slot: `len` bits of the address, counted from its first (IPv4: 96
 * more). */
struct afnet_owner_prefix {
	__u32 len;
	struct afnet_ip addr;
};

/* Bits of afnet_confined.flags. */
#define AFNET_CONFINED_ISOLATED	  1 /* nothing to or from other compartments and the host */
#define AFNET_CONFINED_RAW	  2 /* any kind of socket; packets are still checked */
#define AFNET_CONFINED_PRIVILEGED 4 /* anybody may bind privileged ports */

/* Value of `confined`, index: slot. */
struct afnet_confined {
	__u64 cgroup;		  /* id of the compartment's cgroup; 0: there is none */
	struct afnet_ip primary4; /* its first IPv4 address; zero: none */
	struct afnet_ip primary6;
	__u32 flags;
	__u16 count4; /* addresses to choose a source from; above 1 they are in `sources` */
	__u16 count6;
	__u32 sockets; /* most that its processes may have made; 0: any number */
	__u32 device;  /* ifindex of the device of its addresses; 0: of several, see `sources` */
	__be32 broadcast4; /* of the subnet of primary4; 0: there is none */
	__u32 reserved;
};

/* Most addresses of a family that a source is chosen from; the others serve, but are never chosen.
 */
#define AFNET_SOURCES 16

struct afnet_source {
	struct afnet_ip addr;
	__u32 ifindex;
	__u32 prefix_len; /* on-link prefix, counted from the first bit (IPv4: 96 more) */
};

/* Value of `sources`, key: slot. */
struct afnet_sources {
	struct afnet_source v4[AFNET_SOURCES];
	struct afnet_source v6[AFNET_SOURCES];
};

/* Key of `ports` and, with `bucket`, of `listening`: a local port of a compartment (or, home 0, of
 * the host), on one address or on all of a family (::ffff:0.0.0.0 and ::). */
struct afnet_port_key {
	struct afnet_ip addr;
	__u32 home; /* low half of the cgroup's id: a slot may be another compartment's by now */
	__u16 port;
	__u8 protocol;
	__u8 bucket; /* 0 in `ports` */
};

/* Sockets of one kind on a port, and which of them lack what sharing it needs. */
struct afnet_sharers {
	__u32 count;
	__u32 no_reuse;	    /* without SO_REUSEADDR */
	__u32 no_reuseport; /* without SO_REUSEPORT */
	__u32 engaged;	    /* TCP: have called listen(); UDP: have been connected */
	__u32 uid;	    /* of the first */
};

/* Value of `ports`. An entry for all addresses of a family counts the sockets on single ones, too.
 */
struct afnet_port {
	struct afnet_sharers own;
	struct afnet_sharers single;
	__u32 references;
	__u16 port;  /* where the kernel's sockets are: the true port, TCP: a hidden one; 0: not
			known yet */
	__u16 flags; /* AFNET_PORT_* */
	struct afnet_ip anchor;
};

/* Bits of afnet_port.flags. */
#define AFNET_PORT_UNBOUND                                                                         \
	1 /* the socket never called bind(): the kernel has it on all addresses */

/* Top bit of afnet_port.references: the entry is being removed. */
#define AFNET_PORT_DEAD 0x80000000

/* Slots of compartments that stand in one entry of `hearers`. */
#define AFNET_HEARERS_BLOCK 512

/* Multicast groups are sorted into so many by a hash: a compartment is only asked about a group if
 * it has joined one of the same sort. */
#define AFNET_HEARERS_SORTS 64

/* Key of `hearers`: a UDP port; which groups; which slots: block * AFNET_HEARERS_BLOCK on. */
struct afnet_hearers_key {
	__u16 port;
	__u8 family;
	__u8 sort; /* 0: broadcast, and those that every host is in; else 1 more than the hash */
	__u32 block;
};

/* Value of `hearers`: compartments that may have a UDP socket there on all addresses, or (`sort`)
 * one that has joined such a group; a bit for each slot. */
struct afnet_hearers {
	__u64 slots[AFNET_HEARERS_BLOCK / 64];
	__u64 joined[AFNET_HEARERS_BLOCK / 64]; /* sort 0: those that stand in others, too */
	__u32 references;			/* bits of `slots`, and who works with it */
	__u32 reserved;
};

/* Key of `fast_groups`. */
struct afnet_fast_group {
	__u32 ifindex;
	struct afnet_ip addr;
};

/* Key of `replicated`: a socket by its cookie, and a group that it has joined at a device. */
struct afnet_replicated {
	__u64 cookie;
	__u32 ifindex;
	__u32 reserved;
	struct afnet_ip group;
};

/* What stands behind AFNET_MAC_COPY. */
#define AFNET_COPY_REPLICATED 1 /* sockets in `replicated` have had it, by a worker */
#define AFNET_COPY_LOCAL      2 /* from this host */
#define AFNET_COPY_MOVED      4 /* elsewhere for its route; the source MAC ends in the ifindex */

/* Listeners of one port that can be found; of larger SO_REUSEPORT groups any this many suffice. */
#define AFNET_LISTENERS 32

/* Bits of afnet_socket.flags. */
#define AFNET_SOCKET_ANY4	   1	/* registered for all IPv4 addresses */
#define AFNET_SOCKET_ANY6	   2	/* ... IPv6 addresses */
#define AFNET_SOCKET_SINGLE	   4	/* ... for `addr` alone */
#define AFNET_SOCKET_REUSE	   8	/* had SO_REUSEADDR when it was bound */
#define AFNET_SOCKET_REUSEPORT	   16	/* had SO_REUSEPORT */
#define AFNET_SOCKET_PENDING	   32	/* to be registered when the kernel has chosen a port */
#define AFNET_SOCKET_ENGAGED	   64	/* counted in afnet_sharers.engaged */
#define AFNET_SOCKET_BOUND	   256	/* bind() was called: names are as it was told */
#define AFNET_SOCKET_SET_REUSE	   512	/* the program has set SO_REUSEADDR */
#define AFNET_SOCKET_SET_REUSEPORT 1024 /* ... SO_REUSEPORT */

/* Storage of a socket of a compartment, or (slot 0) of the host's UDP sockets. */
struct afnet_socket {
	__u64 cgroup; /* identity of the compartment beside its reusable slot */
	__u32 slot;
	__u32 flags;
	__u16 port; /* what bind() was told, or the kernel has chosen; 0: not registered */
	__u8 protocol;
	__u8 reserved;
	__u32 epoch;	      /* of `in` and `out` */
	__u64 cookie;	      /* of the socket that registered; those it accepts inherit all this */
	struct afnet_ip addr; /* what bind() was told */
	struct afnet_ip anchor; /* what the kernel was told instead */
	struct afnet_ip in;	/* last destination and source that were checked and good */
	struct afnet_ip out;
};

/* Value of `quota`. */
struct afnet_quota {
	__u64 sockets;
};

/* Value of `refusals`, index: slot; see counters.h. */
struct afnet_refusals {
	__u64 count[AFNET_REFUSALS];
};

_Static_assert(sizeof(struct afnet_ip) == 16, "fixed layout");
_Static_assert(sizeof(struct afnet_owner_prefix) == 20, "no padding in a trie key");
_Static_assert(sizeof(struct afnet_confined) == 64, "fixed layout");
_Static_assert(sizeof(struct afnet_source) == 24, "fixed layout");
_Static_assert(sizeof(struct afnet_port_key) == 24, "no padding in a hash key");
_Static_assert(sizeof(struct afnet_port) == 64, "fixed layout");
_Static_assert(sizeof(struct afnet_hearers_key) == 8, "no padding in a hash key");
_Static_assert(sizeof(struct afnet_hearers) == 136, "fixed layout");
_Static_assert(sizeof(struct afnet_fast_group) == 20, "no padding in a hash key");
_Static_assert(sizeof(struct afnet_replicated) == 32, "no padding in a hash key");
_Static_assert(sizeof(struct afnet_socket) == 96, "fixed layout");

#endif
