// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Multicast: joined before and after bind(), with sources, by several sockets, and left. After each
 * datagram to a group one to the socket alone, so that what is not to come shows.
 */
#include "calls.h"

#define GROUP	     (v4() ? "239.1.2.3" : "ff15::123")
#define SECOND_GROUP (v4() ? "239.1.2.4" : "ff15::124")
#define PEER	     (v4() ? "192.0.2.100" : "2001:db8::100")
#define OTHER	     (v4() ? "192.0.2.77" : "2001:db8::77")

static int level(void)
{
	return v4() ? IPPROTO_IP : IPPROTO_IPV6;
}

static int device(void)
{
	return if_nametoindex("dev0");
}

/* MCAST_JOIN_GROUP and its like. */
static int change(int fd, int name, const char *group)
{
	struct group_req request = {.gr_interface = device()};
	struct address address = address_of(group, 0);

	memcpy(&request.gr_group, &address.storage, sizeof(request.gr_group));
	return setsockopt(fd, level(), name, &request, sizeof(request));
}

static int change_source(int fd, int name, const char *group, const char *source)
{
	struct group_source_req request = {.gsr_interface = device()};
	struct address address = address_of(group, 0), from = address_of(source, 0);

	memcpy(&request.gsr_group, &address.storage, sizeof(request.gsr_group));
	memcpy(&request.gsr_source, &from.storage, sizeof(request.gsr_source));
	return setsockopt(fd, level(), name, &request, sizeof(request));
}

static int joined_socket(int at)
{
	int fd = bound_socket(at);

	TRY("join", change(fd, MCAST_JOIN_GROUP, GROUP));
	return fd;
}

/* The peer says something to the group, which is heard once, and to this machine. */
static void heard(const char *text, int fd)
{
	peer_text_to(1, GROUP, port, text);
	take(text, fd);
	peer_text(1, port, "after that");
	take(text, fd);
}

static void not_heard(const char *text, int fd)
{
	peer_text_to(1, GROUP, port, text);
	peer_text(1, port, "but this");
	take(text, fd);
}

static void groups_join(void)
{
	int fd;

	peer_open(1);
	fd = bound_socket(port);
	not_heard("before", fd);
	TRY("join", change(fd, MCAST_JOIN_GROUP, GROUP));
	heard("joined", fd);
	TRY("again", change(fd, MCAST_JOIN_GROUP, GROUP));
	heard("still", fd);
	TRY("leave", change(fd, MCAST_LEAVE_GROUP, GROUP));
	not_heard("left", fd);
	TRY("leave again", change(fd, MCAST_LEAVE_GROUP, GROUP));
	TRY("join once more", change(fd, MCAST_JOIN_GROUP, GROUP));
	heard("once more", fd);
	nothing("end", fd);
}

/* Nothing but groups: who counts datagrams of the fast path counts these. */
static void groups_many(void)
{
	int fd;
	char text[16];

	peer_open(1);
	fd = joined_socket(port);
	TRY("second", change(fd, MCAST_JOIN_GROUP, SECOND_GROUP));
	for (int i = 0; i < 40; i++) {
		snprintf(text, sizeof(text), "number %d", i);
		peer_text_to(1, i % 3 ? GROUP : SECOND_GROUP, port, text);
		take("heard", fd);
	}
	nothing("end", fd);
}

static void groups_before_bind(void)
{
	struct address all = any_address(port);
	int fd = udp_socket(), one = 1;

	peer_open(1);
	if (!v4())
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	TRY("join", change(fd, MCAST_JOIN_GROUP, GROUP));
	TRY("bind", bind(fd, &all.any, all.len));
	peer_text_to(1, GROUP, port, "by the kernel");
	take("before", fd);
	for (int i = 0; i < 5; i++)
		heard("bound", fd);
	TRY("leave", change(fd, MCAST_LEAVE_GROUP, GROUP));
	not_heard("left", fd);
	nothing("end", fd);
}

