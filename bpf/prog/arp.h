/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ARP responder and conflict detection (RFC 826, RFC 5227).
 *
 *  1. not Ethernet/IPv4, or a sender that cannot be  -> pass
 *  2. sent from our own MAC address (our own probe)   -> pass
 *  3. sender address is ours                          -> conflict event, pass
 *  4. target is ours and tentative: never answered; another host's probe -> conflict event, pass
 *  5. request (or probe) for an address of ours       -> reply by XDP_TX
 *  6. anything else                                   -> pass
 */
#ifndef AFNET_ARP_H
#define AFNET_ARP_H

#include "events.h"
#include "parse.h"

#define ARP_ETHERNET 1
#define ARP_REQUEST  1
#define ARP_REPLY    2

/* ARP for IPv4 over Ethernet. */
struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sha[ETH_ALEN];
	__u8 spa[4];
	__u8 tha[ETH_ALEN];
	__u8 tpa[4];
} __attribute__((packed));

_Static_assert(sizeof(struct arp_packet) == 28, "RFC 826");

static __always_inline __be32 arp_address(const __u8 *addr)
{
	__be32 value;

	__builtin_memcpy(&value, addr, sizeof(value));
	return value;
}

/* A sender that no reply may go to. 0.0.0.0 is a probe (RFC 5227 2.1.1). */
static __always_inline bool arp_bad_sender(const struct arp_packet *arp, __be32 sender)
{
	return arp->sha[0] & 1 || !mac_number(arp->sha) || (sender && ipv4_bad_source(sender));
}

static __noinline int arp(struct xdp_md *xdp, __u32 l3, __u32 vlan)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	struct arp_packet *arp = data + l3;
	const struct afnet_address *owner;
	struct ethhdr *eth = data;
	__be32 sender, target;

	if ((void *)(eth + 1) > end || (void *)(arp + 1) > end)
		return pass_short(xdp);
	sender = arp_address(arp->spa);
	target = arp_address(arp->tpa);
	if (arp->hardware != bpf_htons(ARP_ETHERNET) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_len != ETH_ALEN || arp->protocol_len != 4 || arp_bad_sender(arp, sender))
		return pass(AFNET_PASS_ARP_INVALID);
	if (mac_number(arp->sha) == device_mac || mac_number(eth->h_source) == device_mac)
		return pass(AFNET_PASS_ARP_OWN);

	owner = owner4(vlan, sender);
	if (sender && owner)
		return conflict4(AFNET_EVENT_ARP_SENDER, owner->slot, vlan, arp->sha, sender);
	owner = owner4(vlan, target);
	if (!owner || arp->operation != bpf_htons(ARP_REQUEST))
		return pass(AFNET_PASS_ARP_OTHER);
	if (owner->flags & AFNET_TENTATIVE) {
		if (!sender)
			return conflict4(AFNET_EVENT_ARP_PROBE, owner->slot, vlan, arp->sha,
					 target);
		return pass_slot(owner->slot, AFNET_PASS_TENTATIVE);
	}

	put_mac(eth->h_dest, mac_number(arp->sha));
	put_mac(eth->h_source, device_mac);
	arp->operation = bpf_htons(ARP_REPLY);
	put_mac(arp->tha, mac_number(arp->sha));
	__builtin_memcpy(arp->tpa, &sender, sizeof(sender));
	put_mac(arp->sha, device_mac);
	__builtin_memcpy(arp->spa, &target, sizeof(target));
	count_slot(owner->slot, AFNET_TX_ARP);
	return XDP_TX;
}

#endif
