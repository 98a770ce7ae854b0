// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * bind, connect, getsockname, getpeername, shutdown, and both families at one socket.
 */
#include "calls.h"

static struct address peer;

static void local_name(const char *label, int fd)
{
	struct address address = {.len = sizeof(address.storage)};

	if (getsockname(fd, &address.any, &address.len) < 0)
		report(label, -1);
	else
		out("%s: at %s (%u)", label, show(&address), address.len);
}

static void peer_name(const char *label, int fd)
{
	struct address address = {.len = sizeof(address.storage)};

	if (getpeername(fd, &address.any, &address.len) < 0)
		report(label, -1);
	else
		out("%s: to %s (%u)", label, show(&address), address.len);
}

static void names_life(void)
{
	struct address mine = my_address(port), other = my_address(port + 1);
	int fd = udp_socket();

	peer = peer_open(1);
	local_name("new", fd);
	peer_name("new", fd);
	TRY("bind", bind(fd, &mine.any, mine.len));
	local_name("bound", fd);
	TRY("bind again", bind(fd, &other.any, other.len));
	TRY("connect", connect(fd, &peer.any, peer.len));
	local_name("connected", fd);
	peer_name("connected", fd);
	TRY("send", send(fd, "x", 1, 0));
	peer_take("send", 1);
	struct address none = {.any = {.sa_family = AF_UNSPEC}, .len = sizeof(struct sockaddr_in)};
	TRY("disconnect", connect(fd, &none.any, none.len));
	local_name("disconnected", fd);
	peer_name("disconnected", fd);
	TRY("send", send(fd, "x", 1, 0));
	TRY("sendto", sendto(fd, "y", 1, 0, &peer.any, peer.len));
	peer_take("sendto", 1);
	TRY("close", close(fd));
	TRY("close again", close(fd));
	local_name("closed", fd);
}

static void names_bad(void)
{
	struct address foreign = address_of(v4() ? "192.0.2.77" : "2001:db8::77", port);
	struct address mine = my_address(port);
	struct address low = any_address(7);
	char room[4];
	struct address name;
	int fd = udp_socket(), other = udp_socket();
	socklen_t len;

	TRY("foreign", bind(fd, &foreign.any, foreign.len));
	TRY("short", bind(fd, &mine.any, 4));
	TRY("pointer", bind(fd, BAD, mine.len));
	TRY("bind", bind(fd, &mine.any, mine.len));
	TRY("taken", bind(other, &mine.any, mine.len));
	mine = any_address(port);
	TRY("taken by all", bind(other, &mine.any, mine.len));
	TRY("low port", bind(other, &low.any, low.len));
	TRY("connect short", connect(fd, &mine.any, 3));
	TRY("connect pointer", connect(fd, BAD, mine.len));
	len = sizeof(room);
	TRY("short name", getsockname(fd, (struct sockaddr *)room, &len));
	out("real length: %u", len);
	len = -5;
	TRY("negative length", getsockname(fd, &name.any, &len));
	len = sizeof(name.storage);
	TRY("name pointer", getsockname(fd, BAD, &len));
	TRY("length pointer", getsockname(fd, &name.any, BAD));
	TRY("peer", getpeername(fd, &name.any, &len));
	peer = peer_open(1);
	TRY("still works", sendto(fd, "ok", 2, 0, &peer.any, peer.len));
	peer_take("still works", 1);
}

static void names_bind_port_zero(void)
{
	struct address zero = any_address(0), mine = my_address(0);
	int fd = udp_socket(), other = udp_socket();

	peer = peer_open(1);
	TRY("bind", bind(fd, &zero.any, zero.len));
	local_name("bound", fd);
	peer_text(1, port_of(fd), "to all addresses");
	take("all", fd);
	TRY("bind", bind(other, &mine.any, mine.len));
	local_name("bound", other);
	peer_text(1, port_of(other), "to one address");
	take("one", other);
	TRY("answer", sendto(other, "x", 1, 0, &peer.any, peer.len));
	peer_take("answer", 1);
}

static void names_specific_address(void)
{
	struct address first = my_address(port), second = my_second_address(port);
	struct extras to_second = {.ttl = -1, .tos = -1, .to_second = 1};
	int a = udp_socket(), b = udp_socket();

	peer = peer_open(1);
	TRY("first", bind(a, &first.any, first.len));
	TRY("second", bind(b, &second.any, second.len));
	peer_text(1, port, "for the first");
	peer_send_extra(1, port, "for the second", 14, to_second);
	take("second", b);
	take("first", a);
	TRY("answer", sendto(a, "a", 1, 0, &peer.any, peer.len));
	peer_take("answer", 1);
	TRY("answer", sendto(b, "b", 1, 0, &peer.any, peer.len));
	peer_take("answer", 1);
	nothing("first", a);
	nothing("second", b);
}