static void groups_interface(void)
{
	struct ip_mreqn four = {.imr_ifindex = device()};
	struct ip_mreq by_address = {0};
	struct ipv6_mreq six = {.ipv6mr_interface = device()};
	int fd;

	peer_open(1);
	fd = bound_socket(port);
	inet_pton(AF_INET, GROUP, &four.imr_multiaddr);
	inet_pton(AF_INET6, GROUP, &six.ipv6mr_multiaddr);
	by_address.imr_multiaddr = four.imr_multiaddr;
	if (v4()) {
		TRY("by index", setsockopt(fd, level(), IP_ADD_MEMBERSHIP, &four, sizeof(four)));
		heard("by index", fd);
		TRY("drop", setsockopt(fd, level(), IP_DROP_MEMBERSHIP, &four, sizeof(four)));
		not_heard("dropped", fd);
		inet_pton(AF_INET, "192.0.2.10", &by_address.imr_interface);
		TRY("by address",
		    setsockopt(fd, level(), IP_ADD_MEMBERSHIP, &by_address, sizeof(by_address)));
		heard("by address", fd);
		TRY("drop",
		    setsockopt(fd, level(), IP_DROP_MEMBERSHIP, &by_address, sizeof(by_address)));
		not_heard("dropped", fd);
		four.imr_ifindex = 9999;
		TRY("no such", setsockopt(fd, level(), IP_ADD_MEMBERSHIP, &four, sizeof(four)));
	} else {
		TRY("by index", setsockopt(fd, level(), IPV6_JOIN_GROUP, &six, sizeof(six)));
		heard("by index", fd);
		TRY("drop", setsockopt(fd, level(), IPV6_LEAVE_GROUP, &six, sizeof(six)));
		not_heard("dropped", fd);
		six.ipv6mr_interface = 9999;
		TRY("no such", setsockopt(fd, level(), IPV6_JOIN_GROUP, &six, sizeof(six)));
	}
	TRY("no group", change(fd, MCAST_JOIN_GROUP, PEER));
	TRY("bad pointer",
	    setsockopt(fd, level(), MCAST_JOIN_GROUP, BAD, sizeof(struct group_req)));
	TRY("short", setsockopt(fd, level(), MCAST_JOIN_GROUP, &six, 3));
	nothing("end", fd);
}

/* What getsockopt() has of the filter. */
static void show_filter(int fd)
{
	struct address group = address_of(GROUP, 0);
	struct sockaddr_storage sources[4];
	uint32_t mode = 7, count = 4;
	int result = getsourcefilter(fd, device(), &group.any, group.len, &mode, &count, sources);

	if (report("filter", result) == 0)
		out("mode %u, %u sources", mode, count);
}

static void groups_sources(void)
{
	int fd;

	peer_open(1);
	fd = bound_socket(port);
	TRY("other", change_source(fd, MCAST_JOIN_SOURCE_GROUP, GROUP, OTHER));
	not_heard("other only", fd);
	TRY("peer", change_source(fd, MCAST_JOIN_SOURCE_GROUP, GROUP, PEER));
	show_filter(fd);
	heard("both", fd);
	TRY("leave peer", change_source(fd, MCAST_LEAVE_SOURCE_GROUP, GROUP, PEER));
	not_heard("other only", fd);
	TRY("block", change_source(fd, MCAST_BLOCK_SOURCE, GROUP, PEER));
	TRY("leave other", change_source(fd, MCAST_LEAVE_SOURCE_GROUP, GROUP, OTHER));
	show_filter(fd);
	not_heard("left", fd);
	TRY("join", change(fd, MCAST_JOIN_GROUP, GROUP));
	heard("all", fd);
	TRY("block peer", change_source(fd, MCAST_BLOCK_SOURCE, GROUP, PEER));
	not_heard("blocked", fd);
	TRY("block other", change_source(fd, MCAST_BLOCK_SOURCE, GROUP, OTHER));
	show_filter(fd);
	TRY("unblock peer", change_source(fd, MCAST_UNBLOCK_SOURCE, GROUP, PEER));
	heard("unblocked", fd);
	TRY("unblock peer again", change_source(fd, MCAST_UNBLOCK_SOURCE, GROUP, PEER));
	show_filter(fd);
	nothing("end", fd);
}

