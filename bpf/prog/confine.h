/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Maps of the kernel path, and the questions that all of its hooks ask.
 *
 *  cgroups    cgroup id -> slot          confined   slot -> cgroup, primary addresses, policy
 *  owners     address -> slot            sources    slot -> candidates for source addresses
 *  owner_prefixes  the same, delegated   refusals   slot -> counts, for each CPU
 *  sockets    storage of each socket     ports      (slot, address, port) -> who has it
 *  listening  (slot, address, port) -> socket: what sk_lookup can steer to
 *  claimed    sockets behind claims      releases   of them, those that have given their port up
 *  counted    sockets of the quota       quota      cgroup id -> how many there are
 *  hearers    (port, sort of group) -> slots   replicated  sockets that the fast path serves, too
 *
 * `sockets`, `ports`, `listening`, `hearers`, `counted` and `quota` are the programs' own state and
 * outlive them (they are pinned); the daemon fills the others.
 */
#ifndef AFNET_PROG_CONFINE_H
#define AFNET_PROG_CONFINE_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "../include/confine.h"
#include "kernel.h"

#define AF_INET	 2
#define AF_INET6 10

#define EPERM		1
#define E2BIG		7
#define EACCES		13
#define EINVAL		22
#define ENOBUFS		105
#define EPROTONOSUPPORT 93
#define ESOCKTNOSUPPORT 94
#define EADDRINUSE	98
#define EADDRNOTAVAIL	99
#define ENETUNREACH	101
#define ECONNREFUSED	111

/* The loopback device of every network namespace. */
#define LO_IFINDEX 1

/* Options, fixed when the programs are loaded. */
const volatile __u64 netns_cookie; /* of the network namespace that is confined */

/* State that the daemon changes while they run. */
volatile __u32 epoch; /* grows whenever an address changes its owner */
volatile __u32 has_owner_prefixes;
volatile __u32 off_primary;   /* set by bind.h: a socket on all addresses is at no primary one */
volatile __u32 host_link;     /* the kernel's end of the host link; 0: none */
volatile __u32 releases_lost; /* set here: reports that found no room */

#define HASH(map, key_type, value_type, entries)                                                   \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__uint(max_entries, entries);                                                      \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} map SEC(".maps")

/* Sizes of 1 are set by the loader. */
HASH(cgroups, __u64, __u32, 1);
HASH(owners, struct afnet_ip, __u32, 1);
HASH(sources, __u32, struct afnet_sources, 1);
/* Ports in use at a time; a socket on all addresses of both families takes two. Fixed, since the
 * map is kept. */
HASH(ports, struct afnet_port_key, struct afnet_port, 1 << 20);

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct afnet_owner_prefix);
	__type(value, __u32);
} owner_prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct afnet_confined);
} confined SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct afnet_refusals);
} refusals SEC(".maps");

/* Accepted sockets inherit it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct afnet_socket);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1 << 18);
	__type(key, struct afnet_port_key);
	__type(value, __u64);
} listening SEC(".maps");

/* What sock_create has counted, with the id of the cgroup that it was counted for. What a listener
 * accepts is not: it does not inherit this. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} counted SEC(".maps");

/* By the id of a compartment's cgroup, which is never used again; the daemon removes what is left
 * of those that are gone. */
HASH(quota, __u64, struct afnet_quota, 1 << 16);

/* What a claim stands on: the socket's cookie; 0: its release was reported. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} claimed SEC(".maps");

/* Cookies. A socket behind a claim is reported once, so there is room for 65536 of them between two
 * visits of the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} releases SEC(".maps");

/* The socket has its port no more: if a claim stands on it, the daemon is to know. */
static __always_inline void report_release(void *sk)
{
	__u64 *cookie = bpf_sk_storage_get(&claimed, sk, 0, 0);

	if (!cookie || !*cookie)
		return;
	if (!bpf_ringbuf_output(&releases, cookie, sizeof(*cookie), 0))
		*cookie = 0;
	else
		releases_lost++;
}

static __always_inline void refused(__u32 slot, enum afnet_refusal why)
{
	struct afnet_refusals *r = bpf_map_lookup_elem(&refusals, &slot);

	if (r)
		r->count[why]++;
}

/* For hooks whose answer is an errno: counts, says which, and denies. */
static __always_inline int refuse(__u32 slot, enum afnet_refusal why, int error)
{
	refused(slot, why);
	bpf_set_retval(-error);
	return 0;
}

static __always_inline struct afnet_ip ip4(__be32 addr)
{
	struct afnet_ip ip = {.word = {0, 0, bpf_htonl(0xffff), addr}};

	return ip;
}

