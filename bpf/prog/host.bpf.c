// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The worker's end of the host link (a veth pair): every frame that the kernel sends into it goes
 * to the AF_XDP socket of its queue. What comes here has been chosen already, by a route or by the
 * program at the ingress of `lo` (local.h).
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); /* set by the loader: the queues of the device */
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Index: the verdict; counted for each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XDP_REDIRECT + 1);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

SEC("xdp.frags")
int afnet_host(struct xdp_md *xdp)
{
	__u32 verdict = bpf_redirect_map(&xsks, xdp->rx_queue_index, XDP_DROP);
	__u64 *count = bpf_map_lookup_elem(&verdicts, &verdict);

	if (count)
		++*count;
	return verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
