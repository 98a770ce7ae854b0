/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Neighbour discovery responder and conflict detection (RFC 4861, RFC 4862).
 *
 *  1. fragmented (RFC 6980)                         -> pass
 *  2. invalid by RFC 4861 7.1.1, 7.1.2              -> pass, a counter for each rule
 *  3. sent from our own MAC address                  -> pass; but a probe with a nonce for a
 * tentative address goes the way of 6: by the nonce the daemon knows its own one (RFC 7527)
 *  4. NA for an address of ours                     -> conflict event, pass
 *  5. NS whose source is ours                       -> conflict event, pass
 *  6. NS for a tentative address: never answered; another host's probe -> conflict event, pass
 *  7. NS for an address of ours                     -> NA by XDP_TX, as owner (7.2.4)
 *  8. anything else                                 -> pass
 */
#ifndef AFNET_ND_H
#define AFNET_ND_H

#include "chain.h"
#include "events.h"

#define ND_HOP_LIMIT 255
#define ND_NS	     135
#define ND_NA	     136

/*
 * Longest message in bytes that is checked here: 13 options' worth. Longer ones (SEND, RFC 3971)
 * are left to the kernel. A multiple of 4, and what the stack can spare.
 */
#define ND_MAX 128

#define OPT_SOURCE_LLA 1
#define OPT_TARGET_LLA 2
#define OPT_NONCE      14 /* RFC 3971 5.3.2; of six bytes, as RFC 7527 has it */

/* Set in a nonce, so that one of zeroes is one. */
#define NONCE_THERE (1ULL << 48)

/* Flags word of an NA (RFC 4861 4.4). */
#define NA_SOLICITED 0x40000000
#define NA_OVERRIDE  0x20000000

struct nd_message {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	__be32 target[4];
	__u8 options[ND_MAX - 24];
};

_Static_assert(sizeof(struct nd_message) == ND_MAX, "RFC 4861 4.3");

/* IPv6 pseudo header (RFC 8200 8.1). */
struct pseudo6 {
	__be32 source[4];
	__be32 dest[4];
	__be32 length;
	__be32 next;
};

/* Bytes of an NA as we send it: the fixed part and the target link-layer address option. */
#define NA_LEN 32

/* Where the message is; on the stack of the caller. */
struct nd {
	__u32 l3;
	__u32 vlan;
	__u32 offset; /* of the ICMPv6 header */
	__u32 length; /* of the ICMPv6 message, by the IPv6 payload length */
};

