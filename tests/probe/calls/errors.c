// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Errors that come back by ICMP, and the size that fits.
 */
#include "calls.h"

#include <linux/errqueue.h>

static struct address peer;
static int fd;

/* A socket connected to a port that is closed. */
static void start(void)
{
	fd = bound_socket(port);
	peer = peer_open(1);
	peer_close(1);
	if (connect(fd, &peer.any, peer.len) < 0)
		fatal("connect");
}

/* The events but POLLOUT. */
static int events(int of, short wanted, int ms)
{
	struct pollfd pollfd = {.fd = of, .events = wanted};

	return poll(&pollfd, 1, ms) < 0 ? -1 : pollfd.revents & ~POLLOUT;
}

/* Waits for an error to be there. */
static void awaits_error(const char *label)
{
	out("%s: events %x", label, events(fd, 0, PATIENCE_MS));
}

static void errors_refused(void)
{
	char byte;

	start();
	TRY("send", send(fd, "x", 1, 0));
	awaits_error("refused");
	TRY("recv", recv(fd, &byte, 1, 0));
	nothing("once only", fd);
	TRY("send", send(fd, "x", 1, 0));
	awaits_error("refused");
	TRY("send again", send(fd, "x", 1, 0));
	TRY("send", send(fd, "x", 1, 0));
	awaits_error("refused");
	TRY("error", get_int(fd, SOL_SOCKET, SO_ERROR));
	TRY("error is gone", get_int(fd, SOL_SOCKET, SO_ERROR));
	out("events %x", events(fd, POLLIN, 0));
	TRY("write", write(fd, "x", 1));
	awaits_error("refused");
	TRY("read", read(fd, &byte, 1));
}

static void errors_refused_wake_up(void)
{
	char byte;

	start();
	/* Blocked in recv when the error comes. */
	TRY("send", send(fd, "x", 1, 0));
	TRY("recv", recv(fd, &byte, 1, 0));
	TRY("send", send(fd, "x", 1, 0));
	out("poll for input: %x", events(fd, POLLIN, PATIENCE_MS));
	TRY("recv", recv(fd, &byte, 1, 0));
}

static void errors_refused_epoll(void)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	int set;

	start();
	set = epoll_create1(0);
	TRY("add", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
	TRY("send", send(fd, "x", 1, 0));
	TRY("wait", epoll_wait(set, &event, 1, PATIENCE_MS));
	out("events %x", event.events);
	TRY("error", get_int(fd, SOL_SOCKET, SO_ERROR));
	TRY("quiet", epoll_wait(set, &event, 1, 0));
}

static void errors_not_connected(void)
{
	struct address open;

	fd = bound_socket(port);
	open = peer_open(2);
	peer = peer_open(1);
	peer_close(1);
	TRY("sendto", sendto(fd, "x", 1, 0, &peer.any, peer.len));
	/* The error is for nobody: a datagram that comes later is the first thing to see. */
	TRY("sendto", sendto(fd, "y", 1, 0, &open.any, open.len));
	peer_take("open", 2);
	peer_text(2, port, "z");
	take("answer", fd);
	TRY("error", get_int(fd, SOL_SOCKET, SO_ERROR));
}

static void show_queue(const char *label)
{
	char data[64], control[512];
	struct iovec iov = {data, sizeof(data)};
	struct address from;
	struct msghdr message = {.msg_name = &from.any,
				 .msg_namelen = sizeof(from.storage),
				 .msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	ssize_t len = recvmsg(fd, &message, MSG_ERRQUEUE);

	if (len < 0) {
		report(label, len);
		return;
	}
	from.len = message.msg_namelen;
	out("%s: %zd of \"%.*s\" to %s flags %x", label, len, (int)len, data, show(&from),
	    message.msg_flags);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		struct {
			struct sock_extended_err error;
			struct sockaddr_storage offender;
		} value = {0};
		struct address offender = {0};
		size_t size = c->cmsg_len - CMSG_LEN(0);

		memcpy(&value, CMSG_DATA(c), size < sizeof(value) ? size : sizeof(value));
		memcpy(&offender.storage, &value.offender, sizeof(offender.v6));
		offender.len = sizeof(offender.v6);
		out("  level %d type %d: %s origin %d type %d code %d info %u offender %s",
		    c->cmsg_level, c->cmsg_type, errno_name(value.error.ee_errno),
		    value.error.ee_origin, value.error.ee_type, value.error.ee_code,
		    value.error.ee_info, show_host(&offender));
	}
}

