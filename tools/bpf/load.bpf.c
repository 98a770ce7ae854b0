// SPDX-License-Identifier: BSD-2-Clause
/*
 * The bench's load: `spread` runs on live frames, gives each frame the next of `addresses`
 * consecutive IPv4 destinations, and hands it to the program under test, which sees it as if the
 * device had received it. With one address it does the same work for each frame, so that every
 * subject pays alike.
 *
 * `pass` and `drop` are for subjects without an XDP program of their own: the kernel's stack, and
 * the generator's own ceiling.
 *
 * A program array takes only programs that agree about multi-buffer frames, so there are two of the
 * spreaders.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Set by the bench before a run; it runs on one CPU at a time. */
__u32 addresses;
/* Lower half of the first destination, host order. */
__u32 first;
/*
 * Ethernet, IPv4 and UDP headers, in words for a quick copy. Each frame gets them anew: the kernel
 * uses pages again, and whoever forwards a frame changes it.
 */
struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));
__u64 template[6];

/* One's complement sums of the headers with the low half of the destination 0, host order. */
__u32 ip_sum;
__u32 udp_sum;
__u32 next;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps"), target_frags SEC(".maps");

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int rewrite(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct headers *frame = (void *)(long)ctx->data;
	__u16 low;

	if ((void *)(frame + 1) > end)
		return -1;
	low = first + next;
	if (++next >= addresses)
		next = 0;
	for (int i = 0; i < 5; i++)
		((__u64 *)frame)[i] = template[i];
	((__u16 *)frame)[20] = template[5];
	frame->ip.daddr |= bpf_htonl(low);
	frame->ip.check = bpf_htons(fold(ip_sum + low));
	frame->udp.check = bpf_htons(fold(udp_sum + low));
	return 0;
}

SEC("xdp")
int spread(struct xdp_md *ctx)
{
	if (!rewrite(ctx))
		bpf_tail_call(ctx, &target, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int spread_frags(struct xdp_md *ctx)
{
	if (!rewrite(ctx))
		bpf_tail_call(ctx, &target_frags, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

_Static_assert(sizeof(struct headers) == 42, "five words and a half one");

char LICENSE[] SEC("license") = "Dual BSD/GPL";
