/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The last step: token bucket, dirty bit, redirect.
 */
#ifndef AFNET_DELIVER_H
#define AFNET_DELIVER_H

#include "maps.h"

/* Lost races for the bucket's word before a packet counts as too many: others took tokens each
 * time. */
#define BUCKET_TRIES 4

/*
 * Generic cell rate algorithm (ITU-T I.371): the state is one number, the theoretical arrival time
 * of the next packet. No clock is read for compartments without a limit.
 */
static __always_inline bool take_token(__u32 slot, const struct afnet_compartment *c)
{
	__u64 *arrival = bpf_map_lookup_elem(&buckets, &slot);
	__u64 interval = c->interval, tolerance = c->tolerance;

	if (!interval || !arrival)
		return true;

	__u64 now = bpf_ktime_get_ns();

	for (int i = 0; i < BUCKET_TRIES; i++) {
		__u64 old = *(volatile __u64 *)arrival;
		__u64 from = old > now ? old : now;

		if (from - now > tolerance)
			return false;
		if (__sync_val_compare_and_swap(arrival, old, from + interval) == old)
			return true;
	}
	return false;
}

/*
 * Tells the queue's worker that this compartment has frames. Must come before the redirect: the
 * ring is published after the program has returned, so the worker never misses a frame for want of
 * a bit.
 */
static __always_inline void mark_dirty(__u32 queue, __u32 slot)
{
	__u32 index = queue * dirty_words + slot / 64;
	__u64 bit = 1ull << slot % 64;
	__u64 *word = bpf_map_lookup_elem(&dirty, &index);

	/* An atomic operation for each frame would bounce the cache line between the CPUs. */
	if (word && !(*(volatile __u64 *)word & bit))
		__sync_fetch_and_or(word, bit);
}

/* Redirects a frame to a group that endpoints have joined. */
static __always_inline int deliver_group(struct xdp_md *xdp)
{
	__u32 queue = xdp->rx_queue_index;

	if (queue >= queues)
		return pass(AFNET_PASS_MULTICAST);
	mark_dirty(queue, AFNET_GROUPS_SLOT);
	if (bpf_redirect_map(&xsks, AFNET_GROUPS_SLOT * queues + queue, XDP_PASS) != XDP_REDIRECT)
		return pass(AFNET_PASS_MULTICAST);
	count(AFNET_REDIRECT_GROUP);
	return XDP_REDIRECT;
}

/* Redirects the frame to the compartment's socket, or passes it if there is none; counts as
 * `reason`. */
static __always_inline int deliver(struct xdp_md *xdp, __u32 slot,
				   const struct afnet_compartment *c, enum afnet_counter reason)
{
	__u32 queue = xdp->rx_queue_index;

	if (c->interval && !take_token(slot, c)) {
		count_slot(slot, AFNET_DROP_RATE);
		return XDP_DROP;
	}
	/* More queues than when the program was loaded: the index would be that of another
	 * compartment. */
	if (queue >= queues)
		return pass_slot(slot, AFNET_PASS_NO_SOCKET);
	mark_dirty(queue, slot);
	if (bpf_redirect_map(&xsks, slot * queues + queue, XDP_PASS) != XDP_REDIRECT)
		return pass_slot(slot, AFNET_PASS_NO_SOCKET);
	count_slot(slot, reason);
	return XDP_REDIRECT;
}

#endif
