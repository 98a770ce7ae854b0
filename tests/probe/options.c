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
	{"v6only", IPPROTO_IPV6, IPV6_V6ONLY},
	{"freebind6", IPPROTO_IPV6, IPV6_FREEBIND},
	{"transparent6", IPPROTO_IPV6, IPV6_TRANSPARENT},
	{"pktinfo6", IPPROTO_IPV6, IPV6_RECVPKTINFO},
	{"recverr6", IPPROTO_IPV6, IPV6_RECVERR},
	{"hdrincl6", IPPROTO_IPV6, IPV6_HDRINCL},
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

/* join SOCKET GROUP DEVICE: a multicast group */
void op_join(char **word)
{
	struct address group;
	struct group_req request = {.gr_interface = if_nametoindex(word[3])};
	bool v4;

	if (!parse_address(word[2], "0", &group))
		return say("no-such-address");
	v4 = group.any.sa_family == AF_INET;
	memcpy(&request.gr_group, &group.storage, group.len);
	say_result(sys(setsockopt, find(word[1])->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6,
		       MCAST_JOIN_GROUP, &request, sizeof(request)) == 0);
}