static void names_specific_and_all(void)
{
	struct address second = my_second_address(port), all = any_address(port);
	struct extras to_second = {.ttl = -1, .tos = -1, .to_second = 1};
	int a = udp_socket(), b = udp_socket();

	peer = peer_open(1);
	TRY("shared", set_int(a, SOL_SOCKET, SO_REUSEADDR, 1));
	TRY("shared", set_int(b, SOL_SOCKET, SO_REUSEADDR, 1));
	TRY("all", bind(a, &all.any, all.len));
	TRY("second", bind(b, &second.any, second.len));
	peer_text(1, port, "for all");
	peer_send_extra(1, port, "for the second", 14, to_second);
	take("second", b);
	take("all", a);
	TRY("close", close(b));
	peer_send_extra(1, port, "for all now", 11, to_second);
	take("all", a);
}

static void names_auto_bind(void)
{
	int fd = udp_socket(), other = udp_socket();

	peer = peer_open(1);
	TRY("sendto", sendto(fd, "x", 1, 0, &peer.any, peer.len));
	peer_take("sendto", 1);
	local_name("after sendto", fd);
	peer_text(1, port_of(fd), "answer");
	take("answer", fd);
	TRY("connect", connect(other, &peer.any, peer.len));
	local_name("after connect", other);
	TRY("send", send(other, "y", 1, 0));
	peer_take("send", 1);
	peer_text(1, port_of(other), "answer");
	take("answer", other);
	out("two ports: %d", port_of(fd) != port_of(other));
}

static void names_filter(void)
{
	struct address second;
	int fd = bound_socket(port);

	peer = peer_open(1);
	second = peer_open(2);
	peer_text(2, port, "before the connection");
	settle(fd);
	TRY("connect", connect(fd, &peer.any, peer.len));
	take("kept", fd);
	peer_text(2, port, "from elsewhere");
	peer_text(1, port, "from the right one");
	take("filtered", fd);
	nothing("nothing else", fd);
	TRY("send elsewhere", sendto(fd, "z", 1, 0, &second.any, second.len));
	peer_take("elsewhere", 2);
	TRY("reconnect", connect(fd, &second.any, second.len));
	peer_name("reconnected", fd);
	peer_text(1, port, "from the former one");
	peer_text(2, port, "from the new one");
	take("new", fd);
	nothing("nothing else", fd);
	struct address none = {.any = {.sa_family = AF_UNSPEC}, .len = sizeof(struct sockaddr_in)};
	TRY("disconnect", connect(fd, &none.any, none.len));
	peer_text(1, port, "from one");
	take("one", fd);
	peer_text(2, port, "from two");
	take("two", fd);
}

static void names_connect_errors(void)
{
	struct address zero, other = address_of(v4() ? "2001:db8::100" : "192.0.2.100", 9);
	struct address away = address_of(v4() ? "203.0.113.9" : "2001:db8:ffff::9", 9);
	int fd = bound_socket(port);

	peer = peer_open(1);
	zero = peer;
	zero.v4.sin_port = 0;
	TRY("port 0", connect(fd, &zero.any, zero.len));
	peer_name("port 0", fd);
	TRY("other family", connect(fd, &other.any, other.len));
	TRY("no route", connect(fd, &away.any, away.len));
	TRY("send without route", sendto(fd, "x", 1, 0, &away.any, away.len));
	TRY("connect", connect(fd, &peer.any, peer.len));
	TRY("no route", connect(fd, &away.any, away.len));
	peer_name("still connected or not", fd);
	TRY("send", send(fd, "x", 1, 0));
}

static void names_shutdown(void)
{
	struct pollfd poll_fd = {.events = POLLIN | POLLOUT | POLLRDHUP};
	int fd = bound_socket(port);
	char byte;

	peer = peer_open(1);
	TRY("not connected", shutdown(fd, SHUT_RD));
	TRY("connect", connect(fd, &peer.any, peer.len));
	TRY("bad", shutdown(fd, 7));
	TRY("send", shutdown(fd, SHUT_WR));
	TRY("send", send(fd, "x", 1, MSG_NOSIGNAL));
	TRY("write", (signal(SIGPIPE, SIG_IGN), write(fd, "x", 1)));
	peer_text(1, port, "still");
	/* Whether recv() waits for it is not the point. */
	for (long end = now_ms() + PATIENCE_MS; now_ms() < end; usleep(1000))
		if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
			break;
	take("receives", fd);
	poll_fd.fd = fd;
	poll(&poll_fd, 1, 0);
	out("poll: %x", poll_fd.revents);
	TRY("receive", shutdown(fd, SHUT_RD));
	TRY("recv", recv(fd, &byte, 1, 0));
	TRY("recv, not waiting", recv(fd, &byte, 1, MSG_DONTWAIT));
	poll(&poll_fd, 1, 0);
	out("poll: %x", poll_fd.revents);
	TRY("again", shutdown(fd, SHUT_RDWR));
	peer_name("shut", fd);
}

