/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a packet's destination to the socket of the compartment: sk_lookup.
 *
 *  1. an address of no compartment                     -> the kernel's own look-up
 *  2. TCP: a listener on the address, else on all      -> it, wherever the kernel has it
 *  3. UDP: a socket on the address                     -> the kernel's own look-up finds it
 *  4. UDP: one on all addresses, at this one           -> the kernel's own look-up finds it
 *  5. UDP: one on all addresses, at another one        -> it
 *  6. the host has a socket on the very address        -> the kernel's own look-up finds it
 *  7. nothing listens                                  -> no socket, not one of the host on all
 *
 * The kernel asks for none that goes to a group or to broadcast: group.h.
 *
 * The kernel asks only when no established or connected socket matches. TCP listeners enter
 * `listening` by themselves (bind.h). A UDP socket cannot; the program at the ingress of the
 * device, of `lo` and of the host link gives it whole datagrams, and enters it when a fragment or
 * an error comes that needs it. Not before: of a socket in a sockhash the kernel does not tell how
 * long the next datagram is (FIONREAD, recv() of no bytes).
 */
#ifndef AFNET_STEER_H
#define AFNET_STEER_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include "group.h"

/* Gives the packet to one of the listeners of a port; false: there is none. */
__noinline int assign(struct bpf_sk_lookup *ctx, const struct afnet_port_key *of)
{
	struct afnet_port_key key;

	if (!of)
		return false;
	key = *of;
	for (int i = 0; i < AFNET_LISTENERS; i++) {
		struct bpf_sock *sk;
		long error;

		key.bucket = i;
		sk = bpf_map_lookup_elem(&listening, &key);
		if (!sk)
			continue;
		error = bpf_sk_assign(ctx, sk, 0);
		bpf_sk_release(sk);
		if (!error)
			return true;
	}
	return false;
}

/* Nothing of the compartment wants it. */
static __always_inline int unheard(struct afnet_port_key *key, const struct afnet_ip *to,
				   __u32 slot)
{
	const struct afnet_port *p;

	key->home = 0;
	key->addr = *to;
	p = bpf_map_lookup_elem(&ports, key);
	if (p && p->own.count)
		return SK_PASS;
	refused(slot, AFNET_DROP_UNHEARD);
	return SK_DROP;
}

static __always_inline int look_up(struct bpf_sk_lookup *ctx)
{
	struct afnet_port_key key = {};
	const struct afnet_confined *c;
	const struct afnet_port *p;
	struct afnet_ip to;
	__u32 slot;

	if (ctx->family == AF_INET) {
		to = ip4(ctx->local_ip4);
	} else {
		to.word[0] = ctx->local_ip6[0];
		to.word[1] = ctx->local_ip6[1];
		to.word[2] = ctx->local_ip6[2];
		to.word[3] = ctx->local_ip6[3];
	}
	slot = owner_of(&to);
	if (!slot)
		return SK_PASS;
	c = bpf_map_lookup_elem(&confined, &slot);
	key.home = c ? c->cgroup : 0;
	key.port = ctx->local_port;
	key.protocol = ctx->protocol;
	key.addr = any_of(&to);
	/* Nobody has ever entered it: only the host's sockets can be meant. */
	p = key.home ? bpf_map_lookup_elem(&ports, &key) : NULL;
	if (ctx->protocol == IPPROTO_TCP) {
		if (p && p->single.engaged) {
			key.addr = to;
			if (assign(ctx, &key))
				return SK_PASS;
			key.addr = any_of(&to);
		}
		if (p && p->own.engaged && assign(ctx, &key))
			return SK_PASS;
		return unheard(&key, &to, slot);
	}
	if (p && receives(p) && (p->flags & AFNET_PORT_UNBOUND || same_ip(&p->anchor, &to)))
		return SK_PASS;
	if (p && p->single.count) {
		const struct afnet_port *exact;

		key.addr = to;
		exact = bpf_map_lookup_elem(&ports, &key);
		if (exact && receives(exact))
			return SK_PASS;
		key.addr = any_of(&to);
	}
	if (p && receives(p) && assign(ctx, &key))
		return SK_PASS;
	return unheard(&key, &to, slot);
}

SEC("sk_lookup")
int afnet_lookup(struct bpf_sk_lookup *ctx)
{
	int verdict = look_up(ctx);

	/* The verifier loses sight of a constant that the compiler keeps on the stack. */
	asm volatile("" : "+r"(verdict));
	return verdict & 1;
}

/* The packet that an ICMP error quotes (its header has 8 bytes in both families); NULL: it is none.
 */