static void groups_filter(void)
{
	struct address group = address_of(GROUP, 0), peer = address_of(PEER, 0);
	struct address other = address_of(OTHER, 0);
	struct sockaddr_storage both[2] = {peer.storage, other.storage};
	int fd;

	peer_open(1);
	fd = joined_socket(port);
	TRY("exclude both",
	    setsourcefilter(fd, device(), &group.any, group.len, MCAST_EXCLUDE, 2, both));
	not_heard("excluded", fd);
	TRY("include both",
	    setsourcefilter(fd, device(), &group.any, group.len, MCAST_INCLUDE, 2, both));
	heard("included", fd);
	show_filter(fd);
	TRY("exclude other",
	    setsourcefilter(fd, device(), &group.any, group.len, MCAST_EXCLUDE, 1, &other.storage));
	heard("not excluded", fd);
	TRY("include other",
	    setsourcefilter(fd, device(), &group.any, group.len, MCAST_INCLUDE, 1, &other.storage));
	not_heard("not included", fd);
	TRY("include none",
	    setsourcefilter(fd, device(), &group.any, group.len, MCAST_INCLUDE, 0, NULL));
	not_heard("left", fd);
	show_filter(fd);
	nothing("end", fd);
}

/* Those of IPv4 before RFC 3678. */
static void groups_old(void)
{
	struct ip_mreq_source peer = {.imr_interface = {0}};
	struct in_addr group, mine, sources[1];
	int fd;

	peer_open(1);
	fd = bound_socket(port);
	inet_pton(AF_INET, GROUP, &group);
	inet_pton(AF_INET, "192.0.2.10", &mine);
	peer.imr_multiaddr = group;
	peer.imr_interface = mine;
	inet_pton(AF_INET, PEER, &peer.imr_sourceaddr);
	TRY("join", setsockopt(fd, level(), IP_ADD_SOURCE_MEMBERSHIP, &peer, sizeof(peer)));
	heard("joined", fd);
	TRY("drop", setsockopt(fd, level(), IP_DROP_SOURCE_MEMBERSHIP, &peer, sizeof(peer)));
	not_heard("dropped", fd);
	TRY("join all", change(fd, MCAST_JOIN_GROUP, GROUP));
	TRY("block", setsockopt(fd, level(), IP_BLOCK_SOURCE, &peer, sizeof(peer)));
	not_heard("blocked", fd);
	TRY("unblock", setsockopt(fd, level(), IP_UNBLOCK_SOURCE, &peer, sizeof(peer)));
	heard("unblocked", fd);
	inet_pton(AF_INET, OTHER, &sources[0]);
	TRY("filter", setipv4sourcefilter(fd, mine, group, MCAST_INCLUDE, 1, sources));
	not_heard("filtered", fd);
	nothing("end", fd);
}

/* Each that has joined hears it. The peer's other datagrams go to one of the two. */
static void groups_two(void)
{
	struct address all = any_address(port);
	int fd[2];

	peer_open(1);
	for (int i = 0; i < 2; i++) {
		fd[i] = udp_socket();
		if (!v4())
			set_int(fd[i], IPPROTO_IPV6, IPV6_V6ONLY, 1);
		TRY("reuse", set_int(fd[i], SOL_SOCKET, SO_REUSEADDR, 1));
		TRY("bind", bind(fd[i], &all.any, all.len));
		poll(&(struct pollfd){.fd = fd[i], .events = POLLIN}, 1, 0);
		TRY("join", change(fd[i], MCAST_JOIN_GROUP, GROUP));
	}
	for (int round = 0; round < 5; round++) {
		peer_text_to(1, GROUP, port, "both");
		for (int i = 0; i < 2; i++)
			take("each", fd[i]);
	}
	TRY("leave", change(fd[0], MCAST_LEAVE_GROUP, GROUP));
	TRY("multicast-all",
	    set_int(fd[0], level(), v4() ? IP_MULTICAST_ALL : IPV6_MULTICAST_ALL, 0));
	for (int round = 0; round < 5; round++) {
		peer_text_to(1, GROUP, port, "one");
		take("who is left", fd[1]);
	}
	nothing("first", fd[0]);
	nothing("second", fd[1]);
	TRY("join", change(fd[0], MCAST_JOIN_GROUP, GROUP));
	close(fd[1]);
	heard("alone", fd[0]);
	nothing("end", fd[0]);
}

