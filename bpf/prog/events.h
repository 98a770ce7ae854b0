/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events to the daemon, by ring buffers: conflicts, and packets of IGMP and MLD. A full ring loses
 * the event and counts it.
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

/* The bytes of the packet at `l3`. Not static, likewise. */
__noinline int fill_packet(struct xdp_md *xdp, struct afnet_packet *packet, __u32 l3, __u32 length)
{
	__u64 rest = to_bound(length - 1);

	/* Of no bytes it is too large. Kernels before 6.8 learn nothing from a comparison with 0.
	 */
	if (!packet || rest > AFNET_PACKET_MAX - 1)
		return -1;
	barrier_var(rest);
	packet->length = rest + 1;
	return bpf_xdp_load_bytes(xdp, l3, packet->bytes, rest + 1);
}

/* Tells the daemon of the packet of `length` bytes at `l3`, which is passed on in any case. */
static __always_inline void tell_membership(struct xdp_md *xdp, __u32 l3, __u32 vlan, __u32 length)
{
	struct afnet_packet *packet = bpf_ringbuf_reserve(&memberships, sizeof(*packet), 0);

	if (!packet) {
		count(AFNET_MEMBERSHIP_LOST);
		return;
	}
	packet->vlan = vlan;
	packet->flags = 0;
	if (fill_packet(xdp, packet, l3, length)) {
		bpf_ringbuf_discard(packet, 0);
		count(AFNET_MEMBERSHIP_LOST);
		return;
	}
	bpf_ringbuf_submit(packet, 0);
}

/* Whether a host has to know what other hosts and routers say there. */
static __always_inline bool igmp_concerns(__u8 type)
{
	return type == 0x11 || type == 0x12 || type == 0x16;
}

static __always_inline bool mld_concerns(__u8 type)
{
	return type == 130 || type == 131;
}

/* Not inlined: out of the way of the packets that are many. */
static __noinline int igmp(struct xdp_md *xdp, __u32 l3, __u32 vlan, __u32 header, __u32 length)
{
	__u8 type;

	if (!bpf_xdp_load_bytes(xdp, l3 + header, &type, 1) && igmp_concerns(type))
		tell_membership(xdp, l3, vlan, length);
	return pass(AFNET_PASS_IGMP);
}

#endif
