// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The case's side of the other machine, and the other machine: a server over a Unix socket that
 * opens UDP sockets and sends and receives as it is told. It forks for each case, so that what a
 * case leaves behind disturbs none of the others.
 */
#include "calls.h"

#include <sys/un.h>

enum operation { OPEN, CLOSE, SEND, RECEIVE };

struct request {
	enum operation operation;
	int family, slot, to_port, len, patient;
	struct extras extras;
	char group[INET6_ADDRSTRLEN]; /* to be sent to, if there is one */
	unsigned char data[MAX_DATA];
};

static int channel = -1;
static struct request request;
static struct arrival answer;
static struct address known[8];

static void full(ssize_t did, const char *what)
{
	if (did < 0)
		fatal(what);
	if (did == 0)
		_exit(4);
}

/* The message without the part of its data that is not used. */
static void ask(enum operation operation, int slot)
{
	size_t head = offsetof(struct request, data);

	request.operation = operation;
	request.family = family;
	request.slot = slot;
	full(send(channel, &request, head + (operation == SEND ? request.len : 0), MSG_NOSIGNAL),
	     "send to the peer's server");
	full(recv(channel, &answer, sizeof(answer), 0), "the peer's answer");
}

void peer_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int size = 1 << 20;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	channel = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	setsockopt(channel, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (channel < 0 || connect(channel, (struct sockaddr *)&address, sizeof(address)) < 0)
		fatal("connect to the peer's server");
	/* Out of the way of cases that count descriptors. */
	if (dup3(channel, 200, O_CLOEXEC) < 0)
		fatal("dup3");
	close(channel);
	channel = 200;
}

struct address peer_open(int slot)
{
	ask(OPEN, slot);
	known[slot] = answer.from;
	return answer.from;
}

struct address peer_address(int slot)
{
	return known[slot];
}

void peer_close(int slot)
{
	ask(CLOSE, slot);
}

void peer_send_extra(int slot, int to_port, const void *data, int len, struct extras extras)
{
	request.to_port = to_port;
	request.len = len;
	request.extras = extras;
	memcpy(request.data, data, len);
	ask(SEND, slot);
	if (answer.len < 0) {
		errno = -answer.len;
		fatal("the peer cannot send");
	}
}

void peer_text_to(int slot, const char *group, int to_port, const char *text)
{
	snprintf(request.group, sizeof(request.group), "%s", group);
	peer_text(slot, to_port, text);
	request.group[0] = 0;
}

void peer_send(int slot, int to_port, const void *data, int len)
{
	peer_send_extra(slot, to_port, data, len, NO_EXTRAS);
}

void peer_text(int slot, int to_port, const char *text)
{
	peer_send(slot, to_port, text, strlen(text));
}

const struct arrival *peer_receive(int slot, bool patient)
{
	request.patient = patient;
	ask(RECEIVE, slot);
	return &answer;
}

static void served_open(int *fd)
{
	struct address address;
	int one = 1;

	address = address_of(v4() ? "192.0.2.100" : "2001:db8::100", 0);
	*fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (*fd < 0 || bind(*fd, &address.any, address.len) < 0)
		fatal("the peer's socket");
	set_int(*fd, IPPROTO_IP, IP_RECVTTL, one);
	set_int(*fd, IPPROTO_IP, IP_RECVTOS, one);
	set_int(*fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, one);
	set_int(*fd, IPPROTO_IPV6, IPV6_RECVTCLASS, one);
	set_int(*fd, SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26);
	answer.from.len = sizeof(answer.from.storage);
	getsockname(*fd, &answer.from.any, &answer.from.len);
	/* Groups are here. */
	struct ip_mreqn by = {.imr_ifindex = if_nametoindex("peer0")};
	setsockopt(*fd, IPPROTO_IP, IP_MULTICAST_IF, &by, sizeof(by));
	set_int(*fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, by.imr_ifindex);
}

/* A datagram of a UDP socket is on its way when this returns; errors of former ones are ignored. */
static int served_send(int fd, int len)
{
	struct address to = request.extras.to_second ? my_second_address(request.to_port)
						     : my_address(request.to_port);
	if (request.group[0])
		to = address_of(request.group, request.to_port);
	const struct extras *extras = &request.extras;
	int result, level = v4() ? IPPROTO_IP : IPPROTO_IPV6;

	if (extras->ttl >= 0)
		set_int(fd, level, v4() ? IP_TTL : IPV6_UNICAST_HOPS, extras->ttl);
	if (extras->tos >= 0)
		set_int(fd, level, v4() ? IP_TOS : IPV6_TCLASS, extras->tos);
	set_int(fd, IPPROTO_UDP, UDP_SEGMENT, extras->segment);
	for (int i = 0; i < 10; i++) {
		result = sendto(fd, request.data, len, 0, &to.any, to.len);
		if (result >= 0 || errno != ECONNREFUSED)
			break;
	}
	return result < 0 ? -errno : result;
}

static void served_receive(int fd)
{
	char control[512];
	struct iovec iov = {answer.data, sizeof(answer.data)};
	struct msghdr message = {.msg_name = &answer.from.any,
				 .msg_namelen = sizeof(answer.from.storage),
				 .msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};

	answer.ttl = answer.tos = -1;
	answer.came = poll(&pollfd, 1, request.patient ? PATIENCE_MS : 0) > 0;
	if (!answer.came)
		return;
	answer.len = recvmsg(fd, &message, MSG_DONTWAIT);
	answer.came = answer.len >= 0;
	answer.from.len = message.msg_namelen;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		bool ip = c->cmsg_level == IPPROTO_IP, ip6 = c->cmsg_level == IPPROTO_IPV6;

		if (ip && c->cmsg_type == IP_TOS)
			answer.tos = *CMSG_DATA(c);
		if ((ip && c->cmsg_type == IP_TTL) || (ip6 && c->cmsg_type == IPV6_HOPLIMIT))
			memcpy(&answer.ttl, CMSG_DATA(c), sizeof(int));
		if (ip6 && c->cmsg_type == IPV6_TCLASS)
			memcpy(&answer.tos, CMSG_DATA(c), sizeof(int));
	}
}

static void serve(int at)
{
	size_t head = offsetof(struct request, data);
	int sockets[8], size = 1 << 20;
	ssize_t len;

	memset(sockets, -1, sizeof(sockets));
	setsockopt(at, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	while ((len = recv(at, &request, sizeof(request), 0)) >= (ssize_t)head) {
		int *fd = &sockets[request.slot & 7];

		family = request.family;
		answer.came = false;
		answer.len = 0;
		switch (request.operation) {
		case OPEN:
			if (*fd >= 0)
				close(*fd);
			served_open(fd);
			break;
		case CLOSE:
			close(*fd);
			*fd = -1;
			break;
		case SEND:
			answer.len = served_send(*fd, len - head);
			break;
		case RECEIVE:
			served_receive(*fd);
			break;
		}
		len = offsetof(struct arrival, data) + (answer.came ? answer.len : 0);
		if (send(at, &answer, len, MSG_NOSIGNAL) < 0)
			break;
	}
	_exit(0);
}

int peer_main(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 16) < 0)
		fatal(path);
	signal(SIGCHLD, SIG_IGN);
	out("ready");
	for (;;) {
		int at = accept(listener, NULL, NULL);

		if (at >= 0 && fork() == 0)
			serve(at);
		close(at);
	}
}
