// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Options: what they are at first, what can be set, what comes back; waiting or not.
 */
#include "calls.h"

#include <linux/errqueue.h>
#include <linux/in6.h>
#include <linux/net_tstamp.h>

static int fd;

static const struct option {
	const char *name;
	int level, option;
	int values[4];
	int count;
} socket_options[] =
	{
		{"SO_TYPE", SOL_SOCKET, SO_TYPE, {1}, 1},
		{"SO_DOMAIN", SOL_SOCKET, SO_DOMAIN, {1}, 1},
		{"SO_PROTOCOL", SOL_SOCKET, SO_PROTOCOL, {1}, 1},
		{"SO_ACCEPTCONN", SOL_SOCKET, SO_ACCEPTCONN, {1}, 1},
		{"SO_ERROR", SOL_SOCKET, SO_ERROR, {1}, 1},
		{"SO_BROADCAST", SOL_SOCKET, SO_BROADCAST, {1, 0, 5}, 3},
		{"SO_DEBUG", SOL_SOCKET, SO_DEBUG, {0}, 1},
		{"SO_DONTROUTE", SOL_SOCKET, SO_DONTROUTE, {1, 0}, 2},
		{"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, {1, 0}, 2},
		{"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, {1, 0}, 2},
		{"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, {3, 6, 7, 0}, 4},
		{"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, {100, 0, 1}, 3},
		{"SO_SNDLOWAT", SOL_SOCKET, SO_SNDLOWAT, {100}, 1},
		{"SO_NO_CHECK", SOL_SOCKET, SO_NO_CHECK, {1, 0}, 2},
		{"SO_MARK", SOL_SOCKET, SO_MARK, {7}, 1},
		{"SO_BUSY_POLL", SOL_SOCKET, SO_BUSY_POLL, {0}, 1},
		{"SO_INCOMING_CPU", SOL_SOCKET, SO_INCOMING_CPU, {0}, 1},
		{"SO_LOCK_FILTER", SOL_SOCKET, SO_LOCK_FILTER, {0}, 1},
		{"SO_SELECT_ERR_QUEUE", SOL_SOCKET, SO_SELECT_ERR_QUEUE, {1, 0}, 2},
		{"SO_ZEROCOPY", SOL_SOCKET, SO_ZEROCOPY, {0}, 1},
		{"SO_RXQ_OVFL", SOL_SOCKET, SO_RXQ_OVFL, {0}, 1},
		{"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP, {1, 0}, 2},
		{"SO_TIMESTAMPNS", SOL_SOCKET, SO_TIMESTAMPNS, {1, 0}, 2},
		{"SO_TIMESTAMPING", SOL_SOCKET, SO_TIMESTAMPING, {SOF_TIMESTAMPING_SOFTWARE, 0}, 2},
		{"SO_PASSCRED", SOL_SOCKET, SO_PASSCRED, {1}, 1},
		{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, {1}, 1},
		{"UDP_CORK", IPPROTO_UDP, UDP_CORK, {0}, 1},
		{"UDP_SEGMENT", IPPROTO_UDP, UDP_SEGMENT, {1000, 0, 70000, -1}, 4},
		{"UDP_GRO", IPPROTO_UDP, UDP_GRO, {1, 0}, 2},
		{"UDP_NO_CHECK6_TX", IPPROTO_UDP, UDP_NO_CHECK6_TX, {0}, 1},
		{"UDP 77", IPPROTO_UDP, 77, {0}, 1},
		{"TCP_NODELAY", IPPROTO_TCP, 1, {1}, 1},
		{"level 77", 77, 1, {1}, 1},
		{"SOL_SOCKET 999", SOL_SOCKET, 999, {1}, 1},
		{0},
},
  four_options[] =
	  {
		  {"IP_TTL", IPPROTO_IP, IP_TTL, {1, 255, 256, 0}, 4},
		  {"IP_TTL", IPPROTO_IP, IP_TTL, {-1}, 1},
		  {"IP_TOS", IPPROTO_IP, IP_TOS, {0x10, 0xb8, 1, 0}, 4},
		  {"IP_MTU_DISCOVER", IPPROTO_IP, IP_MTU_DISCOVER, {0, 2, 99, 1}, 4},
		  {"IP_MTU", IPPROTO_IP, IP_MTU, {1}, 1},
		  {"IP_RECVERR", IPPROTO_IP, IP_RECVERR, {1, 0}, 2},
		  {"IP_PKTINFO", IPPROTO_IP, IP_PKTINFO, {1, 0, 9}, 3},
		  {"IP_RECVTTL", IPPROTO_IP, IP_RECVTTL, {1, 0}, 2},
		  {"IP_RECVTOS", IPPROTO_IP, IP_RECVTOS, {1, 0}, 2},
		  {"IP_RECVOPTS", IPPROTO_IP, IP_RECVOPTS, {1, 0}, 2},
		  {"IP_RECVORIGDSTADDR", IPPROTO_IP, IP_RECVORIGDSTADDR, {1, 0}, 2},
		  {"IP_RECVFRAGSIZE", IPPROTO_IP, IP_RECVFRAGSIZE, {0}, 1},
		  {"IP_CHECKSUM", IPPROTO_IP, IP_CHECKSUM, {0}, 1},
		  {"IP_MULTICAST_TTL", IPPROTO_IP, IP_MULTICAST_TTL, {5, 256, -1}, 3},
		  {"IP_MULTICAST_LOOP", IPPROTO_IP, IP_MULTICAST_LOOP, {0, 1}, 2},
		  {"IP_MULTICAST_ALL", IPPROTO_IP, IP_MULTICAST_ALL, {0, 1}, 2},
		  {"IP_FREEBIND", IPPROTO_IP, IP_FREEBIND, {0}, 1},
		  {"IP_TRANSPARENT", IPPROTO_IP, IP_TRANSPARENT, {1}, 1},
		  {"IP_NODEFRAG", IPPROTO_IP, IP_NODEFRAG, {1}, 1},
		  {"IP_MINTTL", IPPROTO_IP, IP_MINTTL, {0}, 1},
		  {"IP_HDRINCL", IPPROTO_IP, IP_HDRINCL, {1}, 1},
		  {"IP 99", IPPROTO_IP, 99, {1}, 1},
		  {0},
},
  six_options[] = {
	  {"IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY, {1, 0}, 2},
	  {"IPV6_UNICAST_HOPS", IPPROTO_IPV6, IPV6_UNICAST_HOPS, {7, 256, -1}, 3},
	  {"IPV6_TCLASS", IPPROTO_IPV6, IPV6_TCLASS, {0x20, 256, -1, 0}, 4},
	  {"IPV6_MTU_DISCOVER", IPPROTO_IPV6, IPV6_MTU_DISCOVER, {0, 2, 99, 1}, 4},
	  {"IPV6_MTU", IPPROTO_IPV6, IPV6_MTU, {1}, 1},
	  {"IPV6_RECVERR", IPPROTO_IPV6, IPV6_RECVERR, {1, 0}, 2},
	  {"IPV6_RECVPKTINFO", IPPROTO_IPV6, IPV6_RECVPKTINFO, {1, 0}, 2},
	  {"IPV6_RECVHOPLIMIT", IPPROTO_IPV6, IPV6_RECVHOPLIMIT, {1, 0}, 2},
	  {"IPV6_RECVTCLASS", IPPROTO_IPV6, IPV6_RECVTCLASS, {1, 0}, 2},
	  {"IPV6_RECVORIGDSTADDR", IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, {0}, 1},
	  {"IPV6_DONTFRAG", IPPROTO_IPV6, IPV6_DONTFRAG, {1, 0}, 2},
	  {"IPV6_AUTOFLOWLABEL", IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, {0}, 1},
	  {"IPV6_MULTICAST_HOPS", IPPROTO_IPV6, IPV6_MULTICAST_HOPS, {5, 256, -1}, 3},
	  {"IPV6_MULTICAST_LOOP", IPPROTO_IPV6, IPV6_MULTICAST_LOOP, {0, 1, 2}, 3},
	  {"IPV6_MULTICAST_ALL", IPPROTO_IPV6, IPV6_MULTICAST_ALL, {0, 1}, 2},
	  {"IPV6_ADDR_PREFERENCES", IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, {2}, 1},
	  {"IPV6 999", IPPROTO_IPV6, 999, {1}, 1},
	  {0},
};

static void go_through(const struct option *options)
{
	for (; options->name; options++) {
		TRY(options->name, get_int(fd, options->level, options->option));
		for (int i = 0; i < options->count; i++) {
			char label[64];

			snprintf(label, sizeof(label), "%s set to %d", options->name,
				 options->values[i]);
			TRY(label,
			    set_int(fd, options->level, options->option, options->values[i]));
			snprintf(label, sizeof(label), "%s after %d", options->name,
				 options->values[i]);
			TRY(label, get_int(fd, options->level, options->option));
		}
	}
}

static void works(void)
{
	struct address peer = peer_open(1);

	TRY("still sends", sendto(fd, "ok", 2, 0, &peer.any, peer.len));
	peer_take("still sends", 1);
	peer_text(1, port, "still hears");
	take("still hears", fd);
}

static void options_socket(void)
{
	fd = bound_socket(port);
	go_through(socket_options);
	works();
}

static void options_unbound(void)
{
	struct address all = any_address(port);

	fd = udp_socket();
	go_through(socket_options);
	TRY("bind", bind(fd, &all.any, all.len));
	works();
}

static void options_family(void)
{
	fd = bound_socket(port);
	go_through(four_options);
	if (!v4())
		go_through(six_options);
	works();
}

static void options_lengths(void)
{
	char room[8];
	socklen_t len;
	int value = 1;
	unsigned char byte = 9;

	fd = bound_socket(port);
	for (len = 0; len < 6; len++) {
		socklen_t size = len;

		memset(room, 0x55, sizeof(room));
		TRY("get", getsockopt(fd, SOL_SOCKET, SO_TYPE, room, &size));
		out("of %u: %u, %02x %02x %02x %02x %02x", len, size, room[0], room[1], room[2],
		    room[3], room[4]);
	}
	len = -1;
	TRY("negative", getsockopt(fd, SOL_SOCKET, SO_TYPE, room, &len));
	len = 4;
	TRY("bad room", getsockopt(fd, SOL_SOCKET, SO_TYPE, BAD, &len));
	TRY("bad length", getsockopt(fd, SOL_SOCKET, SO_TYPE, room, BAD));
	TRY("set, short", setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &value, 3));
	TRY("set, none", setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &value, 0));
	TRY("set, long", setsockopt(fd, SOL_SOCKET, SO_BROADCAST, room, 8));
	TRY("set, negative", setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &value, -1));
	TRY("set, bad pointer", setsockopt(fd, SOL_SOCKET, SO_BROADCAST, BAD, 4));
	TRY("one byte ttl", setsockopt(fd, IPPROTO_IP, IP_TTL, &byte, 1));
	TRY("ttl", get_int(fd, IPPROTO_IP, IP_TTL));
	len = 1;
	TRY("ttl in one byte", getsockopt(fd, IPPROTO_IP, IP_TTL, room, &len));
	out("%d of %u", room[0], len);
	TRY("pktinfo, bad pointer", setsockopt(fd, IPPROTO_IP, IP_PKTINFO, BAD, 4));
	TRY("gro, short", setsockopt(fd, IPPROTO_UDP, UDP_GRO, &value, 2));
	works();
}

static void options_multicast(void)
{
	struct ip_mreqn four = {.imr_multiaddr = {htonl(0xe0000163)},
				.imr_address = {htonl(0xc000020a)}};
	struct ipv6_mreq six = {0};
	struct address group = address_of(v4() ? "224.0.1.99" : "ff05::1:99", port);
	int level = v4() ? IPPROTO_IP : IPPROTO_IPV6;

	fd = bound_socket(port);
	inet_pton(AF_INET6, "ff05::1:99", &six.ipv6mr_multiaddr);
	six.ipv6mr_interface = if_nametoindex("dev0");
	void *member = v4() ? (void *)&four : (void *)&six;
	socklen_t len = v4() ? sizeof(four) : sizeof(six);
	TRY("join",
	    setsockopt(fd, level, v4() ? IP_ADD_MEMBERSHIP : IPV6_ADD_MEMBERSHIP, member, len));
	TRY("join again",
	    setsockopt(fd, level, v4() ? IP_ADD_MEMBERSHIP : IPV6_ADD_MEMBERSHIP, member, len));
	TRY("interface", v4() ? setsockopt(fd, level, IP_MULTICAST_IF, &four, sizeof(four))
			      : set_int(fd, level, IPV6_MULTICAST_IF, six.ipv6mr_interface));
	TRY("not to itself", set_int(fd, level, v4() ? IP_MULTICAST_LOOP : IPV6_MULTICAST_LOOP, 0));
	TRY("send", sendto(fd, "x", 1, 0, &group.any, group.len));
	TRY("leave",
	    setsockopt(fd, level, v4() ? IP_DROP_MEMBERSHIP : IPV6_DROP_MEMBERSHIP, member, len));
	TRY("leave again",
	    setsockopt(fd, level, v4() ? IP_DROP_MEMBERSHIP : IPV6_DROP_MEMBERSHIP, member, len));
	works();
}

static void options_device(void)
{
	char name[IFNAMSIZ] = "";
	socklen_t len = sizeof(name);

	fd = bound_socket(port);
	TRY("get", getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	out("\"%.*s\"", (int)len, name);
	TRY("none such", setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "nonesuch", 9));
	TRY("device", setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "dev0", 5));
	len = sizeof(name);
	TRY("get", getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	out("\"%.*s\"", (int)len, name);
	works();
}

static void options_waiting(void)
{
	int on = 1, off = 0;

	fd = bound_socket(port);
	out("flags %x", fcntl(fd, F_GETFL) & ~O_LARGEFILE);
	TRY("fcntl", fcntl(fd, F_SETFL, O_NONBLOCK));
	out("flags %x", fcntl(fd, F_GETFL) & ~O_LARGEFILE);
	TRY("recv", recv(fd, &on, 1, 0));
	TRY("read", read(fd, &on, 1));
	on = 1;
	TRY("ioctl off", ioctl(fd, FIONBIO, &off));
	out("flags %x", fcntl(fd, F_GETFL) & ~O_LARGEFILE);
	peer_open(1);
	peer_text(1, port, "no wait");
	take("blocking", fd);
	TRY("ioctl on", ioctl(fd, FIONBIO, &on));
	out("flags %x", fcntl(fd, F_GETFL) & ~O_LARGEFILE);
	TRY("recv", recv(fd, &on, 1, 0));
	TRY("recv, waitall", recv(fd, &on, 1, MSG_WAITALL));
	TRY("bad pointer", ioctl(fd, FIONBIO, BAD));
	TRY("cloexec", ioctl(fd, FIOCLEX));
	out("descriptor flags %x", fcntl(fd, F_GETFD));
	TRY("no cloexec", ioctl(fd, FIONCLEX));
	out("descriptor flags %x", fcntl(fd, F_GETFD));
	close(fd);
	fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP);
	out("flags %x %x", fcntl(fd, F_GETFL) & ~O_LARGEFILE, fcntl(fd, F_GETFD));
	TRY("recv", recv(fd, &on, 1, 0));
	struct address all = any_address(port);
	TRY("bind", bind(fd, &all.any, all.len));
	TRY("recv", recv(fd, &on, 1, 0));
	works();
}

static void options_socket_calls(void)
{
	int pair[2];

	TRY("bad protocol", socket(family, SOCK_DGRAM, IPPROTO_TCP));
	TRY("bad type", socket(family, 77, 0));
	TRY("bad family", socket(9999, SOCK_DGRAM, 0));
	TRY("raw", socket(family, SOCK_RAW, IPPROTO_UDP));
	TRY("pair", socketpair(family, SOCK_DGRAM, 0, pair));
	TRY("unix pair", socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	TRY("unix send", send(pair[0], "hello", 5, 0));
	take_flags("unix recv", pair[1], MSG_DONTWAIT);
	fd = bound_socket(port);
	works();
}

const struct test option_cases[] = {
	{"options-socket", "46", SETUP, options_socket},
	{"options-unbound", "46", PLAIN, options_unbound},
	{"options-family", "46", SETUP, options_family},
	{"options-lengths", "46", FAST, options_lengths},
	{"options-multicast", "46", SETUP, options_multicast},
	{"options-device", "46", SETUP, options_device},
	{"options-waiting", "46", FAST, options_waiting},
	{"options-socket-calls", "46", FAST, options_socket_calls},
	{0},
};