static __always_inline bool is_solicited_node(const __be32 *addr)
{
	return addr[0] == bpf_htonl(0xff020000) && !addr[1] && addr[2] == bpf_htonl(1) &&
	       (addr[3] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/*
 * Finds the link-layer address option of `type` and a nonce, and checks the lengths of all options.
 * Returns false for an option of length 0 or one that goes beyond the message; *mac and *nonce stay
 * 0 if there is no such option.
 */
static __always_inline bool nd_options(const struct nd_message *m, __u32 length, __u8 type,
				       __u64 *mac, __u64 *nonce)
{
	__u32 at = 0, left = length - 24;

	*mac = 0;
	*nonce = 0;
	for (int i = 0; i < (ND_MAX - 24) / 8; i++) {
		const __u8 *option;

		if (at == left)
			return true;
		if (at + 8 > left || at > ND_MAX - 24 - 8)
			return false;
		option = m->options + at;
		if (!option[1])
			return false;
		if (option[0] == type && option[1] == 1)
			*mac = mac_number(option + 2);
		if (option[0] == OPT_NONCE && option[1] == 1)
			*nonce = mac_number(option + 2) | NONCE_THERE;
		at += option[1] * 8;
	}
	return at == left;
}

/* Sum of a pseudo header, whose addresses are in place, for a message of `length` bytes. */
static __always_inline __s64 pseudo_sum(struct pseudo6 *pseudo, __u32 length)
{
	pseudo->length = bpf_htonl(length);
	pseudo->next = bpf_htonl(IPPROTO_ICMPV6);
	return bpf_csum_diff(NULL, 0, (__be32 *)pseudo, sizeof(*pseudo), 0);
}

/*
 * Turns the solicitation `m` into the advertisement: same Ethernet header and tags, a fresh IPv6
 * header right after them, 32 bytes of NA. `to` is the asker's link-layer address,
 * pseudo->source its address; a probe from :: is answered to all nodes. The pseudo header is used
 * again, as it is: its sum knows no order.
 */
static __always_inline int nd_answer(struct xdp_md *xdp, __u32 l3, struct nd_message *m,
				     struct pseudo6 *pseudo, __u64 to, __u32 slot)
{
	__be32 *dest = pseudo->source;
	__u32 length = l3 + sizeof(struct ipv6hdr) + NA_LEN;
	__u32 flags = NA_OVERRIDE | NA_SOLICITED;
	struct ipv6hdr *ip;
	struct ethhdr *eth;
	void *data, *end;

	if (ipv6_is_unspecified(dest)) {
		dest[0] = bpf_htonl(0xff020000);
		dest[3] = bpf_htonl(1);
		to = 0x010000003333; /* 33:33:00:00:00:01, RFC 2464 7 */
		flags = NA_OVERRIDE;
	}
	m->type = ND_NA;
	m->checksum = 0;
	m->flags = bpf_htonl(flags);
	m->options[0] = OPT_TARGET_LLA;
	m->options[1] = 1;
	put_mac(m->options + 2, device_mac);
	__builtin_memcpy(pseudo->dest, m->target, sizeof(pseudo->dest));
	m->checksum =
		~fold(bpf_csum_diff(NULL, 0, (__be32 *)m, NA_LEN, pseudo_sum(pseudo, NA_LEN)));

	if (is_nonlinear(xdp))
		return pass(AFNET_PASS_NONLINEAR);
	if (bpf_xdp_adjust_tail(xdp, (int)length - (int)linear_len(xdp)))
		return pass(AFNET_PASS_NO_ROOM);
	data = (void *)(long)xdp->data;
	end = (void *)(long)xdp->data_end;
	eth = data;
	ip = data + l3;
	if ((void *)(eth + 1) > end || (void *)(ip + 1) + NA_LEN > end)
		return pass(AFNET_PASS_NO_ROOM);
	put_mac(eth->h_dest, to);
	put_mac(eth->h_source, device_mac);
	*(__be32 *)ip = bpf_htonl(6u << 28);
	ip->payload_len = bpf_htons(NA_LEN);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = ND_HOP_LIMIT;
	__builtin_memcpy(&ip->saddr, m->target, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, dest, sizeof(ip->daddr));
	__builtin_memcpy(ip + 1, m, NA_LEN);
	count_slot(slot, AFNET_TX_NA);
	return XDP_TX;
}

/* An NS or NA. The caller has walked the chain and checked that IPv6 header and message lie within
 * the frame. */
__noinline int nd_receive(struct xdp_md *xdp, struct nd *nd)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	__u32 length, slot;
	__u64 l3;
	struct ipv6hdr *ip;
	const struct afnet_address *owner, *sender;
	struct ethhdr *eth = data;
	struct nd_message m = {};
	struct pseudo6 pseudo;
	__be32 *source = pseudo.source, *dest = pseudo.dest;
	__u64 from, lladdr, nonce;
	bool probe, tentative;

	if (!nd)
		return pass(AFNET_PASS_VLAN);
	l3 = to_bound(nd->l3);
	if (l3 > L3_MAX)
		return pass(AFNET_PASS_VLAN);
	length = nd->length;
	ip = data + l3;
	if ((void *)(eth + 1) > end || (void *)(ip + 1) > end)
		return pass_short(xdp);
	if (ip->hop_limit != ND_HOP_LIMIT)
		return pass(AFNET_PASS_ND_HOP_LIMIT);
	if (length < 24 || length > ND_MAX || length & 7)
		return pass(length < 24 || length > ND_MAX ? AFNET_PASS_ND_LENGTH
							   : AFNET_PASS_ND_OPTION);
	if (bpf_xdp_load_bytes(xdp, nd->offset, &m, length))
		return pass_short(xdp);
	__builtin_memcpy(source, &ip->saddr, sizeof(pseudo.source));
	__builtin_memcpy(dest, &ip->daddr, sizeof(pseudo.dest));
	from = mac_number(eth->h_source);

	if (m.code)
		return pass(AFNET_PASS_ND_CODE);
	if (fold(bpf_csum_diff(NULL, 0, (__be32 *)&m, sizeof(m), pseudo_sum(&pseudo, length))) !=
	    0xffff)
		return pass(AFNET_PASS_ND_CHECKSUM);
	if (ipv6_is_group(m.target))
		return pass(AFNET_PASS_ND_TARGET);
	if (!nd_options(&m, length, m.type == ND_NS ? OPT_SOURCE_LLA : OPT_TARGET_LLA, &lladdr,
			&nonce))
		return pass(AFNET_PASS_ND_OPTION);
	probe = m.type == ND_NS && ipv6_is_unspecified(source);
	if (probe ? !is_solicited_node(dest) || lladdr : ipv6_bad_source(source))
		return pass(AFNET_PASS_ND_SOURCE);
	if (m.type == ND_NA && ipv6_is_group(dest) && m.flags & bpf_htonl(NA_SOLICITED))
		return pass(AFNET_PASS_ND_SOLICITED);
	owner = owner6(nd->vlan, m.target);
	tentative = owner && owner->flags & AFNET_TENTATIVE;
	if ((from == device_mac || lladdr == device_mac) && !(probe && nonce && tentative))
		return pass(AFNET_PASS_ND_OWN);

	if (m.type == ND_NS && !probe) {
		sender = owner6(nd->vlan, source);
		if (sender)
			return conflict(AFNET_EVENT_NS_SENDER, sender->slot, nd->vlan,
					eth->h_source, source, 0);
	}
	if (!owner)
		return pass(AFNET_PASS_ND_OTHER);
	slot = owner->slot;
	if (m.type == ND_NA)
		return conflict(AFNET_EVENT_NA, slot, nd->vlan, eth->h_source, m.target, 0);
	if (tentative) {
		if (probe)
			return conflict(AFNET_EVENT_NS_PROBE, slot, nd->vlan, eth->h_source,
					m.target, nonce);
		return pass_slot(slot, AFNET_PASS_TENTATIVE);
	}
	return nd_answer(xdp, l3, &m, &pseudo, lladdr ? lladdr : from, slot);
}

#endif