static __always_inline void *quoted(struct __sk_buff *skb, void *l3, void *end)
{
	__u8 *icmp;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = l3;

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_ICMP)
			return NULL;
		icmp = l3 + ip->ihl * 4;
		/* Unreachable, time exceeded, parameter problem. */
		if ((void *)(icmp + 8) > end || (*icmp != 3 && *icmp != 11 && *icmp != 12))
			return NULL;
	} else {
		struct ipv6hdr *ip = l3;

		icmp = (void *)(ip + 1);
		if ((void *)(icmp + 8) > end || ip->nexthdr != IPPROTO_ICMPV6 || *icmp & 0x80)
			return NULL;
	}
	return icmp + 8;
}

/* Whether the datagram is from the rest of this host to an isolated compartment. */
static __always_inline bool kept_out(const struct __sk_buff *skb, const struct flow *flow)
{
	const struct afnet_confined *c;
	__u32 slot;

	if (skb->ifindex != LO_IFINDEX)
		return false;
	slot = owner_of(&flow->ours);
	c = slot ? bpf_map_lookup_elem(&confined, &slot) : NULL;
	if (!c || !(c->flags & AFNET_CONFINED_ISOLATED) || owner_of(&flow->theirs) == slot)
		return false;
	refused(slot, AFNET_DROP_ISOLATED);
	return true;
}

/* Whether a socket is at one address and the packet's at that, or connected: the kernel prefers it.
 */
static __always_inline bool is_closer(struct bpf_sock *sk, const struct afnet_ip *to)
{
	struct afnet_ip at = place_of(sk);

	return sk->state == STATE_ESTABLISHED || same_ip(&at, to);
}

/*
 * A packet for one address: the verdict, or FOR_MANY. (A function by itself to leave the stack to
 * group_packet().) Enters sockets (see above). And drops what the host and other compartments send
 * to an isolated compartment: a claim's socket may be that of a tenant outside of the cgroup, which
 * no other program watches.
 */
__noinline int unicast_packet(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct afnet_port_key key = {.protocol = IPPROTO_UDP};
	const struct afnet_confined *c;
	const struct afnet_port *p;
	struct afnet_ip to, from;
	struct afnet_socket *s;
	struct flow flow = {};
	struct bpf_sock *sk;
	bool connected;
	void *inner = NULL;
	__u32 slot;

	if (!read_udp(skb, data + ETH_HLEN, end, false, &flow)) {
		inner = quoted(skb, data + ETH_HLEN, end);
		if (!inner || !read_udp(skb, inner, end, true, &flow))
			return TC_ACT_UNSPEC;
	}
	if (!inner && is_group(&flow.ours))
		return FOR_MANY;
	if (!inner && kept_out(skb, &flow))
		return TC_ACT_SHOT;
	to = flow.ours;
	from = flow.theirs;
	slot = owner_of(&to);
	c = slot ? bpf_map_lookup_elem(&confined, &slot) : NULL;
	if (!c || !c->cgroup)
		return TC_ACT_UNSPEC;
	key.home = c->cgroup;
	/* Nearly all sockets on all addresses are at the primary one. */
	if (same_ip(&to, &c->primary4) && !off_primary)
		return TC_ACT_UNSPEC;
	key.addr = any_of(&to);
	key.port = bpf_ntohs(flow.port);
	p = bpf_map_lookup_elem(&ports, &key);
	if (!p || !receives(p) || p->flags & AFNET_PORT_UNBOUND || same_ip(&p->anchor, &to))
		return TC_ACT_UNSPEC;
	sk = bpf_map_lookup_elem(&listening, &key);
	if (sk) {
		/* Connected meanwhile, it is not for everybody any more. */
		connected = sk->state == STATE_ESTABLISHED;
		bpf_sk_release(sk);
		if (!connected)
			return TC_ACT_UNSPEC;
	}
	if (p->single.count || p->own.engaged) {
		sk = find_udp(skb, &to, &from, flow.port, flow.their_port);
		if (sk) {
			bool closer = is_closer(sk, &to);

			bpf_sk_release(sk);
			if (closer)
				return TC_ACT_UNSPEC;
		}
	}
	to = p->anchor;
	sk = find_udp(skb, &to, &from, bpf_htons(p->port), flow.their_port);
	if (!sk)
		return TC_ACT_UNSPEC;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (s && s->cgroup == c->cgroup && s->flags & (AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6) &&
	    sk->state != STATE_ESTABLISHED &&
	    /* Before 6.6 not with SO_REUSEPORT. */
	    (!flow.whole || bpf_sk_assign(skb, sk, 0)))
		bpf_map_update_elem(&listening, &key, sk, BPF_ANY);
	bpf_sk_release(sk);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int afnet_enter(struct __sk_buff *skb)
{
	int verdict;

	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return TC_ACT_UNSPEC;
	/* Frames on `lo` do not say that they are for many. */
	verdict = skb->pkt_type == PACKET_HOST ? FOR_ONE : group_packet(skb);
	if (verdict == FOR_ONE)
		verdict = unicast_packet(skb);
	if (verdict == FOR_MANY)
		verdict = group_packet(skb);
	return verdict;
}

#endif
