// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Control messages: packet information, time stamps, TTL and traffic class, segments.
 */
#include "calls.h"

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>

static struct address peer;
static int fd;

static void start(void)
{
	fd = bound_socket(port);
	peer = peer_open(1);
}

static bool fresh(time_t seconds)
{
	time_t now = time(NULL);

	return seconds > now - 120 && seconds <= now + 1;
}

/* What was cut is zero, whatever lies behind it. */
static size_t least(size_t len, size_t size)
{
	return len < size ? len : size;
}

static void show_control(const struct cmsghdr *c)
{
	int value = -1;
	size_t len = c->cmsg_len - CMSG_LEN(0);

	if (len >= sizeof(value))
		memcpy(&value, CMSG_DATA(c), sizeof(value));
	else if (len == 1)
		value = *CMSG_DATA(c);
	if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMP) {
		struct timeval time = {0};

		memcpy(&time, CMSG_DATA(c), least(len, sizeof(time)));
		out("  timestamp (%zu): %s", len, fresh(time.tv_sec) ? "fresh" : "odd");
	} else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
		struct timespec time = {0};

		memcpy(&time, CMSG_DATA(c), least(len, sizeof(time)));
		out("  timestampns (%zu): %s", len, fresh(time.tv_sec) ? "fresh" : "odd");
	} else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPING) {
		struct scm_timestamping time = {0};

		memcpy(&time, CMSG_DATA(c), least(len, sizeof(time)));
		out("  timestamping (%zu): %s %ld %ld", len,
		    fresh(time.ts[0].tv_sec) ? "fresh" : "odd", (long)time.ts[1].tv_sec,
		    (long)time.ts[2].tv_sec);
	} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
		struct in_pktinfo info = {0};
		char name[IFNAMSIZ] = "none";
		struct address to = address_of("0.0.0.0", 0), local = address_of("0.0.0.0", 0);

		memcpy(&info, CMSG_DATA(c), least(len, sizeof(info)));
		to.v4.sin_addr = info.ipi_addr;
		local.v4.sin_addr = info.ipi_spec_dst;
		if_indextoname(info.ipi_ifindex, name);
		out("  pktinfo (%zu): to %s local %s by %s", len, show_host(&to), show_host(&local),
		    name);
	} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
		struct in6_pktinfo info = {0};
		char name[IFNAMSIZ] = "none";
		struct address to = address_of("::", 0);

		memcpy(&info, CMSG_DATA(c), least(len, sizeof(info)));
		to.v6.sin6_addr = info.ipi6_addr;
		if_indextoname(info.ipi6_ifindex, name);
		out("  pktinfo6 (%zu): to %s by %s", len, show_host(&to), name);
	} else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_ORIGDSTADDR) ||
		   (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR)) {
		struct address to = {.len = len};

		memcpy(&to.storage, CMSG_DATA(c), least(len, sizeof(to.storage)));
		out("  origdst (%zu): %s", len, show(&to));
	} else {
		out("  level %d type %d (%zu): %d", c->cmsg_level, c->cmsg_type, len, value);
	}
}

static void take_with_control(const char *label, size_t room)
{
	static char data[MAX_DATA];
	char control[512];
	struct iovec iov = {data, sizeof(data)};
	struct address from;
	struct msghdr message = {.msg_name = &from.any,
				 .msg_namelen = sizeof(from.storage),
				 .msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = room};
	ssize_t len;

	if (!settle(fd))
		return;
	len = recvmsg(fd, &message, 0);
	if (len < 0) {
		report(label, len);
		return;
	}
	from.len = message.msg_namelen;
	out("%s: %zd from %s flags %x control %zu", label, len, show(&from), message.msg_flags,
	    (size_t)message.msg_controllen);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
		show_control(c);
}

static void control_times(void)
{
	static const struct {
		const char *name;
		int option, value;
	} kinds[] = {
		{"timestamp", SO_TIMESTAMP, 1},
		{"timestampns", SO_TIMESTAMPNS, 1},
		{"timestampns off", SO_TIMESTAMPNS, 0},
		{"timestamping off", SO_TIMESTAMPING, 0},
	};

	start();
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		TRY(kinds[i].name, set_int(fd, SOL_SOCKET, kinds[i].option, kinds[i].value));
		peer_text(1, port, kinds[i].name);
		take_with_control(kinds[i].name, 256);
	}
}

static void control_timestamping(void)
{
	char data[64], control[256];
	struct iovec iov = {data, sizeof(data)};

	start();
	TRY("set", set_int(fd, SOL_SOCKET, SO_TIMESTAMPING,
			   SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE));
	/* The kernel begins to stamp some time after that. */
	for (long end = now_ms() + PATIENCE_MS; now_ms() < end;) {
		struct msghdr message = {.msg_iov = &iov,
					 .msg_iovlen = 1,
					 .msg_control = control,
					 .msg_controllen = sizeof(control)};

		peer_text(1, port, "stamp");
		if (!settle(fd) || recvmsg(fd, &message, 0) < 0)
			break;
		if (message.msg_controllen) {
			show_control(CMSG_FIRSTHDR(&message));
			break;
		}
		usleep(1000);
	}
}

