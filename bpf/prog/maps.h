/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Maps, options and the look-ups in them. Sizes that say 1 are set by the loader.
 *
 *  addresses4/6  (vlan, address) -> slot, flags      prefixes4/6  the same for delegated prefixes
 *  compartments  slot -> flags, claim shifts, rate   buckets      slot -> token bucket's state
 *  claims        (slot, protocol, port block)        groups4/6    (vlan, group)
 *  xsks          slot * queues + queue -> AF_XDP socket; slot 0: the groups'
 *  dirty         queue * words + slot / 64 -> bits   events       conflicts
 *  counts, device_counts                             per CPU
 */
#ifndef AFNET_MAPS_H
#define AFNET_MAPS_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "../include/afnet.h"

/* Options, fixed when the program is loaded. */
const volatile __u32 queues = 1;      /* receive queues of the device */
const volatile __u32 dirty_words = 1; /* words of a queue in `dirty` */
const volatile bool frags;	      /* frames may have more than one buffer */

/* State that the daemon changes while the program runs; each a single word, so that no reader sees
 * half. */
volatile __u64
	device_mac; /* our MAC address in the low 6 bytes, as in memory on a little-endian CPU */
volatile __u32 has_prefixes4; /* number of entries in prefixes4: 0 saves the look-up */
volatile __u32 has_prefixes6;
volatile __u32 host_ifindex; /* host link for local delivery; 0: none */
volatile __u64 speaks_until; /* when the kernel speaks for the host again (CLOCK_MONOTONIC, ns) */
volatile __u64 speaker;	     /* SO_COOKIE of the socket that the daemon speaks by */

#define HASH(map, key_type, value_type)                                                            \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__uint(max_entries, 1);                                                            \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} map SEC(".maps")

#define TRIE(map, key_type, value_type)                                                            \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                               \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__uint(max_entries, 1);                                                            \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} map SEC(".maps")

#define ARRAY(map, kind, flags, value_type)                                                        \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__uint(map_flags, flags);                                                          \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, value_type);                                                         \
	} map SEC(".maps")

HASH(addresses4, struct afnet_key4, struct afnet_address);
HASH(addresses6, struct afnet_key6, struct afnet_address);
TRIE(prefixes4, struct afnet_prefix4, struct afnet_address);
TRIE(prefixes6, struct afnet_prefix6, struct afnet_address);
HASH(claims, struct afnet_claim, __u8);
HASH(groups4, struct afnet_key4, __u8);
HASH(groups6, struct afnet_key6, __u8);
ARRAY(compartments, BPF_MAP_TYPE_ARRAY, 0, struct afnet_compartment);
ARRAY(buckets, BPF_MAP_TYPE_ARRAY, 0, __u64);
ARRAY(dirty, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, __u64);
ARRAY(xsks, BPF_MAP_TYPE_XSKMAP, 0, __u32);
ARRAY(counts, BPF_MAP_TYPE_PERCPU_ARRAY, 0, struct afnet_compartment_counters);
ARRAY(device_counts, BPF_MAP_TYPE_PERCPU_ARRAY, 0, struct afnet_device_counters);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries,
	       64 << 10); /* bytes: some 1400 events between two visits of the daemon */
} events SEC(".maps");

/* One of their own, so that a flood of queries costs no conflict. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 10); /* bytes: 170 packets between two visits of the daemon */
} memberships SEC(".maps");

/* Counts a frame that belongs to no compartment. */
static __always_inline void count(enum afnet_counter counter)
{
	__u32 zero = 0;
	struct afnet_device_counters *c = bpf_map_lookup_elem(&device_counts, &zero);

	if (c)
		c->count[counter - AFNET_COMPARTMENT_COUNT]++;
}

/* Counts a frame of the compartment in `slot`. */
static __always_inline void count_slot(__u32 slot, enum afnet_counter counter)
{
	struct afnet_compartment_counters *c = bpf_map_lookup_elem(&counts, &slot);

	if (c)
		c->count[counter]++;
}

static __always_inline int pass(enum afnet_counter reason)
{
	count(reason);
	return XDP_PASS;
}

static __always_inline int pass_slot(__u32 slot, enum afnet_counter reason)
{
	count_slot(slot, reason);
	return XDP_PASS;
}

/* Who owns the IPv4 address: an exact entry, else the longest delegated prefix. */
static __always_inline const struct afnet_address *owner4(__u32 vlan, __be32 addr)
{
	struct afnet_key4 key = {.vlan = vlan, .addr = addr};
	const struct afnet_address *owner = bpf_map_lookup_elem(&addresses4, &key);

	if (!owner && has_prefixes4) {
		struct afnet_prefix4 prefix = {.len = 64, .key = key};

		owner = bpf_map_lookup_elem(&prefixes4, &prefix);
	}
	return owner;
}

/* Who owns the IPv6 address. */
static __always_inline const struct afnet_address *owner6(__u32 vlan, const __be32 *addr)
{
	struct afnet_prefix6 prefix = {
		.len = 160,
		.key = {.vlan = vlan, .addr = {addr[0], addr[1], addr[2], addr[3]}},
	};
	const struct afnet_address *owner = bpf_map_lookup_elem(&addresses6, &prefix.key);

	if (!owner && has_prefixes6)
		owner = bpf_map_lookup_elem(&prefixes6, &prefix);
	return owner;
}

/*
 * Whether UDP `port` of the compartment is claimed. Its first ports stand in its own entry. A claim
 * of a block stands in the map as aligned pieces of 2^shift ports; `shifts` says which sizes to
 * look for.
 */
static __always_inline bool claimed(__u32 slot, const struct afnet_compartment *c, __u16 port)
{
	struct afnet_claim key = {.slot = slot, .port = port, .protocol = IPPROTO_UDP};
	__u32 shifts = c->shifts;

	if (port && (port == c->ports[0] || port == c->ports[1] || port == c->ports[2] ||
		     port == c->ports[3]))
		return true;
	if (shifts & 1 && bpf_map_lookup_elem(&claims, &key))
		return true;
	if (shifts < 2)
		return false;
	for (__u32 shift = 1; shift <= 16; shift++) {
		if (!(shifts >> shift & 1))
			continue;
		key.port = port & 0xffff << shift;
		key.shift = shift;
		if (bpf_map_lookup_elem(&claims, &key))
			return true;
	}
	return false;
}

#endif
