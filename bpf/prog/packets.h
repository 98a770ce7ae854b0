/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets of a compartment's sockets: the last word, for whatever no hook of a system call has
 * seen. The address that was good last time is good again as long as no address changes its owner.
 */
#ifndef AFNET_PACKETS_H
#define AFNET_PACKETS_H

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "ping.h"

/* Both addresses of a packet. */
struct ends {
	struct afnet_ip from;
	struct afnet_ip to;
};

static __always_inline bool read_ends(struct __sk_buff *skb, struct ends *ends)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) > end)
			return false;
		ends->from = ip4(ip->saddr);
		ends->to = ip4(ip->daddr);
	} else {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(&ends->from, &ip->saddr, sizeof(ends->from));
		__builtin_memcpy(&ends->to, &ip->daddr, sizeof(ends->to));
	}
	return true;
}

/* The storage of the packet's socket; NULL: not confined. */
static __always_inline struct afnet_socket *socket_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return NULL;
	sk = bpf_sk_fullsock(sk);
	return sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : NULL;
}

/* Forgets what was checked before an address changed its owner. */
static __always_inline void refresh(struct afnet_socket *s)
{
	struct afnet_ip none = {};
	__u32 now = epoch;

	if (s->epoch == now)
		return;
	s->in = s->out = none;
	s->epoch = now;
}

/* Whether the packet stays within this host, where a policy may forbid it. */
static __always_inline bool within_host(const struct __sk_buff *skb)
{
	return skb->ifindex == LO_IFINDEX || (host_link && skb->ifindex == host_link);
}

/* Whether the packet comes from the rest of this host. What comes by the host link from nobody's
 * address is from outside: a worker has handed it on. */
static __always_inline bool from_rest(const struct __sk_buff *skb, const struct afnet_ip *from,
				      __u32 slot)
{
	__u32 owner;

	if (!within_host(skb))
		return false;
	owner = owner_of(from);
	return owner != slot && (owner || skb->ifindex == LO_IFINDEX);
}

/* A datagram to a group or to broadcast: those for sockets on all addresses come from group.h, the
 * others by the kernel's own delivery. */
static __always_inline int hear_many(const struct __sk_buff *skb, const struct ends *ends,
				     const struct afnet_confined *c, __u32 slot)
{
	__u32 sender = owner_of(&ends->from), ifindex = skb->ifindex;

	/* An endpoint's comes by the host link (from_worker()). */
	if (ifindex == LO_IFINDEX		? is_loopback(&ends->from)
	    : host_link && ifindex == host_link ? !sender
						: !is_at_device(slot, ifindex, 0)) {
		refused(slot, AFNET_DROP_INGRESS);
		return 0;
	}
	if (c->flags & AFNET_CONFINED_ISOLATED && sender != slot &&
	    (sender || ifindex == LO_IFINDEX || skb->pkt_type == PACKET_LOOPBACK)) {
		refused(slot, AFNET_DROP_ISOLATED);
		return 0;
	}
	return 1;
}

SEC("cgroup_skb/ingress")
int afnet_ingress(struct __sk_buff *skb)
{
	struct afnet_socket *s = socket_of(skb);
	const struct afnet_confined *c;
	struct ends ends;

	if (!s || !s->slot)
		return 1;
	if (!read_ends(skb, &ends))
		return 0;
	c = home(s);
	if (!c) {
		refused(s->slot, AFNET_DROP_INGRESS);
		return 0;
	}
	refresh(s);
	if (!same_ip(&s->in, &ends.to)) {
		__u32 owner = owner_of(&ends.to);

		if (owner != s->slot) {
			/* Groups, and the broadcast addresses of subnets. */
			if (is_group(&ends.to) || (!owner && (skb->pkt_type == PACKET_BROADCAST ||
							      skb->pkt_type == PACKET_LOOPBACK)))
				return hear_many(skb, &ends, c, s->slot);
			refused(s->slot, AFNET_DROP_INGRESS);
			return 0;
		}
		/* Nobody else's business; not remembered, since it depends on the source. */
		if (is_alias(&ends.to)) {
			if (skb->ifindex == LO_IFINDEX && owner_of(&ends.from) == s->slot)
				return 1;
			refused(s->slot, AFNET_DROP_INGRESS);
			return 0;
		}
		s->in = ends.to;
	}
	if (c->flags & AFNET_CONFINED_ISOLATED && from_rest(skb, &ends.from, s->slot)) {
		refused(s->slot, AFNET_DROP_ISOLATED);
		return 0;
	}
	return 1;
}

SEC("cgroup_skb/egress")
int afnet_egress(struct __sk_buff *skb)
{
	struct afnet_socket *s = socket_of(skb);
	const struct afnet_confined *c;
	struct ends ends;

	if (!s || !s->slot)
		return 1;
	if (!read_ends(skb, &ends))
		return 0;
	c = home(s);
	if (!c) {
		refused(s->slot, AFNET_DROP_EGRESS);
		return 0;
	}
	refresh(s);
	if (!same_ip(&s->out, &ends.from)) {
		if (owner_of(&ends.from) != s->slot) {
			/* Of a ping socket, which no hook sees: its source is chosen at the device
			 * (ping.h). */
			if (echo_at(skb, 0) && chooses_source(skb->ifindex))
				return 1;
			refused(s->slot, AFNET_DROP_EGRESS);
			return 0;
		}
		/* The loopback does not leave the machine. */
		if (is_alias(&ends.from) && skb->ifindex != LO_IFINDEX) {
			refused(s->slot, AFNET_DROP_EGRESS);
			return 0;
		}
		if (!is_alias(&ends.from))
			s->out = ends.from;
	}
	if (c->flags & AFNET_CONFINED_ISOLATED && within_host(skb) &&
	    owner_of(&ends.to) != s->slot && !is_group(&ends.to)) {
		refused(s->slot, AFNET_DROP_ISOLATED);
		return 0;
	}
	return 1;
}

#endif
