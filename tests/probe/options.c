// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Socket options by name.
 */
#include "probe.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif

/* Options whose value is an int. */
static const struct option {
	const char *name;
	int level;
	int number;
} options[] = {
	{"none", SOL_SOCKET, SO_KEEPALIVE}, /* for tables: changes nothing that matters */
	{"reuseaddr", SOL_SOCKET, SO_REUSEADDR},
	{"reuseport", SOL_SOCKET, SO_REUSEPORT},
	{"broadcast", SOL_SOCKET, SO_BROADCAST},
	{"error", SOL_SOCKET, SO_ERROR},
	{"domain", SOL_SOCKET, SO_DOMAIN},
	{"protocol", SOL_SOCKET, SO_PROTOCOL},
	{"acceptconn", SOL_SOCKET, SO_ACCEPTCONN},
	{"bindtoifindex", SOL_SOCKET, SO_BINDTOIFINDEX},
	{"mark", SOL_SOCKET, SO_MARK},
	{"freebind4", IPPROTO_IP, IP_FREEBIND},
	{"transparent4", IPPROTO_IP, IP_TRANSPARENT},
	{"pktinfo4", IPPROTO_IP, IP_PKTINFO},
	{"recverr4", IPPROTO_IP, IP_RECVERR},
	{"hdrincl4", IPPROTO_IP, IP_HDRINCL},
	{"bind_no_port", IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
	{"port_range", IPPROTO_IP, IP_LOCAL_PORT_RANGE},
	{"loop4", IPPROTO_IP, IP_MULTICAST_LOOP},
	{"all4", IPPROTO_IP, IP_MULTICAST_ALL},
	{"v6only", IPPROTO_IPV6, IPV6_V6ONLY},
	{"freebind6", IPPROTO_IPV6, IPV6_FREEBIND},
	{"transparent6", IPPROTO_IPV6, IPV6_TRANSPARENT},
	{"pktinfo6", IPPROTO_IPV6, IPV6_RECVPKTINFO},
	{"recverr6", IPPROTO_IPV6, IPV6_RECVERR},
	{"hdrincl6", IPPROTO_IPV6, IPV6_HDRINCL},
	{"loop6", IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
	{"all6", IPPROTO_IPV6, IPV6_MULTICAST_ALL},
	{"addrform", IPPROTO_IPV6, IPV6_ADDRFORM},
	{"fastopen", IPPROTO_TCP, TCP_FASTOPEN},
};

static const struct option *option_named(const char *name)
{
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (name && strcmp(options[i].name, name) == 0)
			return &options[i];
	return NULL;
}

/* set SOCKET OPTION VALUE; `set SOCKET bindtodevice DEVICE` */
void op_set(char **word)
{
	struct sock *sock = find(word[1]);
	const struct option *option = option_named(word[2]);
	int value = word[3] ? number(word[3]) : 1;

	if (word[2] && strcmp(word[2], "bindtodevice") == 0)
		return say_result(sys(setsockopt, sock->fd, SOL_SOCKET, SO_BINDTODEVICE, word[3],
				      (socklen_t)strlen(word[3]) + 1) == 0);
	if (!option)
		return say("no-such-option");
	say_result(sys(setsockopt, sock->fd, option->level, option->number, &value,
		       sizeof(value)) == 0);
}

/* get SOCKET OPTION: its value; SO_ERROR as the name of an error */
void op_get(char **word)
{
	const struct option *option = option_named(word[2]);
	int value = 0;
	socklen_t len = sizeof(value);

	if (!option)
		return say("no-such-option");
	if (sys(getsockopt, find(word[1])->fd, option->level, option->number, &value, &len) < 0)
		return say_errno();
	if (option->number == SO_ERROR && option->level == SOL_SOCKET)
		return say("%s", value ? strerrorname_np(value) : "none");
	say("%d", value);
}

/* sticky SOCKET ADDRESS [DEVICE]: the source of what is sent, by setsockopt(IPV6_PKTINFO) */
void op_sticky(char **word)
{
	struct in6_pktinfo info = {.ipi6_ifindex = word[3] ? if_nametoindex(word[3]) : 0};

	if (inet_pton(AF_INET6, word[2], &info.ipi6_addr) != 1)
		return say("no-such-address");
	say_result(sys(setsockopt, find(word[1])->fd, IPPROTO_IPV6, IPV6_PKTINFO, &info,
		       sizeof(info)) == 0);
}

/* join, leave SOCKET GROUP DEVICE [SOURCE]: a multicast group, perhaps from one source alone;
 * block, unblock SOCKET GROUP DEVICE SOURCE: a source of one that was joined */
void op_membership(char **word)
{
	static const struct {
		const char *name;
		int any, source;
	} options[] = {
		{"join", MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP},
		{"leave", MCAST_LEAVE_GROUP, MCAST_LEAVE_SOURCE_GROUP},
		{"block", -1, MCAST_BLOCK_SOURCE},
		{"unblock", -1, MCAST_UNBLOCK_SOURCE},
	};
	struct group_source_req request = {.gsr_interface = if_nametoindex(word[3])};
	struct group_req all = {.gr_interface = request.gsr_interface};
	struct address group, source;
	size_t i = 0;
	int level;

	if (!parse_address(word[2], "0", &group) ||
	    (word[4] && !parse_address(word[4], "0", &source)))
		return say("no-such-address");
	while (strcmp(options[i].name, word[0]) != 0)
		i++;
	level = group.any.sa_family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
	memcpy(&all.gr_group, &group.storage, group.len);
	if (!word[4])
		return say_result(sys(setsockopt, find(word[1])->fd, level, options[i].any, &all,
				      sizeof(all)) == 0);
	memcpy(&request.gsr_group, &group.storage, group.len);
	memcpy(&request.gsr_source, &source.storage, source.len);
	say_result(sys(setsockopt, find(word[1])->fd, level, options[i].source, &request,
		       sizeof(request)) == 0);
}

/* via SOCKET DEVICE: where it sends multicast */
void op_via(char **word)
{
	struct sock *sock = find(word[1]);
	struct ip_mreqn four = {.imr_ifindex = (int)if_nametoindex(word[2])};
	bool v4 = sock->family == AF_INET;

	say_result(sys(setsockopt, sock->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6,
		       v4 ? IP_MULTICAST_IF : IPV6_MULTICAST_IF,
		       v4 ? (void *)&four : (void *)&four.imr_ifindex,
		       v4 ? (socklen_t)sizeof(four) : (socklen_t)sizeof(int)) == 0);
}
