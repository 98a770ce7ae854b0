/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one table of verdicts and drop reasons. build.rs reads it too: it becomes the Rust enum
 * `Counter` with its names and help texts. One line for each counter: X(NAME, "help").
 *
 * Each frame counts exactly one verdict. The first part is counted by compartment, the second by
 * device.
 */
#ifndef AFNET_COUNTERS_H
#define AFNET_COUNTERS_H

/* clang-format off */
#define AFNET_COMPARTMENT_COUNTERS(X) \
	X(REDIRECT_UDP, "UDP datagrams to a claimed port, redirected to the fast path") \
	X(REDIRECT_FRAGMENT, "fragments of UDP datagrams, redirected for reassembly") \
	X(REDIRECT_ERROR, "ICMP errors about a claimed flow, redirected") \
	X(REDIRECT_RAW, "packets of a compartment whose raw endpoint takes everything, redirected") \
	X(LOCAL, "packets that this host sent to a compartment, moved from lo into the host link") \
	X(TX_ARP, "ARP requests and probes answered (RFC 826, RFC 5227 2.5)") \
	X(TX_NA, "neighbour solicitations answered (RFC 4861 7.2.4)") \
	X(TX_ECHO, "ICMP and ICMPv6 echo requests to a fast-only address answered") \
	X(DROP_RATE, "dropped: the compartment's token bucket was empty") \
	X(PASS_NO_SOCKET, "passed: claimed, but there is no AF_XDP socket on this queue") \
	X(PASS_NO_CLAIM, "passed: UDP to a port that nobody claimed") \
	X(PASS_TENTATIVE, "passed: the address is tentative, nothing is answered (RFC 4862 5.4, RFC 5227 2.1)") \
	X(PASS_CONFLICT, "passed: another host uses an address of the compartment (RFC 5227 2.4, RFC 4862 5.4)") \
	X(EVENT_LOST, "conflict events that the full ring buffer did not take") \
	X(PASS_FRAGMENT, "passed: fragment that no claim can want") \
	X(PASS_ICMP, "passed: ICMP and ICMPv6 that the fast path neither wants nor answers") \
	X(PASS_PROTOCOL, "passed: protocol without claims (TCP and others)") \
	X(PASS_BAD_SOURCE, "passed: source address that no host may use (RFC 1122 3.2.1.3, RFC 4291 2.5, 2.7)") \
	X(PASS_IPV4_OPTIONS, "passed: IPv4 header with options") \
	X(PASS_IPV4_CHECKSUM, "passed: wrong IPv4 header checksum") \
	X(PASS_UDP_LENGTH, "passed: UDP length below 8 or beyond the packet (RFC 768)") \
	X(PASS_ROUTING, "passed: routing header with segments left (RFC 8200 4.4)") \
	X(PASS_AH, "passed: authentication header, which only the kernel can verify (RFC 4302)")

