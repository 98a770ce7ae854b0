/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For afnetd, which runs this by itself (BPF_PROG_TEST_RUN): whether the socket at a compartment's
 * port is still in a group at a device. The frame is an Ethernet header, a key of `ports` and one
 * of `replicated`.
 *
 * The answer tells one time from another in which it was in the group: it is made of the address of
 * the kernel's entry, which is not used again within an RCU grace period after the socket has left.
 */
#ifndef AFNET_MEMBERSHIP_H
#define AFNET_MEMBERSHIP_H

#include "group.h"

SEC("tc")
int afnet_membership(struct __sk_buff *skb)
{
	struct afnet_ip anchor, nobody = {};
	struct afnet_replicated asked;
	struct afnet_port_key key;
	const struct afnet_port *p;
	struct afnet_socket *s;
	struct walk w = {};
	struct bpf_sock *sk;
	__u32 answer = 0;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &key, sizeof(key)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(key), &asked, sizeof(asked)))
		return 0;
	p = bpf_map_lookup_elem(&ports, &key);
	if (!p)
		return 0;
	anchor = p->anchor;
	if (is_ip4(&anchor))
		nobody = ip4(0);
	sk = find_udp(skb, &anchor, &nobody, bpf_htons(p->port), 0);
	if (!sk)
		return 0;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (s && s->cookie == asked.cookie) {
		w.group = asked.group;
		w.ifindex = asked.ifindex;
		is_member(&w, (const void *)kernel_sock(sk));
		if (w.found)
			answer = (__u64)w.at >> 3;
	}
	bpf_sk_release(sk);
	return answer;
}

#endif