static void want_errors(void)
{
	TRY("recverr", v4() ? set_int(fd, IPPROTO_IP, IP_RECVERR, 1)
			    : set_int(fd, IPPROTO_IPV6, IPV6_RECVERR, 1));
}

static void errors_queue(void)
{
	char byte;

	start();
	want_errors();
	show_queue("empty");
	TRY("send", send(fd, "refused", 7, 0));
	awaits_error("refused");
	show_queue("queue");
	show_queue("queue is empty");
	TRY("error", get_int(fd, SOL_SOCKET, SO_ERROR));
	TRY("send", send(fd, "once more", 9, 0));
	awaits_error("refused");
	TRY("recv", recv(fd, &byte, 1, MSG_DONTWAIT));
	show_queue("still in the queue");
	nothing("recv", fd);
}

static void errors_queue_not_connected(void)
{
	struct address none = {.any = {.sa_family = AF_UNSPEC}, .len = sizeof(struct sockaddr_in)};

	start();
	TRY("disconnect", connect(fd, &none.any, none.len));
	fd = bound_socket(port + 1);
	want_errors();
	TRY("sendto", sendto(fd, "refused", 7, 0, &peer.any, peer.len));
	awaits_error("refused");
	show_queue("queue");
	TRY("error", get_int(fd, SOL_SOCKET, SO_ERROR));
	peer_open(2);
	peer_text(2, port + 1, "fine");
	take("fine", fd);
}

static void errors_size(void)
{
	static char data[3000];
	int level = v4() ? IPPROTO_IP : IPPROTO_IPV6;
	int discover = v4() ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER;
	int fits = v4() ? 1472 : 1452;

	fd = bound_socket(port);
	peer = peer_open(1);
	TRY("mtu of nothing", get_int(fd, level, v4() ? IP_MTU : IPV6_MTU));
	TRY("connect", connect(fd, &peer.any, peer.len));
	TRY("mtu", get_int(fd, level, v4() ? IP_MTU : IPV6_MTU));
	TRY("default", get_int(fd, level, discover));
	TRY("do", set_int(fd, level, discover, IP_PMTUDISC_DO));
	TRY("fits", send(fd, data, fits, 0));
	peer_take("fits", 1);
	TRY("does not", send(fd, data, fits + 1, 0));
	TRY("sendto", sendto(fd, data, 3000, 0, &peer.any, peer.len));
	want_errors();
	TRY("does not", send(fd, data, fits + 1, 0));
	show_queue("queue");
	TRY("probe", set_int(fd, level, discover, IP_PMTUDISC_PROBE));
	TRY("does not", send(fd, data, fits + 1, 0));
	TRY("dont", set_int(fd, level, discover, IP_PMTUDISC_DONT));
	TRY("fragmented", send(fd, data, 3000, 0));
	peer_take("fragmented", 1);
	TRY("want", set_int(fd, level, discover, IP_PMTUDISC_WANT));
	TRY("fragmented", send(fd, data, 3000, 0));
	peer_take("fragmented", 1);
}

static void errors_unreachable(void)
{
	/* A neighbour that does not answer: on the link, but not there. */
	struct address gone = address_of(v4() ? "192.0.2.200" : "2001:db8::200", 9);
	struct address open;

	fd = bound_socket(port);
	open = peer_open(1);
	TRY("sendto", sendto(fd, "x", 1, 0, &gone.any, gone.len));
	TRY("sendto", sendto(fd, "x", 1, 0, &gone.any, gone.len));
	/* Nobody else has to wait for it. */
	TRY("sendto", sendto(fd, "y", 1, 0, &open.any, open.len));
	peer_take("open", 1);
}

const struct test error_cases[] = {
	{"errors-refused", "46", SETUP, errors_refused},
	{"errors-refused-wake-up", "46", SETUP, errors_refused_wake_up},
	{"errors-refused-epoll", "46", SETUP, errors_refused_epoll},
	{"errors-not-connected", "46", FAST, errors_not_connected},
	{"errors-queue", "46", SETUP, errors_queue},
	{"errors-queue-not-connected", "46", SETUP, errors_queue_not_connected},
	{"errors-size", "46", SETUP, errors_size},
	{"errors-unreachable", "46", SETUP, errors_unreachable},
	{0},
};