static void turn_on(void)
{
	TRY("pktinfo", v4() ? set_int(fd, IPPROTO_IP, IP_PKTINFO, 1)
			    : set_int(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
	TRY("ttl", v4() ? set_int(fd, IPPROTO_IP, IP_RECVTTL, 1)
			: set_int(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
	TRY("tos", v4() ? set_int(fd, IPPROTO_IP, IP_RECVTOS, 1)
			: set_int(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1));
}

static void control_received(void)
{
	start();
	turn_on();
	peer_send_extra(1, port, "abc", 3, (struct extras){.ttl = 33, .tos = 0x88});
	take_with_control("all", 256);
	peer_send_extra(1, port, "abc", 3, (struct extras){.ttl = 255, .tos = 0, .to_second = 1});
	take_with_control("to the second address", 256);
	for (int ecn = 0; ecn < 4; ecn++) {
		peer_send_extra(1, port, "ecn", 3, (struct extras){.ttl = 64, .tos = 0xb8 | ecn});
		take_with_control("ecn", 256);
	}
	peer_text(1, port, "cut");
	take_with_control("cut", 24);
	peer_text(1, port, "none");
	take_with_control("no room", 0);
	TRY("origdst", v4() ? set_int(fd, IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
			    : set_int(fd, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1));
	peer_send_extra(1, port, "orig", 4, (struct extras){.ttl = 64, .tos = 0});
	take_with_control("origdst", 256);
}

static void control_group(void)
{
	struct address address = address_of(v4() ? "239.1.2.3" : "ff15::123", port);
	struct group_req group = {.gr_interface = if_nametoindex("dev0"),
				  .gr_group = address.storage};
	int level = v4() ? IPPROTO_IP : IPPROTO_IPV6;

	start();
	TRY("join", setsockopt(fd, level, MCAST_JOIN_GROUP, &group, sizeof(group)));
	TRY("timestamp", set_int(fd, SOL_SOCKET, SO_TIMESTAMP, 1));
	TRY("ttl", set_int(fd, level, v4() ? IP_RECVTTL : IPV6_RECVHOPLIMIT, 1));
	TRY("tos", set_int(fd, level, v4() ? IP_RECVTOS : IPV6_RECVTCLASS, 1));
	TRY("pktinfo", set_int(fd, level, v4() ? IP_PKTINFO : IPV6_RECVPKTINFO, 1));
	TRY("origdst", set_int(fd, level, v4() ? IP_RECVORIGDSTADDR : IPV6_RECVORIGDSTADDR, 1));
	for (int i = 0; i < 3; i++) {
		peer_text_to(1, v4() ? "239.1.2.3" : "ff15::123", port, "to all");
		take_with_control("to all", 512);
	}
	peer_text(1, port, "to one");
	take_with_control("to one", 512);
}

static void control_order(void)
{
	start();
	TRY("timestamp", set_int(fd, SOL_SOCKET, SO_TIMESTAMP, 1));
	turn_on();
	peer_send_extra(1, port, "abc", 3, (struct extras){.ttl = 33, .tos = 3});
	take_with_control("all", 256);
}

static void control_both_families(void)
{
	struct address all = {.v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)},
			      .len = sizeof(all.v6)};

	family = AF_INET6;
	fd = udp_socket();
	TRY("both", set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0));
	TRY("bind", bind(fd, &all.any, all.len));
	turn_on();
	peer_open(1);
	peer_send_extra(1, port, "six", 3, (struct extras){.ttl = 33, .tos = 3});
	take_with_control("six", 256);
	family = AF_INET;
	TRY("four's pktinfo", set_int(fd, IPPROTO_IP, IP_PKTINFO, 1));
	TRY("four's ttl", set_int(fd, IPPROTO_IP, IP_RECVTTL, 1));
	TRY("four's tos", set_int(fd, IPPROTO_IP, IP_RECVTOS, 1));
	peer_open(2);
	peer_send_extra(2, port, "four", 4, (struct extras){.ttl = 44, .tos = 1});
	take_with_control("four", 256);
}

/* One control message, sent. */
static void send_with(const char *label, int level, int type, const void *value, size_t len)
{
	char control[128] = "";
	struct iovec iov = {"sent", 4};
	struct msghdr message = {.msg_name = &peer.any,
				 .msg_namelen = peer.len,
				 .msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = CMSG_SPACE(len)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	const struct arrival *arrival;

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), value, len);
	if (TRY(label, sendmsg(fd, &message, 0)) < 0)
		return;
	arrival = peer_receive(1, true);
	if (arrival->came)
		out("%s: %d from %s ttl %d tos %d", label, arrival->len, show(&arrival->from),
		    arrival->ttl, arrival->tos);
	else
		out("%s: lost", label);
}

static void send_plainly(const char *label)
{
	const struct arrival *arrival;

	if (TRY(label, sendto(fd, "plain", 5, 0, &peer.any, peer.len)) < 0)
		return;
	arrival = peer_receive(1, true);
	out("%s: %d from %s ttl %d tos %d", label, arrival->came ? arrival->len : -1,
	    show(&arrival->from), arrival->ttl, arrival->tos);
}

static void control_ttl_sent(void)
{
	int level = v4() ? IPPROTO_IP : IPPROTO_IPV6;
	int ttl = v4() ? IP_TTL : IPV6_UNICAST_HOPS, tos = v4() ? IP_TOS : IPV6_TCLASS;
	int value;
	unsigned char byte = 0x22;

	start();
	send_plainly("default");
	TRY("ttl", set_int(fd, level, ttl, 17));
	TRY("tos", set_int(fd, level, tos, 0xb9));
	TRY("tos", get_int(fd, level, tos));
	send_plainly("by option");
	value = 99;
	send_with("ttl", level, v4() ? IP_TTL : IPV6_HOPLIMIT, &value, sizeof(value));
	value = 0x2;
	send_with("ecn", level, tos, &value, sizeof(value));
	if (v4())
		send_with("tos in one byte", level, tos, &byte, 1);
	value = 256;
	send_with("ttl too large", level, v4() ? IP_TTL : IPV6_HOPLIMIT, &value, sizeof(value));
	value = 0;
	send_with("ttl 0", level, v4() ? IP_TTL : IPV6_HOPLIMIT, &value, sizeof(value));
	value = 300;
	send_with("tos too large", level, tos, &value, sizeof(value));
	send_with("ttl too short", level, v4() ? IP_TTL : IPV6_HOPLIMIT, &value, 2);
	send_plainly("by option again");
	for (int ecn = 0; ecn < 4; ecn++) {
		TRY("tos", set_int(fd, level, tos, ecn));
		send_plainly("ecn");
	}
}

static void control_source(void)
{
	struct in_pktinfo four = {.ipi_spec_dst = {htonl(0xc000020b)}};
	struct in6_pktinfo six = {0};
	int level = v4() ? IPPROTO_IP : IPPROTO_IPV6, type = v4() ? IP_PKTINFO : IPV6_PKTINFO;
	const void *value = v4() ? (void *)&four : (void *)&six;
	size_t len = v4() ? sizeof(four) : sizeof(six);

	start();
	inet_pton(AF_INET6, "2001:db8::11", &six.ipi6_addr);
	send_with("second address", level, type, value, len);
	four.ipi_spec_dst.s_addr = htonl(0xc000020a);
	inet_pton(AF_INET6, "2001:db8::10", &six.ipi6_addr);
	send_with("first address", level, type, value, len);
	four.ipi_ifindex = six.ipi6_ifindex = if_nametoindex("dev0");
	send_with("by device", level, type, value, len);
	four.ipi_spec_dst.s_addr = 0;
	six.ipi6_addr = in6addr_any;
	send_with("device only", level, type, value, len);
	four.ipi_ifindex = six.ipi6_ifindex = 0;
	send_with("nothing", level, type, value, len);
	four.ipi_spec_dst.s_addr = htonl(0xc000024d);
	inet_pton(AF_INET6, "2001:db8::77", &six.ipi6_addr);
	send_with("foreign address", level, type, value, len);
	four.ipi_ifindex = six.ipi6_ifindex = 7777;
	send_with("no such device", level, type, value, len);
	send_with("too short", level, type, value, 4);
	send_plainly("plainly");
}

static void control_source_of_bound(void)
{
	struct in_pktinfo four = {.ipi_spec_dst = {htonl(0xc000020b)}};
	struct in6_pktinfo six = {0};
	struct address mine = my_address(port);
	int level = v4() ? IPPROTO_IP : IPPROTO_IPV6, type = v4() ? IP_PKTINFO : IPV6_PKTINFO;

	fd = udp_socket();
	TRY("bind", bind(fd, &mine.any, mine.len));
	peer = peer_open(1);
	inet_pton(AF_INET6, "2001:db8::11", &six.ipi6_addr);
	send_with("second address", level, type, v4() ? (void *)&four : (void *)&six,
		  v4() ? sizeof(four) : sizeof(six));
	send_plainly("plainly");
}

static void control_unknown(void)
{
	char control[64] = "";
	struct iovec iov = {"sent", 4};
	struct msghdr message = {
		.msg_name = &peer.any, .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
	struct cmsghdr *c = (struct cmsghdr *)control;
	int value = 1;

	start();
	message.msg_namelen = peer.len;
	send_with("unknown type", v4() ? IPPROTO_IP : IPPROTO_IPV6, 222, &value, sizeof(value));
	send_with("unknown level", 222, 1, &value, sizeof(value));
	send_with("rights", SOL_SOCKET, SCM_RIGHTS, &fd, sizeof(fd));
	send_with("unknown of socket", SOL_SOCKET, 222, &value, sizeof(value));
	c->cmsg_len = 3;
	message.msg_controllen = 20;
	TRY("shorter than a header", sendmsg(fd, &message, 0));
	c->cmsg_len = 40;
	TRY("longer than the room", sendmsg(fd, &message, 0));
	message.msg_controllen = 1 << 20;
	TRY("very long", sendmsg(fd, &message, 0));
	message.msg_controllen = 8;
	TRY("no header", sendmsg(fd, &message, 0));
	peer_take("no header", 1);
	send_plainly("plainly");
}

static void control_segments_sent(void)
{
	static char data[5000];
	unsigned short size = 1000;
	char control[64] = "";
	struct iovec iov = {data, 2500};
	struct msghdr message = {.msg_name = &peer.any,
				 .msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = CMSG_SPACE(sizeof(size))};
	struct cmsghdr *c = (struct cmsghdr *)control;

	start();
	message.msg_namelen = peer.len;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = i / 5;
	TRY("option", set_int(fd, IPPROTO_UDP, UDP_SEGMENT, 700));
	TRY("get", get_int(fd, IPPROTO_UDP, UDP_SEGMENT));
	TRY("send", sendto(fd, data, 2000, 0, &peer.any, peer.len));
	peer_take("first", 1);
	peer_take("second", 1);
	peer_take("rest", 1);
	TRY("less than one", sendto(fd, data, 300, 0, &peer.any, peer.len));
	peer_take("less than one", 1);
	TRY("exactly two", sendto(fd, data, 1400, 0, &peer.any, peer.len));
	peer_take("first", 1);
	peer_take("second", 1);
	TRY("empty", sendto(fd, data, 0, 0, &peer.any, peer.len));
	peer_take("empty", 1);
	c->cmsg_level = IPPROTO_UDP;
	c->cmsg_type = UDP_SEGMENT;
	c->cmsg_len = CMSG_LEN(sizeof(size));
	memcpy(CMSG_DATA(c), &size, sizeof(size));
	TRY("by control", sendmsg(fd, &message, 0));
	for (int i = 0; i < 3; i++)
		peer_take("by control", 1);
	TRY("too many", (set_int(fd, IPPROTO_UDP, UDP_SEGMENT, 10),
			 sendto(fd, data, 5000, 0, &peer.any, peer.len)));
	TRY("segment over MTU", (set_int(fd, IPPROTO_UDP, UDP_SEGMENT, 2000),
				 sendto(fd, data, 5000, 0, &peer.any, peer.len)));
	TRY("off", set_int(fd, IPPROTO_UDP, UDP_SEGMENT, 0));
	send_plainly("plainly");
	peer_nothing("no more", 1);
}

static void control_segments_received(void)
{
	static char data[4000];

	start();
	TRY("gro", set_int(fd, IPPROTO_UDP, UDP_GRO, 1));
	TRY("get", get_int(fd, IPPROTO_UDP, UDP_GRO));
	/* What comes singly comes singly (whether it carries its size is not said). */
	peer_text(1, port, "single");
	take("single", fd);
	peer_send_extra(1, port, data, sizeof(data),
			(struct extras){.ttl = -1, .tos = -1, .segment = 1000});
	int total = 0;
	while (total < 4000 && settle(fd)) {
		ssize_t len = recv(fd, data, sizeof(data), 0);

		if (len <= 0 || len % 1000) {
			out("odd: %zd", len);
			return;
		}
		total += len;
	}
	out("together %d", total);
}

const struct test control_cases[] = {
	{"control-times", "46", FAST, control_times},
	{"control-timestamping", "46", FAST, control_timestamping},
	{"control-received", "46", FAST, control_received},
	{"control-group", "46", FAST, control_group},
	{"control-order", "46", FAST, control_order},
	{"control-both-families", "6", FAST, control_both_families},
	{"control-ttl-sent", "46", FAST, control_ttl_sent},
	{"control-source", "46", FAST, control_source},
	{"control-source-of-bound", "46", FAST, control_source_of_bound},
	{"control-unknown", "46", SETUP, control_unknown},
	{"control-segments-sent", "46", FAST, control_segments_sent},
	{"control-segments-received", "46", FAST, control_segments_received},
	{0},
};
