// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Random sequences of socket calls: FUZZ_SEED and FUZZ_STEPS of the environment say which.
 *
 * What is answered must not depend on how long a datagram is under way. So the program keeps
 * account of how many are to be at each socket, waits for what has to come, does not wait where
 * nothing may be, connects only where nothing is under way, which the filter of the time of its
 * arrival would meet, and binds a new socket to another port than the last one had, for which
 * something may be under way.
 */
#include "calls.h"

#include <linux/sockios.h>

#define SOCKETS 3
/* Of as many ports as a case has. */
#define GENERATIONS 6

static struct model {
	int fd;
	bool bound, everywhere; /* everywhere: to all addresses */
	bool itself;		/* bound by sending, not by bind() or connect() */
	int connected;		/* slot of the peer, 0: no */
	int waiting;		/* datagrams that are there or under way */
	bool foreign;		/* one that the filter drops may be under way */
	bool followed;		/* and one that it does not behind it */
	bool in_set;
	int step;	/* when it was made */
	int generation; /* sockets before it */
} sockets[SOCKETS];

static uint64_t state;
static int step, set;

static unsigned below(unsigned bound)
{
	/* splitmix64 */
	uint64_t z = state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (z ^ z >> 31) % bound;
}

/* "12 recv 0" */
static const char *label(const char *what, const struct model *socket)
{
	static char text[80];

	snprintf(text, sizeof(text), "%d %s %d", step, what, (int)(socket - sockets));
	return text;
}

static int number(const struct model *socket)
{
	return port + socket->generation % GENERATIONS * SOCKETS + (int)(socket - sockets);
}

/* What is to be at the socket is there, or at least a first part. */
static bool there(struct model *socket)
{
	if (!socket->waiting || readable(socket->fd))
		return true;
	out("%s", label("LOST", socket));
	socket->waiting = 0;
	return false;
}

/* Something that has not arrived yet, perhaps: all of one path come in their order. */
static bool under_way(const struct model *socket)
{
	return socket->waiting || socket->foreign;
}

