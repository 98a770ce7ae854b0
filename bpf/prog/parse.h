/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ethernet, VLAN tags, and small helpers for addresses and checksums.
 *
 * Every header is checked once against `end` before it is read. Offsets count from the start of the
 * frame.
 */
#ifndef AFNET_PARSE_H
#define AFNET_PARSE_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include "maps.h"

/* IEEE 802.1Q 9.6: a tag's VID is its low 12 bits; a VID of 0 is no VLAN, 4095 is reserved. */
#define VID_MASK     0xfff
#define VID_RESERVED 0xfff

#define IPV4_PLAIN 0x45 /* version 4, header of 5 words: no options */

/* Fragment bits of iphdr.frag_off (RFC 791 3.1). */
#define IPV4_MORE     0x2000
#define IPV4_OFFSET   0x1fff
#define IPV4_HAS_MORE bpf_htons(IPV4_MORE)
#define IPV4_FRAGMENT bpf_htons(IPV4_MORE | IPV4_OFFSET)

/* ICMP and ICMPv6 start alike. (linux/icmp.h cannot be had here: it wants a libc for the BPF
 * target.) */
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};

struct vlan_tag {
	__be16 tci;
	__be16 ethertype;
};

/* Largest offset of a network header: two tags. Functions that are checked by themselves must check
 * it again. */
#define L3_MAX (ETH_HLEN + 8)

/* What a frame says up to its network header. */
struct frame {
	__u32 l3; /* offset of the network header */
	__u32 vlan;
	__be16 ethertype;
};

/* The first 6 bytes as a number that compares with device_mac. */
static __always_inline __u64 mac_number(const __u8 *mac)
{
	const __u16 *part = (const __u16 *)mac;

	return part[0] | (__u64)part[1] << 16 | (__u64)part[2] << 32;
}

static __always_inline void put_mac(__u8 *mac, __u64 number)
{
	__u16 *part = (__u16 *)mac;

	part[0] = number;
	part[1] = number >> 16;
	part[2] = number >> 32;
}

/*
 * The same number, in a register that the compiler knows nothing about: a comparison then bounds
 * the very register that is added to a pointer. Kernel 6.1 forgets the bounds of a number's 32-bit
 * copy.
 */
static __always_inline __u64 to_bound(__u64 number)
{
	asm volatile("" : "+r"(number));
	return number;
}

/* Bytes in the frame's first buffer. */
static __always_inline __u64 linear_len(struct xdp_md *xdp)
{
	__u64 length = (void *)(long)xdp->data_end - (void *)(long)xdp->data;

	/* Keeps the compiler from taking the difference in 32 bits, which the verifier refuses for
	 * pointers. */
	asm volatile("" : "+r"(length));
	return length;
}

/* Whether the frame goes on after its first buffer. */
static __always_inline bool is_nonlinear(struct xdp_md *xdp)
{
	return frags && bpf_xdp_get_buff_len(xdp) > linear_len(xdp);
}

/* A header does not fit: is the frame too short, or just its first buffer? */
static __always_inline int pass_short(struct xdp_md *xdp)
{
	return pass(is_nonlinear(xdp) ? AFNET_PASS_NONLINEAR : AFNET_PASS_TRUNCATED);
}

/* Whether the whole frame has at least `length` bytes, buffers after the first included. */
static __always_inline bool frame_has(struct xdp_md *xdp, __u32 length)
{
	if (length <= linear_len(xdp))
		return true;
	return frags && length <= bpf_xdp_get_buff_len(xdp);
}

enum tags { TAGS_OK, TAGS_SHORT, TAGS_UNKNOWN };

static __always_inline bool is_tag(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

/* Follows an 802.1ad tag, an 802.1Q tag, or the second within the first. */
static __always_inline enum tags parse_tags(void *data, void *end, struct frame *f)
{
	struct vlan_tag *tag;
	__u32 vid;

	if (f->ethertype == bpf_htons(ETH_P_8021AD)) {
		tag = data + f->l3;
		if ((void *)(tag + 1) > end)
			return TAGS_SHORT;
		vid = bpf_ntohs(tag->tci) & VID_MASK;
		if (vid == VID_RESERVED)
			return TAGS_UNKNOWN;
		f->vlan = vid << 12;
		f->ethertype = tag->ethertype;
		f->l3 += sizeof(*tag);
	}
	if (f->ethertype == bpf_htons(ETH_P_8021Q)) {
		tag = data + f->l3;
		if ((void *)(tag + 1) > end)
			return TAGS_SHORT;
		vid = bpf_ntohs(tag->tci) & VID_MASK;
		if (vid == VID_RESERVED)
			return TAGS_UNKNOWN;
		f->vlan |= vid;
		f->ethertype = tag->ethertype;
		f->l3 += sizeof(*tag);
	}
	return is_tag(f->ethertype) ? TAGS_UNKNOWN : TAGS_OK;
}

/* 224.0.0.0/4 and 255.255.255.255. */
static __always_inline bool ipv4_is_group(__be32 addr)
{
	return (addr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || addr == 0xffffffff;
}

/* Sources that no packet on a wire may have (RFC 1122 3.2.1.3): 0/8, 127/8, multicast, 240/4. */
static __always_inline bool ipv4_bad_source(__be32 addr)
{
	__u32 net = bpf_ntohl(addr) >> 24;

	return net == 0 || net == 127 || net >= 224;
}

static __always_inline bool ipv6_is_group(const __be32 *addr)
{
	return (addr[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline bool ipv6_is_unspecified(const __be32 *addr)
{
	return !(addr[0] | addr[1] | addr[2] | addr[3]);
}

static __always_inline bool ipv6_equal(const __be32 *a, const __be32 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

/* ::, ::1 and ::ffff:0:0/96 (never on a wire), multicast (RFC 4291 2.5.2, 2.5.3, 2.7). */
static __always_inline bool ipv6_bad_source(const __be32 *addr)
{
	if (ipv6_is_group(addr))
		return true;
	if (addr[0] | addr[1])
		return false;
	return addr[2] == bpf_htonl(0xffff) || (!addr[2] && bpf_ntohl(addr[3]) <= 1);
}

/* Folds a sum of 16-bit words (RFC 1071) to 16 bits. */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Whether the checksum of an IPv4 header without options is right. */
static __always_inline bool ipv4_checksum_ok(const struct iphdr *ip)
{
	const __u32 *word = (const __u32 *)ip;

	return fold((__u64)word[0] + word[1] + word[2] + word[3] + word[4]) == 0xffff;
}

/*
 * Replaces one 16-bit word in a checksum (RFC 1624, equation 3). The two zeros of one's complement
 * are as good as each other to who checks, unless all else is zero too: then only 0xffff will do.
 */
static __always_inline void replace_sum(__sum16 *sum, __u16 from, __u16 to)
{
	__u16 result = ~fold((__u64)(__u16) ~*sum + (__u16)~from + to);

	*sum = result ? result : 0xffff;
}

static __always_inline void swap_macs(struct ethhdr *eth)
{
	__u64 to = mac_number(eth->h_source);

	put_mac(eth->h_source, device_mac);
	put_mac(eth->h_dest, to);
}

#endif