/* Parent and child have one socket. */
static void groups_fork(void)
{
	int fd, status;

	peer_open(1);
	fd = joined_socket(port);
	heard("before", fd);
	if (fork() == 0) {
		heard("child", fd);
		TRY("leave", change(fd, MCAST_LEAVE_GROUP, GROUP));
		not_heard("left", fd);
		TRY("join", change(fd, MCAST_JOIN_GROUP, GROUP));
		_exit(0);
	}
	wait(&status);
	heard("parent", fd);
	nothing("end", fd);
}

static void groups_close(void)
{
	int fd;

	peer_open(1);
	for (int round = 0; round < 3; round++) {
		fd = joined_socket(port);
		heard("open", fd);
		close(fd);
	}
	/* One that has not joined. */
	fd = bound_socket(port);
	not_heard("closed", fd);
	nothing("end", fd);
}

/* Back with the kernel, which goes on. */
static void groups_kernel(void)
{
	int fd;

	peer_open(1);
	fd = joined_socket(port);
	heard("fast", fd);
	TRY("minimal ttl", set_int(fd, level(), v4() ? IP_MINTTL : IPV6_MINHOPCOUNT, 1));
	for (int i = 0; i < 3; i++)
		heard("kernel", fd);
	TRY("leave", change(fd, MCAST_LEAVE_GROUP, GROUP));
	not_heard("left", fd);
	nothing("end", fd);
}

/* A connected socket hears no groups. */
static void groups_connected(void)
{
	struct address peer;
	int fd;

	peer = peer_open(1);
	fd = joined_socket(port);
	heard("free", fd);
	TRY("connect", connect(fd, &peer.any, peer.len));
	not_heard("connected", fd);
	nothing("end", fd);
}

/* Another socket of this machine's says something to the group. */
static void groups_local(void)
{
	struct address group = address_of(GROUP, port);
	struct ip_mreqn by = {.imr_ifindex = device()};
	int fd, speaker;

	peer_open(1);
	fd = joined_socket(port);
	speaker = bound_socket(port + 1);
	TRY("interface", v4() ? setsockopt(speaker, level(), IP_MULTICAST_IF, &by, sizeof(by))
			      : set_int(speaker, level(), IPV6_MULTICAST_IF, device()));
	for (int i = 0; i < 3; i++) {
		TRY("say", sendto(speaker, "here", 4, 0, &group.any, group.len));
		take("local", fd);
		heard("remote", fd);
	}
	TRY("not here",
	    set_int(speaker, level(), v4() ? IP_MULTICAST_LOOP : IPV6_MULTICAST_LOOP, 0));
	TRY("say", sendto(speaker, "there", 5, 0, &group.any, group.len));
	heard("remote", fd);
	nothing("end", fd);
}

/* Both families by one socket. */
static void groups_both(void)
{
	struct address all = address_of("::", port);
	struct ip_mreqn four = {.imr_ifindex = device()};
	struct ipv6_mreq six = {.ipv6mr_interface = device()};
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);

	peer_open(1);
	TRY("bind", bind(fd, &all.any, all.len));
	poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0);
	inet_pton(AF_INET, "239.1.2.3", &four.imr_multiaddr);
	inet_pton(AF_INET6, "ff15::123", &six.ipv6mr_multiaddr);
	TRY("four", setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &four, sizeof(four)));
	TRY("six", setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &six, sizeof(six)));
	for (int i = 0; i < 3; i++)
		heard("heard", fd);
	nothing("end", fd);
}

const struct test group_cases[] = {
	{"groups-join", "46", FAST, groups_join},
	{"groups-many", "46", FAST, groups_many},
	{"groups-before-bind", "46", FAST, groups_before_bind},
	{"groups-interface", "46", FAST, groups_interface},
	{"groups-sources", "46", FAST, groups_sources},
	{"groups-filter", "46", FAST, groups_filter},
	{"groups-old", "4", FAST, groups_old},
	{"groups-two", "46", FAST, groups_two},
	{"groups-fork", "46", FAST, groups_fork},
	{"groups-close", "46", FAST, groups_close},
	{"groups-kernel", "46", FAST, groups_kernel},
	{"groups-connected", "46", FAST, groups_connected},
	{"groups-local", "46", FAST, groups_local},
	{"groups-both", "46", FAST, groups_both},
	{0},
};
