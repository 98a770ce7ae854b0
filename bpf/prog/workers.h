/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What this host sends to groups, for endpoints that are in them: a copy into the host link, whose
 * other end a worker reads. The kernel gives a device's own packets to nobody but its sockets, by
 * the device's ingress, where no XDP program sees them.
 *
 * Datagrams longer than the host link's MTU do not get there.
 */
#ifndef AFNET_WORKERS_H
#define AFNET_WORKERS_H

#include "confine.h"

/* Groups that endpoints are in, and broadcast addresses, by device. The value is of no meaning. */
HASH(fast_groups, struct afnet_fast_group, __u8, 1 << 15);

static __always_inline bool is_fast_group(__u32 ifindex, const struct afnet_ip *group)
{
	struct afnet_fast_group key = {.ifindex = ifindex, .addr = *group};

	return bpf_map_lookup_elem(&fast_groups, &key);
}

/* Copies a frame into the host link. Its first 6 bytes become the tag, and are put back. */
static __always_inline void copy_to_workers(struct __sk_buff *skb, __u32 ifindex)
{
	struct {
		__be16 kind;
		__be32 ifindex;
	} __attribute__((packed)) tag = {bpf_htons(AFNET_MAC_WORKER), bpf_htonl(ifindex)};
	__u8 before[ETH_ALEN];

	bpf_skb_load_bytes(skb, 0, before, sizeof(before));
	bpf_skb_store_bytes(skb, 0, &tag, sizeof(tag), 0);
	bpf_clone_redirect(skb, host_link, 0);
	bpf_skb_store_bytes(skb, 0, before, sizeof(before), 0);
}

#endif