static void make(struct model *socket_, int generation)
{
	*socket_ = (struct model){
		.fd = socket(family, SOCK_DGRAM | (below(2) ? SOCK_NONBLOCK : 0), 0),
		.step = step,
		.generation = generation,
	};
	if (!v4())
		set_int(socket_->fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	out("%s", label("socket", socket_));
}

static void do_bind(struct model *socket)
{
	bool everywhere = below(2);
	struct address address =
		everywhere ? any_address(number(socket)) : my_address(number(socket));

	if (TRY(label(everywhere ? "bind-any" : "bind", socket),
		bind(socket->fd, &address.any, address.len)) == 0) {
		socket->bound = true;
		socket->everywhere = everywhere;
	}
}

static void do_connect(struct model *socket)
{
	int slot = 1 + below(2);
	struct address peer = peer_address(slot);

	/* A known corner of the kernel path: it cannot connect any more. */
	if (socket->itself || under_way(socket))
		return;
	if (TRY(label("connect", socket), connect(socket->fd, &peer.any, peer.len)) == 0)
		socket->connected = slot;
}

static void do_disconnect(struct model *socket)
{
	struct address none = {.any = {.sa_family = AF_UNSPEC}, .len = sizeof(none.v6)};

	/* Without a port of its own choice it loses it. */
	if (!socket->bound || socket->everywhere || under_way(socket))
		return;
	if (TRY(label("disconnect", socket), connect(socket->fd, &none.any, none.len)) == 0)
		socket->connected = 0;
}

static void do_hear(struct model *socket)
{
	static unsigned char data[4000];
	static const unsigned sizes[] = {0, 1, 10, 100, 1000, 1472, 1473, 3000};
	int slot = 1 + below(2), len = sizes[below(8)];

	if (!socket->bound || socket->waiting > 20)
		return;
	for (int i = 0; i < len; i++)
		data[i] = i + step;
	peer_send(slot, number(socket), data, len);
	if (!socket->connected || socket->connected == slot) {
		socket->waiting++;
		socket->followed = socket->foreign;
	} else {
		socket->foreign = true;
		socket->followed = false;
	}
	out("%s %d by %d", label("hear", socket), len, slot);
}

static void do_receive(struct model *socket)
{
	static char data[2][5000];
	static const int some_flags[] = {
		0, 0, 0, MSG_PEEK, MSG_TRUNC, MSG_PEEK | MSG_TRUNC, MSG_WAITALL};
	struct address from = {.len = sizeof(from.storage)};
	int flags = some_flags[below(7)], size = below(3) ? 4500 : below(20), how = below(5);
	struct iovec iov[2] = {{data[0], size / 2}, {data[1], size - size / 2}};
	struct msghdr message = {.msg_name = &from.any,
				 .msg_namelen = sizeof(from.storage),
				 .msg_iov = iov,
				 .msg_iovlen = 2};
	struct mmsghdr many = {0};
	long got;

	if (!there(socket))
		return;
	if (!socket->waiting)
		flags |= MSG_DONTWAIT;
	switch (how) {
	case 0:
		got = TRY(label("recvfrom", socket),
			  recvfrom(socket->fd, data[0], size, flags, &from.any, &from.len));
		if (got >= 0)
			out("  from %s", show(&from));
		break;
	case 1:
		if (!socket->waiting)
			return;
		flags = 0;
		got = TRY(label("read", socket), read(socket->fd, data[0], size));
		/* A read of no bytes asks nobody. */
		if (size == 0)
			flags = MSG_PEEK;
		break;
	case 2:
		got = TRY(label("recvmsg", socket), recvmsg(socket->fd, &message, flags));
		if (got >= 0) {
			from.len = message.msg_namelen;
			out("  from %s flags %x", show(&from), message.msg_flags & ~MSG_DONTWAIT);
		}
		break;
	case 3:
		many.msg_hdr = message;
		got = TRY(label("recvmmsg", socket), recvmmsg(socket->fd, &many, 1, flags, NULL));
		if (got == 1)
			out("  length %u flags %x", many.msg_len,
			    many.msg_hdr.msg_flags & ~MSG_DONTWAIT);
		break;
	default:
		got = TRY(label("recv", socket), recv(socket->fd, data[0], size, flags));
		break;
	}
	if (got >= 0 && !(flags & MSG_PEEK) && socket->waiting && --socket->waiting == 0 &&
	    socket->followed)
		socket->foreign = socket->followed = false;
}

static void do_send(struct model *socket)
{
	static char data[4000];
	int slot = 1 + below(2), how = below(4), len = below(3) ? below(100) : below(3000);
	struct address peer = peer_address(slot);
	struct iovec iov[2] = {{data, len / 3}, {data + len / 3, len - len / 3}};
	struct msghdr message = {.msg_name = &peer.any, .msg_iov = iov, .msg_iovlen = 2};
	long sent;

	message.msg_namelen = peer.len;
	memset(data, step, sizeof(data));
	switch (how) {
	case 0:
		sent = TRY(label("sendto", socket),
			   sendto(socket->fd, data, len, 0, &peer.any, peer.len));
		break;
	case 1:
		sent = TRY(label("sendmsg", socket), sendmsg(socket->fd, &message, MSG_DONTWAIT));
		break;
	case 2:
		sent = TRY(label("send", socket), send(socket->fd, data, len, 0));
		slot = socket->connected;
		break;
	default:
		sent = TRY(label("writev", socket), writev(socket->fd, iov, 2));
		slot = socket->connected;
		break;
	}
	/* It has a port then, whether or not anything was sent. */
	socket->itself |= !socket->bound && !socket->connected;
	if (sent < 0)
		return;
	/* A writev of nothing sends nothing. */
	if (slot && !(how == 3 && len == 0))
		peer_take("  arrives", slot);
}

static void do_option(struct model *socket)
{
	static const struct {
		const char *name;
		int level, option, values[3];
	} options[] = {
		{"SO_BROADCAST", SOL_SOCKET, SO_BROADCAST, {0, 1, 1}},
		{"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, {0, 3, 6}},
		{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, {0, 0, 0}},
		{"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, {200000, 100000, 150000}},
		{"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, {200000, 100000, 150000}},
		{"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, {1, 1, 1}},
		{"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP, {0, 1, 0}},
		{"IP_TTL", IPPROTO_IP, IP_TTL, {64, 1, 300}},
		{"IP_TOS", IPPROTO_IP, IP_TOS, {0, 0xb8, 3}},
		{"IP_PKTINFO", IPPROTO_IP, IP_PKTINFO, {0, 1, 1}},
		{"IP_RECVTTL", IPPROTO_IP, IP_RECVTTL, {0, 1, 1}},
		{"IP_MTU_DISCOVER", IPPROTO_IP, IP_MTU_DISCOVER, {0, 1, 7}},
		{"IPV6_UNICAST_HOPS", IPPROTO_IPV6, IPV6_UNICAST_HOPS, {64, -1, 300}},
		{"IPV6_TCLASS", IPPROTO_IPV6, IPV6_TCLASS, {0, 0x20, 300}},
		{"UDP_GRO", IPPROTO_UDP, UDP_GRO, {0, 0, 0}},
		{"UDP_SEGMENT", IPPROTO_UDP, UDP_SEGMENT, {0, 0, -1}},
		{"none such", SOL_SOCKET, 999, {0, 1, 2}},
	};
	unsigned which = below(sizeof(options) / sizeof(options[0])), value = below(3);

	if (below(2))
		TRY(label(options[which].name, socket),
		    set_int(socket->fd, options[which].level, options[which].option,
			    options[which].values[value]));
	TRY(label("get", socket), get_int(socket->fd, options[which].level, options[which].option));
}

static void do_names(struct model *socket)
{
	struct address address = {.len = sizeof(address.storage)};

	if (TRY(label("getsockname", socket),
		getsockname(socket->fd, &address.any, &address.len)) == 0)
		out("  %s", show(&address));
	address.len = sizeof(address.storage);
	if (TRY(label("getpeername", socket),
		getpeername(socket->fd, &address.any, &address.len)) == 0)
		out("  %s", show(&address));
}

static void do_poll(struct model *socket)
{
	struct pollfd pollfd = {.fd = socket->fd, .events = below(2) ? POLLIN : POLLIN | POLLOUT};

	if (!there(socket))
		return;
	TRY(label("poll", socket), poll(&pollfd, 1, 0));
	out("  events %x", pollfd.revents);
}

static void do_select(struct model *socket)
{
	struct timeval time = {0, 0};
	fd_set in, output;

	if (!there(socket))
		return;
	FD_ZERO(&in);
	FD_ZERO(&output);
	FD_SET(socket->fd, &in);
	FD_SET(socket->fd, &output);
	TRY(label("select", socket), select(socket->fd + 1, &in, &output, NULL, &time));
	out("  sets %d %d", FD_ISSET(socket->fd, &in) != 0, FD_ISSET(socket->fd, &output) != 0);
}

static void do_copy(struct model *socket)
{
	int copy = below(2) ? dup(socket->fd) : fcntl(socket->fd, F_DUPFD_CLOEXEC, 20);

	out("%s", label("dup", socket));
	/* The set knows the number that is closed now: it stays, but nobody can take it out any
	 * more. */
	if (socket->in_set)
		TRY("  del", epoll_ctl(set, EPOLL_CTL_DEL, socket->fd, NULL));
	socket->in_set = false;
	close(socket->fd);
	socket->fd = copy;
}

static void do_register(struct model *socket)
{
	static const int operations[] = {EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL};
	static const unsigned events[] = {EPOLLIN, EPOLLIN | EPOLLOUT, EPOLLOUT,
					  EPOLLIN | EPOLLONESHOT, 0};
	int operation = operations[below(3)];
	struct epoll_event event = {.events = events[below(5)], .data.u32 = socket - sockets};

	if (TRY(label("epoll_ctl", socket), epoll_ctl(set, operation, socket->fd, &event)) == 0)
		socket->in_set = operation != EPOLL_CTL_DEL;
}

static void do_wait(struct model *socket)
{
	struct epoll_event events[SOCKETS + 1];
	int ready;

	(void)socket;
	for (int i = 0; i < SOCKETS; i++)
		if (!there(&sockets[i]))
			return;
	ready = TRY("epoll_wait", epoll_wait(set, events, SOCKETS + 1, 0));
	for (unsigned i = 0; i < SOCKETS; i++)
		for (int j = 0; j < ready; j++)
			if (events[j].data.u32 == i)
				out("  %u: %x", i, events[j].events);
}

static void do_amount(struct model *socket)
{
	int bytes = -1;

	if (!there(socket))
		return;
	TRY(label("fionread", socket), ioctl(socket->fd, FIONREAD, &bytes));
	out("  %d", bytes);
}

static void do_waiting(struct model *socket)
{
	int on = below(2);

	if (below(2))
		TRY(label("fionbio", socket), ioctl(socket->fd, FIONBIO, &on));
	else
		TRY(label("setfl", socket), fcntl(socket->fd, F_SETFL, on ? O_NONBLOCK : 0));
	out("  flags %x", fcntl(socket->fd, F_GETFL) & O_NONBLOCK);
}

static void do_close(struct model *socket)
{
	/* Not too soon, or nothing happens in its life. */
	if (step < socket->step + 20)
		return;
	TRY(label("close", socket), close(socket->fd));
	make(socket, socket->generation + 1);
}

static void fuzz(void)
{
	static void (*const operations[])(struct model * socket) = {
		do_bind,    do_bind,	do_connect,  do_disconnect, do_hear,	do_hear,
		do_hear,    do_hear,	do_receive,  do_receive,    do_receive, do_receive,
		do_receive, do_send,	do_send,     do_option,	    do_names,	do_poll,
		do_select,  do_copy,	do_register, do_register,   do_wait,	do_wait,
		do_amount,  do_waiting, do_close,
	};
	const char *seed = getenv("FUZZ_SEED"), *steps = getenv("FUZZ_STEPS");

	state = seed ? strtoull(seed, NULL, 0) : 1;
	set = epoll_create1(0);
	peer_open(1);
	peer_open(2);
	for (int i = 0; i < SOCKETS; i++)
		make(&sockets[i], 0);
	for (step = 1; step <= (steps ? atoi(steps) : 200); step++)
		operations[below(sizeof(operations) / sizeof(operations[0]))](
			&sockets[below(SOCKETS)]);
}

const struct test fuzz_cases[] = {
	{"fuzz", "46", SETUP, fuzz},
	{0},
};
