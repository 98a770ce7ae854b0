/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Conflict events to the daemon, by ring buffer. A full ring loses the event and counts it.
 */
#ifndef AFNET_EVENTS_H
#define AFNET_EVENTS_H

#include "parse.h"

/* Not static: checked once by itself, and so in the object's BTF, which gives Rust the event's
 * layout. */
__noinline int send_conflict(struct afnet_event *event)
{
	if (!event)
		return XDP_PASS;
	count_slot(event->slot, AFNET_PASS_CONFLICT);
	if (bpf_ringbuf_output(&events, event, sizeof(*event), 0))
		count_slot(event->slot, AFNET_EVENT_LOST);
	return XDP_PASS;
}

/* `nonce`: 0 if there is none; else with bit 48 set (nd.h). */
static __always_inline int conflict(__u32 kind, __u32 slot, __u32 vlan, const __u8 *mac,
				    const __be32 *addr, __u64 nonce)
{
	struct afnet_event event = {.kind = kind, .slot = slot, .vlan = vlan};

	if (nonce)
		event.flags = AFNET_EVENT_NONCE;
	put_mac(event.nonce, nonce);
	put_mac(event.mac, mac_number(mac));
	__builtin_memcpy(event.addr, addr, sizeof(event.addr));
	return send_conflict(&event);
}

/* The same for an IPv4 address, which goes out IPv4-mapped (RFC 4291 2.5.5.2). */
static __always_inline int conflict4(__u32 kind, __u32 slot, __u32 vlan, const __u8 *mac,
				     __be32 addr)
{
	__be32 mapped[4] = {0, 0, bpf_htonl(0xffff), addr};

	return conflict(kind, slot, vlan, mac, mapped, 0);
}

#endif