static __always_inline bool is_ip4(const struct afnet_ip *ip)
{
	return !ip->word[0] && !ip->word[1] && ip->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool same_ip(const struct afnet_ip *a, const struct afnet_ip *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

/* 0.0.0.0 or :: */
static __always_inline bool is_any(const struct afnet_ip *ip)
{
	return !ip->word[3] && !ip->word[0] && !ip->word[1] && (!ip->word[2] || is_ip4(ip));
}

/* No address at all: what maps hold for "none". */
static __always_inline bool is_none(const struct afnet_ip *ip)
{
	return !ip->word[0] && !ip->word[1] && !ip->word[2] && !ip->word[3];
}

static __always_inline bool is_group(const struct afnet_ip *ip)
{
	if (is_ip4(ip))
		return (bpf_ntohl(ip->word[3]) & 0xf0000000) == 0xe0000000 ||
		       ip->word[3] == 0xffffffff;
	return (bpf_ntohl(ip->word[0]) & 0xff000000) == 0xff000000;
}

/*
 * Loopback. 127.0.0.X of a compartment (X up to 126) is 127.(128+X).SLOT, 127.0.1.1 has X 127, and
 * ::1 is fdaf:6e65:7400::SLOT, an address of `lo`.
 */
#define LOOPBACK6_0 0xfdaf6e65
#define LOOPBACK6_1 0x74000000

static __always_inline struct afnet_ip loopback4(__u32 slot, __u32 x)
{
	return ip4(bpf_htonl(0x7f800000 | x << 16 | (slot & 0xffff)));
}

static __always_inline struct afnet_ip loopback6(__u32 slot)
{
	struct afnet_ip ip = {
		.word = {bpf_htonl(LOOPBACK6_0), bpf_htonl(LOOPBACK6_1), 0, bpf_htonl(slot)}};

	return ip;
}

/* Whether it is a loopback address as programs know it: 127.0.0.0/9 (what the compartments have
 * lies above) or ::1. */
static __always_inline bool is_loopback(const struct afnet_ip *ip)
{
	if (is_ip4(ip))
		return (bpf_ntohl(ip->word[3]) & 0xff800000) == 0x7f000000;
	return !ip->word[0] && !ip->word[1] && !ip->word[2] && ip->word[3] == bpf_htonl(1);
}

/* Whether it is one that stands for a compartment's loopback. */
static __always_inline bool is_alias(const struct afnet_ip *ip)
{
	if (is_ip4(ip))
		return (bpf_ntohl(ip->word[3]) & 0xff800000) == 0x7f800000;
	return ip->word[0] == bpf_htonl(LOOPBACK6_0) && ip->word[1] == bpf_htonl(LOOPBACK6_1) &&
	       !ip->word[2];
}

/* The alias of a loopback address; false: one that compartments do not have. */
static __always_inline bool to_alias(struct afnet_ip *ip, __u32 slot)
{
	__u32 host = bpf_ntohl(ip->word[3]) & 0x00ffffff;

	if (!is_ip4(ip)) {
		*ip = loopback6(slot);
		return true;
	}
	if (host == 0x000101)
		host = 127;
	else if (host >= 127)
		return false;
	*ip = loopback4(slot, host);
	return true;
}

/* The loopback address that programs of the compartment know; unchanged if it is no alias. */
static __always_inline bool from_alias(struct afnet_ip *ip)
{
	__u32 host;

	if (!is_alias(ip))
		return false;
	if (!is_ip4(ip)) {
		ip->word[0] = ip->word[1] = 0;
		ip->word[3] = bpf_htonl(1);
		return true;
	}
	host = bpf_ntohl(ip->word[3]) >> 16 & 127;
	*ip = ip4(bpf_htonl(0x7f000000 | (host == 127 ? 0x000101 : host)));
	return true;
}

/* Which compartment an address belongs to; 0: none. */
static __always_inline __u32 owner_of(const struct afnet_ip *ip)
{
	struct afnet_ip key = *ip;
	const __u32 *owner;

	if (is_alias(ip))
		return bpf_ntohl(ip->word[3]) & (is_ip4(ip) ? 0xffff : 0xffffffff);
	owner = bpf_map_lookup_elem(&owners, &key);
	if (!owner && has_owner_prefixes) {
		struct afnet_owner_prefix prefix = {.len = 128, .addr = *ip};

		owner = bpf_map_lookup_elem(&owner_prefixes, &prefix);
	}
	return owner ? *owner : 0;
}

/* The compartment of the current process; 0: none that is known. */
static __always_inline __u32 current_slot(__u64 *cgroup)
{
	/* The depth of the instance's cgroup is the operator's; the usual one is found at the
	 * second look. */
	for (int level = 1; level < 10; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);
		const __u32 *slot;

		if (!id)
			break;
		slot = bpf_map_lookup_elem(&cgroups, &id);
		if (slot) {
			*cgroup = id;
			return *slot;
		}
	}
	return 0;
}

/* The compartment that a socket still belongs to: its slot may be somebody else's by now. */
static __always_inline const struct afnet_confined *home(const struct afnet_socket *s)
{
	__u32 slot = s->slot;
	const struct afnet_confined *c = bpf_map_lookup_elem(&confined, &slot);

	return c && slot && c->cgroup == s->cgroup ? c : NULL;
}

#endif