#define AFNET_DEVICE_COUNTERS(X) \
	X(REDIRECT_GROUP, "multicast and broadcast that endpoints have joined, redirected to the fast path") \
	X(PASS_TRUNCATED, "passed: frame shorter than its headers") \
	X(PASS_NONLINEAR, "passed: headers not within the frame's first buffer") \
	X(PASS_VLAN, "passed: VLAN tags that name no realm (802.1Q twice, more than two, 802.1ad inside)") \
	X(PASS_ETHERTYPE, "passed: neither ARP nor IPv4 nor IPv6") \
	X(PASS_OTHER_MAC, "passed: unicast frame to another MAC address") \
	X(PASS_GROUP_FRAME, "passed: unicast IP packet in a multicast or broadcast frame (RFC 1122 3.3.6)") \
	X(PASS_MULTICAST, "passed: IP multicast or broadcast") \
	X(PASS_IGMP, "passed: IGMP") \
	X(PASS_MLD, "passed: MLD") \
	X(PASS_NOT_OURS, "passed: destination that no compartment owns") \
	X(PASS_IPV4_HEADER, "passed: IPv4 version or header length wrong") \
	X(PASS_IPV4_LENGTH, "passed: IPv4 total length below the header or beyond the frame") \
	X(PASS_IPV6_HEADER, "passed: IPv6 version wrong") \
	X(PASS_IPV6_LENGTH, "passed: IPv6 payload length beyond the frame") \
	X(PASS_IPV6_CHAIN, "passed: IPv6 extension headers cut short, out of order or too many (RFC 8200 4.1)") \
	X(PASS_ARP_INVALID, "passed: ARP that is not for IPv4 over Ethernet, or with impossible addresses") \
	X(PASS_ARP_OWN, "passed: ARP sent from our own MAC address") \
	X(PASS_ARP_OTHER, "passed: ARP that asks for no address of ours") \
	X(PASS_ND_HOP_LIMIT, "passed: NS or NA with a hop limit other than 255 (RFC 4861 7.1)") \
	X(PASS_ND_CODE, "passed: NS or NA with a code other than 0") \
	X(PASS_ND_LENGTH, "passed: NS or NA shorter than 24 bytes, or too long to check here") \
	X(PASS_ND_CHECKSUM, "passed: NS or NA with a wrong ICMPv6 checksum") \
	X(PASS_ND_TARGET, "passed: NS or NA with a multicast target") \
	X(PASS_ND_OPTION, "passed: NS or NA with an option of length 0 or beyond the message") \
	X(PASS_ND_SOURCE, "passed: NS from :: not to a solicited-node address or with a source link-layer address") \
	X(PASS_ND_SOLICITED, "passed: NA with the solicited flag to a multicast address (RFC 4861 7.1.2)") \
	X(PASS_ND_FRAGMENT, "passed: fragmented neighbour discovery (RFC 6980)") \
	X(PASS_ND_OWN, "passed: NS or NA sent from our own MAC address") \
	X(PASS_ND_OTHER, "passed: neighbour discovery that asks for no address of ours, router discovery, redirects") \
	X(PASS_NO_ROOM, "passed: the driver could not resize the frame for an answer") \
	X(MEMBERSHIP_LOST, "IGMP or MLD packets that afnetd did not get: too fast, or longer than 1500 bytes") \
	X(TAKE_REPORT, "membership reports of this host's kernel that afnetd got instead of the network (--membership own)") \
	X(DROP_REPORT, "dropped: membership reports of a program of this host where afnetd speaks (--membership own)")

/* What the kernel path refused, by compartment (prog/confine.bpf.c). */
#define AFNET_REFUSAL_COUNTERS(X) \
	X(REFUSED_SOCKET, "refused: socket of a kind that the compartment may not have (EPERM)") \
	X(REFUSED_QUOTA, "refused: socket beyond the compartment's number of sockets (ENOBUFS)") \
	X(REFUSED_BIND, "refused: bind() to an address that is not the compartment's (EADDRNOTAVAIL)") \
	X(REFUSED_PORT, "refused: bind() to a port that is taken (EADDRINUSE) or privileged (EACCES)") \
	X(REFUSED_SOURCE, "refused: datagram with a source that is not the compartment's (EINVAL)") \
	X(REFUSED_LOOPBACK, "refused: call to the private loopback of another compartment (ECONNREFUSED)") \
	X(DROP_EGRESS, "dropped: packet with a source that is not the compartment's (EPERM)") \
	X(DROP_INGRESS, "dropped: packet to a socket of the compartment, but not to its address") \
	X(DROP_ISOLATED, "dropped: packet between an isolated compartment and the rest of the host") \
	X(DROP_UNHEARD, "kept from the host's sockets: packet to a port on which the compartment does not listen")
/* clang-format on */

#define AFNET_COUNTERS(X)                                                                          \
	AFNET_COMPARTMENT_COUNTERS(X)                                                              \
	AFNET_DEVICE_COUNTERS(X)

#define AFNET_COUNTER_ENUM(name, help) AFNET_##name,
enum afnet_counter {
	AFNET_COMPARTMENT_COUNTERS(AFNET_COUNTER_ENUM) AFNET_COMPARTMENT_COUNT,
	AFNET_DEVICE_FIRST = AFNET_COMPARTMENT_COUNT - 1,
	AFNET_DEVICE_COUNTERS(AFNET_COUNTER_ENUM) AFNET_COUNT,
};

enum afnet_refusal {
	AFNET_REFUSAL_COUNTERS(AFNET_COUNTER_ENUM) AFNET_REFUSALS,
};

#endif
