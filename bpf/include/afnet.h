/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the BPF programs and the Rust side share: keys and values of the maps, events. These layouts
 * stand here only; the Rust side uses the types of the generated skeleton as they are
 * (src/skel.rs), and build.rs hands it the numbers.
 *
 * Numbers are in host byte order unless the type says __be. `vlan` is the realm on this device:
 * bits 0-11 the VID of the 802.1Q tag, bits 12-23 that of the 802.1ad tag, 0 where there is no tag
 * (dataplane/abi/src/vlan.rs).
 */
#ifndef AFNET_H
#define AFNET_H

#include <linux/types.h>
#include "counters.h"
#include "tags.h"

/* Bits of afnet_address.flags. */
#define AFNET_TENTATIVE 1 /* being probed: answer nothing, deliver nothing */
#define AFNET_FAST_ONLY 2 /* the kernel does not have it: answer echo requests here */

/* Bits of afnet_compartment.flags. */
#define AFNET_RAW 1 /* everything goes to the fast path but ARP, ND, IGMP, MLD */

/* Kinds of afnet_event (RFC 5227 2.1.1, 2.4; RFC 4862 5.4.3, 5.4.4). */
#define AFNET_EVENT_ARP_SENDER 1 /* ARP whose sender address is ours */
#define AFNET_EVENT_ARP_PROBE  2 /* another host's probe for a tentative address */
#define AFNET_EVENT_NS_PROBE   3 /* another host's NS from :: for a tentative address */
#define AFNET_EVENT_NS_SENDER  4 /* NS whose source is ours */
#define AFNET_EVENT_NA	       5 /* NA for our address */

/* Bits of afnet_event.flags. */
#define AFNET_EVENT_NONCE 1 /* `nonce` is that of the solicitation (RFC 7527 4.1) */

/* Longest IPv6 extension header chain that is followed, in headers. */
#define AFNET_CHAIN_MAX 8

/* Key of `addresses4`. */
struct afnet_key4 {
	__u32 vlan;
	__be32 addr;
};

/* Key of `addresses6`. */
struct afnet_key6 {
	__u32 vlan;
	__be32 addr[4];
};

/* Keys of `prefixes4` and `prefixes6`. `len` counts the 32 bits of `vlan` too, which always match
 * as a whole. */
struct afnet_prefix4 {
	__u32 len;
	struct afnet_key4 key;
};

struct afnet_prefix6 {
	__u32 len;
	struct afnet_key6 key;
};

/* Value of the address and prefix maps. */
struct afnet_address {
	__u32 slot;
	__u32 flags;
};

/* Ports of a compartment's claims that stand in `compartments` too. */
#define AFNET_PORTS 4

/* Value of `compartments`, index: slot. Written by the daemon only. */
struct afnet_compartment {
	__u32 flags;
	__u32 shifts; /* bit s: there are claims of blocks of 2^s ports; 0: no claim at all */
	__u16 ports[AFNET_PORTS]; /* the first claims of single ports, 0: none; saves the look-up */
	__u64 interval;		  /* token bucket: nanoseconds for each packet; 0: unlimited */
	__u64 tolerance; /* token bucket: how far ahead of the clock it may run, nanoseconds */
};

/* Key of `claims`: 2^shift ports from `port` on, aligned. The value is of no meaning. */
struct afnet_claim {
	__u32 slot;
	__u16 port;
	__u8 protocol;
	__u8 shift;
};

/* `groups4` and `groups6` have the keys of the address maps: a group, or a broadcast address, that
 * endpoints have joined. Their frames go to the sockets of slot 0. The value is of no meaning. */
#define AFNET_GROUPS_SLOT 0

/* Record of the ring buffer `events`. */
struct afnet_event {
	__u32 kind;
	__u32 slot;
	__u32 vlan;
	__u8 mac[6]; /* the other host's; ours if our own probe came back */
	__u16 flags;
	__u8 addr[16]; /* ours; IPv4 as ::ffff:a.b.c.d */
	__u8 nonce[6];
	__u16 reserved; /* zero */
};

/* Longest IGMP or MLD packet that the daemon is told of. */
#define AFNET_PACKET_MAX 1500

/* Flag of afnet_packet: the kernel of this host has sent it, and it went no further. */
#define AFNET_PACKET_KERNELS 1

/* Record of the ring buffer `memberships`: a query or a report of an old version that came; or a
 * report of the kernel's own. */
struct afnet_packet {
	__u32 vlan;
	__u16 length;
	__u16 flags;
	__u8 bytes[AFNET_PACKET_MAX]; /* from the IP header on */
};

/* Values of the counter maps. */
struct afnet_compartment_counters {
	__u64 count[AFNET_COMPARTMENT_COUNT];
};

struct afnet_device_counters {
	__u64 count[AFNET_COUNT - AFNET_COMPARTMENT_COUNT];
};

_Static_assert(sizeof(struct afnet_key4) == 8, "no padding in a hash key");
_Static_assert(sizeof(struct afnet_key6) == 20, "no padding in a hash key");
_Static_assert(sizeof(struct afnet_prefix4) == 12, "no padding in a trie key");
_Static_assert(sizeof(struct afnet_prefix6) == 24, "no padding in a trie key");
_Static_assert(sizeof(struct afnet_address) == 8, "fixed layout");
_Static_assert(sizeof(struct afnet_compartment) == 32, "fixed layout");
_Static_assert(sizeof(struct afnet_claim) == 8, "no padding in a hash key");
_Static_assert(sizeof(struct afnet_event) == 44, "fixed layout");
_Static_assert(sizeof(struct afnet_packet) == 8 + AFNET_PACKET_MAX, "fixed layout");

#endif
