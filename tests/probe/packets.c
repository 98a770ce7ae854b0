// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Echo requests from ping sockets, and packets with a header of one's own from raw sockets.
 */
#include "probe.h"

#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>

/* ping SOCKET ADDRESS [MS [SOURCE]]: an echo request, from SOURCE by packet info, and who answers
 * it */
void op_ping(char **word)
{
	struct sock *sock = find(word[1]);
	struct address to, from;
	struct message reply;
	int ms = word[3] ? number(word[3]) : PATIENCE_MS;
	bool source = word[3] && word[4] && parse_address(word[4], "0", &from);
	char request[sizeof(struct icmphdr)] = {0};

	if (!parse_address(word[2], "0", &to))
		return say("no-such-address");
	request[0] = (char)(to.any.sa_family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST);
	if (!transmit(sock, request, sizeof(request), &to, source ? &from : NULL, 0))
		return say_errno();
	if (!wait_for(sock->fd, POLLIN, ms))
		return say("timeout");
	if (!receive(sock, 0, &reply))
		return say_errno();
	say("reply from %s", show_host(&reply.from));
}

/* The Internet checksum's sum, carried on from SUM. */
static uint32_t sum_up(uint32_t sum, const void *data, size_t size)
{
	const uint8_t *byte = data;

	for (size_t i = 0; i < size; i++)
		sum += i % 2 ? byte[i] : (uint32_t)byte[i] << 8;
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/*
 * forge SOCKET SOURCE SPORT DESTINATION DPORT TEXT: a UDP packet with an IP header written here,
 * through a raw socket of protocol 255.
 */
void op_forge(char **word)
{
	struct sock *sock = find(word[1]);
	struct address from, to;
	uint8_t packet[512] = {0};
	size_t text = strlen(word[6]), length = sizeof(struct udphdr) + text;
	struct udphdr udp = {.len = htons((uint16_t)length)};
	uint32_t sum = IPPROTO_UDP + (uint32_t)length;
	bool v4;

	if (!parse_address(word[2], word[3], &from) || !parse_address(word[4], word[5], &to))
		return say("no-such-address");
	v4 = to.any.sa_family == AF_INET;
	udp.source = v4 ? from.v4.sin_port : from.v6.sin6_port;
	udp.dest = v4 ? to.v4.sin_port : to.v6.sin6_port;
	sum = sum_up(sum, &udp, sizeof(udp));
	sum = sum_up(sum, word[6], text);
	if (v4) {
		struct iphdr ip = {
			.version = 4,
			.ihl = 5,
			.ttl = 64,
			.protocol = IPPROTO_UDP,
			.saddr = from.v4.sin_addr.s_addr,
			.daddr = to.v4.sin_addr.s_addr,
		};

		sum = sum_up(sum, &ip.saddr, 8);
		memcpy(packet, &ip, sizeof(ip));
		length += sizeof(ip);
	} else {
		struct ip6_hdr ip = {
			.ip6_src = from.v6.sin6_addr,
			.ip6_dst = to.v6.sin6_addr,
		};

		ip.ip6_flow = htonl(6u << 28);
		ip.ip6_plen = htons((uint16_t)length);
		ip.ip6_nxt = IPPROTO_UDP;
		ip.ip6_hlim = 64;
		sum = sum_up(sum, &ip.ip6_src, 32);
		memcpy(packet, &ip, sizeof(ip));
		length += sizeof(ip);
		/* Else EINVAL: a raw IPv6 socket wants no port. */
		to.v6.sin6_port = 0;
	}
	udp.check = fold(sum);
	memcpy(packet + length - text - sizeof(udp), &udp, sizeof(udp));
	memcpy(packet + length - text, word[6], text);
	say_result(sys(sendto, sock->fd, packet, length, 0, &to.any, to.len) >= 0);
}
