/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Conflict events to the daemon, by ring buffer. A full ring loses the event and counts it.
 */
#ifndef AFNET_EVENTS_H
#define AFNET_EVENTS_H

#include "parse.h"

/* Not static, and so in the object's BTF, which gives Rust the event's layout. */
__noinline int event_kind(const struct afnet_event *event)
{
	return event ? event->kind : 0;
}

/* `nonce`: 0 if there is none; else with bit 48 set (nd.h). In the ring at once: kernels before 6.6
 * have no room left on the stack of those who call. */
static __always_inline int conflict(__u32 kind, __u32 slot, __u32 vlan, const __u8 *mac,
				    const __be32 *addr, __u64 nonce)
{
	struct afnet_event *event;

	count_slot(slot, AFNET_PASS_CONFLICT);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count_slot(slot, AFNET_EVENT_LOST);
		return XDP_PASS;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->slot = slot;
	event->vlan = vlan;
	if (nonce)
		event->flags = AFNET_EVENT_NONCE;
	put_mac(event->nonce, nonce);
	put_mac(event->mac, mac_number(mac));
	__builtin_memcpy(event->addr, addr, sizeof(event->addr));
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

/* The same for an IPv4 address, which goes out IPv4-mapped (RFC 4291 2.5.5.2). */
static __always_inline int conflict4(__u32 kind, __u32 slot, __u32 vlan, const __u8 *mac,
				     __be32 addr)
{
	__be32 mapped[4] = {0, 0, bpf_htonl(0xffff), addr};

	return conflict(kind, slot, vlan, mac, mapped, 0);
}

#endif