static void names_shutdown_reading(void)
{
	int fd = bound_socket(port);
	char byte;

	peer = peer_open(1);
	TRY("connect", connect(fd, &peer.any, peer.len));
	peer_text(1, port, "x");
	settle(fd);
	TRY("shutdown", shutdown(fd, SHUT_RD));
	TRY("what was there", recv(fd, &byte, 1, 0));
	TRY("the end", recv(fd, &byte, 1, 0));
	TRY("sends", send(fd, "y", 1, 0));
	peer_take("sends", 1);
}

static void names_both_families(void)
{
	struct address all = {.v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)},
			      .len = sizeof(all.v6)};
	struct address mapped = {0}, four;
	int fd, off = 0;

	family = AF_INET6;
	fd = udp_socket();
	TRY("default", get_int(fd, IPPROTO_IPV6, IPV6_V6ONLY));
	TRY("both", set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, off));
	TRY("bind", bind(fd, &all.any, all.len));
	TRY("too late", set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	peer = peer_open(1);
	peer_text(1, port, "over six");
	take("six", fd);
	TRY("to six", sendto(fd, "six", 3, 0, &peer.any, peer.len));
	peer_take("to six", 1);
	family = AF_INET;
	four = peer_open(2);
	peer_text(2, port, "over four");
	take("four", fd);
	mapped = address_of("::ffff:192.0.2.100", ntohs(four.v4.sin_port));
	TRY("to mapped", sendto(fd, "four", 4, 0, &mapped.any, mapped.len));
	peer_take("to mapped", 2);
	TRY("to plain four", sendto(fd, "4", 1, 0, &four.any, four.len));
	local_name("at", fd);
}

static void names_both_families_connected(void)
{
	struct address all = any_address(port), none = {.any = {.sa_family = AF_UNSPEC}}, mapped;
	int fd = udp_socket();

	TRY("bind", bind(fd, &all.any, all.len));
	family = AF_INET;
	peer = peer_open(2);
	mapped = address_of("::ffff:192.0.2.100", ntohs(peer.v4.sin_port));
	TRY("connect by four", connect(fd, &mapped.any, mapped.len));
	peer_name("by four", fd);
	TRY("send", send(fd, "x", 1, 0));
	peer_take("by four", 2);
	peer_text(2, port, "answer");
	take("by four", fd);
	none.len = sizeof(none.v6);
	TRY("disconnect", connect(fd, &none.any, none.len));
	family = AF_INET6;
	peer = peer_open(1);
	TRY("connect by six", connect(fd, &peer.any, peer.len));
	peer_name("by six", fd);
}

static void names_six_only(void)
{
	struct address all = {.v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)},
			      .len = sizeof(all.v6)};
	struct address all4, mapped;
	int six, four;

	family = AF_INET6;
	six = udp_socket();
	family = AF_INET;
	four = udp_socket();
	all4 = any_address(port);
	TRY("six only", set_int(six, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	TRY("six", bind(six, &all.any, all.len));
	TRY("four", bind(four, &all4.any, all4.len));
	peer_open(2);
	peer_text(2, port, "over four");
	take("four", four);
	nothing("six", six);
	mapped = address_of("::ffff:192.0.2.100", 9);
	TRY("to mapped", sendto(six, "x", 1, 0, &mapped.any, mapped.len));
	family = AF_INET6;
	peer_open(1);
	peer_text(1, port, "over six");
	take("six", six);
	nothing("four", four);
}

const struct test name_cases[] = {
	{"names-life", "46", FAST, names_life},
	{"names-bad", "46", SETUP, names_bad},
	{"names-bind-port-zero", "46", FAST, names_bind_port_zero},
	{"names-specific-address", "46", FAST, names_specific_address},
	{"names-specific-and-all", "46", SETUP, names_specific_and_all},
	{"names-auto-bind", "46", SETUP, names_auto_bind},
	{"names-filter", "46", FAST, names_filter},
	{"names-connect-errors", "46", SETUP, names_connect_errors},
	{"names-shutdown", "46", SETUP, names_shutdown},
	{"names-shutdown-reading", "46", FAST, names_shutdown_reading},
	{"names-both-families", "6", FAST, names_both_families},
	{"names-both-families-connected", "6", FAST, names_both_families_connected},
	{"names-six-only", "6", SETUP, names_six_only},
	{0},
};
