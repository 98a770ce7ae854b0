// SPDX-License-Identifier: BSD-2-Clause
/*
 * pktgen's receiver: what it sent itself (by the magic number at the beginning of UDP's or TCP's
 * payload) goes to the AF_XDP socket of the queue, everything else to the kernel, so that the
 * operator's own connection over the device goes on. With `everything` set, every frame goes to the
 * socket.
 *
 * Ethernet, up to two VLAN tags, IPv4 without fragments or IPv6 without extension headers, UDP or
 * TCP; src/stamp.rs reads the same.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* MAGIC of src/stamp.rs. */
#define MAGIC	   0xaf6e7467
#define MAX_QUEUES 64

const volatile __u8 everything;

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct tag {
	__be16 tci;
	__be16 type;
};

/* Whether the payload of a transport header begins with the magic number. */
static __always_inline int stamped(void *at, void *end, __u8 protocol)
{
	__be32 *magic;

	if (protocol == IPPROTO_UDP) {
		magic = at + sizeof(struct udphdr);
	} else if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = at;

		if ((void *)(tcp + 1) > end)
			return 0;
		magic = at + tcp->doff * 4;
	} else {
		return 0;
	}
	return (void *)(magic + 1) <= end && *magic == bpf_htonl(MAGIC);
}

static __always_inline int ours(void *data, void *end)
{
	struct ethhdr *eth = data;
	void *at = eth + 1;
	__be16 type;

	if (at > end)
		return 0;
	type = eth->h_proto;
	for (int i = 0; i < 2; i++) {
		struct tag *tag = at;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		at = tag + 1;
		if (at > end)
			return 0;
		type = tag->type;
	}
	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = at;

		if ((void *)(ip + 1) > end || ip->ihl < 5 || ip->frag_off & bpf_htons(0x3fff))
			return 0;
		return stamped(at + ip->ihl * 4, end, ip->protocol);
	}
	if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = at;

		return (void *)(ip + 1) <= end && stamped(ip + 1, end, ip->nexthdr);
	}
	return 0;
}

SEC("xdp.frags")
int receive(struct xdp_md *ctx)
{
	if (everything || ours((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
