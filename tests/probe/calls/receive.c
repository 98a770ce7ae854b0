// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Ways to receive.
 */
#include "calls.h"

#include <linux/sockios.h>
#include <sys/mman.h>

static struct address peer;
static int fd;

static void start(void)
{
	fd = bound_socket(port);
	peer = peer_open(1);
}

static void hear(const char *text)
{
	peer_text(1, port, text);
}

static void show_message(const char *label, ssize_t len, const struct msghdr *message)
{
	struct address from = {.len = message->msg_namelen};

	if (len < 0) {
		report(label, len);
		return;
	}
	if (message->msg_name)
		memcpy(&from.storage, message->msg_name, sizeof(from.v6));
	out("%s: %zd from %s flags %x control %zu", label, len, show(&from), message->msg_flags,
	    (size_t)message->msg_controllen);
}

static void receive_calls(void)
{
	char a[4] = "", b[100] = "";
	struct iovec parts[2] = {{a, 3}, {b, 50}};
	struct address from;
	struct msghdr message = {.msg_name = &from.any,
				 .msg_namelen = sizeof(from.storage),
				 .msg_iov = parts,
				 .msg_iovlen = 2};

	start();
	hear("recvfrom");
	take("recvfrom", fd);
	hear("recv");
	settle(fd);
	TRY("recv", recv(fd, b, sizeof(b), 0));
	hear("read");
	settle(fd);
	TRY("read", read(fd, b, sizeof(b)));
	hear("readv-in-parts");
	settle(fd);
	TRY("readv", readv(fd, parts, 2));
	out("%s|%.11s", a, b);
	hear("recvmsg-in-parts");
	settle(fd);
	show_message("recvmsg", recvmsg(fd, &message, 0), &message);
	out("%s|%.13s", a, b);
	message.msg_name = NULL;
	message.msg_namelen = 77;
	hear("nameless");
	settle(fd);
	TRY("nameless", recvmsg(fd, &message, 0));
	if (connect(fd, &peer.any, peer.len) < 0)
		fatal("connect");
	hear("connected");
	take("connected", fd);
}

static void receive_flags(void)
{
	char data[8];

	start();
	nothing("dontwait", fd);
	hear("first");
	take_flags("peek", fd, MSG_PEEK);
	take_flags("peek", fd, MSG_PEEK);
	take_flags("waitall", fd, MSG_WAITALL);
	nothing("gone", fd);
	hear("a longer one");
	settle(fd);
	TRY("peek, real length", recv(fd, data, 3, MSG_PEEK | MSG_TRUNC));
	TRY("peek, cut", recv(fd, data, 3, MSG_PEEK));
	TRY("real length", recv(fd, data, 3, MSG_TRUNC));
	nothing("gone", fd);
	hear("one more that is cut");
	settle(fd);
	TRY("cut", recv(fd, data, 3, 0));
	nothing("rest is gone", fd);
	TRY("oob", recv(fd, data, 3, MSG_OOB | MSG_DONTWAIT));
	TRY("errqueue", recv(fd, data, 3, MSG_ERRQUEUE));
	hear("confirm");
	take_flags("cmsg-cloexec", fd, MSG_CMSG_CLOEXEC);
	nothing("gone", fd);
}

static void receive_truncated(void)
{
	char data[16];
	struct iovec iov = {data, 5};
	struct address from;
	struct msghdr message = {.msg_name = &from.any,
				 .msg_namelen = sizeof(from.storage),
				 .msg_iov = &iov,
				 .msg_iovlen = 1};
	socklen_t len = 6;

	start();
	hear("0123456789");
	settle(fd);
	show_message("cut", recvmsg(fd, &message, 0), &message);
	hear("0123456789");
	settle(fd);
	show_message("real length", recvmsg(fd, &message, MSG_TRUNC), &message);
	message.msg_iovlen = 0;
	hear("0123456789");
	settle(fd);
	show_message("into nothing", recvmsg(fd, &message, 0), &message);
	nothing("gone", fd);
	hear("0123456789");
	settle(fd);
	TRY("no room", recv(fd, NULL, 0, 0));
	nothing("gone", fd);
	hear("short name");
	settle(fd);
	memset(&from, 0x55, sizeof(from));
	TRY("short name", recvfrom(fd, data, sizeof(data), 0, &from.any, &len));
	out("real length of the name: %u, last byte %02x", len, ((unsigned char *)&from)[6]);
	len = 0;
	hear("no name");
	settle(fd);
	TRY("no name", recvfrom(fd, data, sizeof(data), 0, &from.any, &len));
	out("real length of the name: %u", len);
}

static void receive_empty(void)
{
	char data[8];
	struct address from = {.len = sizeof(from.storage)};

	start();
	hear("");
	TRY("readable", readable(fd));
	take("empty", fd);
	hear("");
	settle(fd);
	TRY("read", read(fd, data, sizeof(data)));
	hear("");
	settle(fd);
	TRY("peek", recvfrom(fd, data, 0, MSG_PEEK, &from.any, &from.len));
	out("from %s", show(&from));
	TRY("into nothing", recv(fd, data, 0, 0));
	hear("");
	hear("after an empty one");
	take("empty", fd);
	take("after", fd);
	nothing("gone", fd);
}

static void receive_many(void)
{
	char data[10][16];
	struct iovec iov[10];
	struct mmsghdr messages[10] = {0};
	struct address from[10];
	struct timespec time = {0, 1000000};
	int count;

	start();
	for (int i = 0; i < 10; i++) {
		iov[i] = (struct iovec){data[i], sizeof(data[i])};
		messages[i].msg_hdr = (struct msghdr){.msg_name = &from[i].any,
						      .msg_namelen = sizeof(from[i].storage),
						      .msg_iov = &iov[i],
						      .msg_iovlen = 1};
	}
	TRY("none there", recvmmsg(fd, messages, 10, MSG_DONTWAIT, NULL));
	for (int i = 0; i < 6; i++) {
		snprintf(data[0], sizeof(data[0]), "many%d", i);
		hear(data[0]);
	}
	/* Each is waited for: on a fast path they may still be under way. */
	settle(fd);
	TRY("three", recvmmsg(fd, messages, 3, 0, NULL));
	for (int i = 0; i < 3; i++) {
		from[i].len = messages[i].msg_hdr.msg_namelen;
		out("%u %.*s from %s flags %x", messages[i].msg_len, (int)messages[i].msg_len,
		    data[i], show(&from[i]), messages[i].msg_hdr.msg_flags);
	}
	take("fourth", fd);
	take_flags("peeked fifth", fd, MSG_PEEK);
	settle(fd);
	TRY("one at once", recvmmsg(fd, messages, 1, MSG_WAITFORONE, NULL));
	settle(fd);
	count = recvmmsg(fd, messages, 5, MSG_WAITFORONE, NULL);
	out("the last by waitforone: %d %.*s", count, (int)messages[0].msg_len, data[0]);
	hear("timed");
	settle(fd);
	TRY("with a timeout", recvmmsg(fd, messages, 1, 0, &time));
	time = (struct timespec){0, -1};
	TRY("bad timeout", recvmmsg(fd, messages, 1, MSG_DONTWAIT, &time));
	TRY("room for none", recvmmsg(fd, messages, 0, MSG_DONTWAIT, NULL));
	nothing("gone", fd);
	/* A timeout that is over when the first has come: it is not looked at before. */
	time = (struct timespec){0, 1};
	hear("late");
	TRY("timeout over", recvmmsg(fd, messages, 10, 0, &time));
}

static void receive_timeouts(void)
{
	struct timeval time = {0, 50000}, got;
	socklen_t len = sizeof(got);
	char byte;
	long before;

	start();
	TRY("default", getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &got, &len));
	out("%ld.%06ld", (long)got.tv_sec, (long)got.tv_usec);
	TRY("set", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
	TRY("get", getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &got, &len));
	out("%ld s, %s", (long)got.tv_sec,
	    got.tv_usec >= 50000 && got.tv_usec <= 60000 ? "about 50 ms" : "odd");
	before = now_ms();
	TRY("recv", recv(fd, &byte, 1, 0));
	out("waited: %s", now_ms() - before >= 45 ? "yes" : "no");
	TRY("read", read(fd, &byte, 1));
	TRY("peek", recv(fd, &byte, 1, MSG_PEEK));
	hear("in time");
	take("in time", fd);
	time = (struct timeval){0, 2000000};
	TRY("bad microseconds", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
	TRY("short", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, 4));
	time = (struct timeval){-1, 0};
	TRY("negative", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
	TRY("get", getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &got, &len));
	time = (struct timeval){0, 30000};
	TRY("send", setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)));
	TRY("send get", getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &got, &len));
	out("%ld s, %s", (long)got.tv_sec,
	    got.tv_usec >= 30000 && got.tv_usec <= 40000 ? "about 30 ms" : "odd");
	TRY("sent", sendto(fd, "x", 1, 0, &peer.any, peer.len));
	peer_take("sent", 1);
}

static void receive_amounts(void)
{
	int bytes = -1;
	char data[100];

	start();
	TRY("fionread", ioctl(fd, FIONREAD, &bytes));
	out("%d", bytes);
	hear("12345");
	hear("1234567");
	settle(fd);
	TRY("fionread", ioctl(fd, FIONREAD, &bytes));
	out("of the first: %d", bytes);
	TRY("siocinq", ioctl(fd, SIOCINQ, &bytes));
	out("%d", bytes);
	take("first", fd);
	settle(fd);
	TRY("fionread", ioctl(fd, FIONREAD, &bytes));
	out("of the second: %d", bytes);
	TRY("recv", recv(fd, data, sizeof(data), 0));
	TRY("fionread", ioctl(fd, FIONREAD, &bytes));
	out("%d", bytes);
	hear("");
	settle(fd);
	bytes = -1;
	TRY("fionread of an empty one", ioctl(fd, FIONREAD, &bytes));
	out("%d", bytes);
	bytes = -1;
	TRY("siocoutq", ioctl(fd, SIOCOUTQ, &bytes));
	out("%d", bytes);
	TRY("bad pointer", ioctl(fd, FIONREAD, BAD));
	TRY("unknown", ioctl(fd, 0x12345678, &bytes));
}

static void receive_bad_memory(void)
{
	char data[16];
	struct address from = {.len = sizeof(from.storage)};
	socklen_t len = -1;
	struct iovec iov = {data, sizeof(data)};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	start();
	TRY("message", recvmsg(fd, BAD, MSG_DONTWAIT));
	TRY("messages", recvmmsg(fd, BAD, 1, MSG_DONTWAIT, NULL));
	message.msg_iovlen = 2000;
	TRY("parts", recvmsg(fd, &message, MSG_DONTWAIT));
	message.msg_iovlen = 1;
	hear("lost by a bad pointer");
	settle(fd);
	TRY("data", recv(fd, BAD, 10, 0));
	nothing("gone or not", fd);
	hear("bad length");
	settle(fd);
	TRY("negative length of a name", recvfrom(fd, data, sizeof(data), 0, &from.any, &len));
	nothing("gone or not", fd);
	hear("bad name");
	settle(fd);
	TRY("name", recvfrom(fd, data, sizeof(data), 0, BAD, &from.len));
	nothing("gone or not", fd);
	hear("bad length pointer");
	settle(fd);
	TRY("length", recvfrom(fd, data, sizeof(data), 0, &from.any, BAD));
	nothing("gone or not", fd);
	hear("fine");
	take("fine", fd);
}

static void receive_over_the_edge(void)
{
	static unsigned char data[20000];

	start();
	/* Memory of several pages, of which the last cannot be written. */
	long page = sysconf(_SC_PAGESIZE);
	char *room =
		mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(room + 3 * page, page, PROT_NONE);
	peer_send(1, port, data, sizeof(data));
	settle(fd);
	TRY("over the edge", recv(fd, room, 4 * page, 0));
	nothing("gone", fd);
	hear("fine");
	take("fine", fd);
}

static void receive_buffers(void)
{
	start();
	out("defaults equal: %d",
	    get_int(fd, SOL_SOCKET, SO_RCVBUF) == get_int(fd, SOL_SOCKET, SO_SNDBUF));
	TRY("default", get_int(fd, SOL_SOCKET, SO_RCVBUF));
	TRY("set", set_int(fd, SOL_SOCKET, SO_RCVBUF, 30000));
	TRY("doubled", get_int(fd, SOL_SOCKET, SO_RCVBUF));
	TRY("tiny", set_int(fd, SOL_SOCKET, SO_RCVBUF, 1));
	TRY("least", get_int(fd, SOL_SOCKET, SO_RCVBUF));
	TRY("huge", set_int(fd, SOL_SOCKET, SO_RCVBUF, 1 << 30));
	out("limited: %d", get_int(fd, SOL_SOCKET, SO_RCVBUF) < 1 << 29);
	TRY("negative", set_int(fd, SOL_SOCKET, SO_RCVBUF, -1));
	TRY("set", set_int(fd, SOL_SOCKET, SO_SNDBUF, 30000));
	TRY("doubled", get_int(fd, SOL_SOCKET, SO_SNDBUF));
	TRY("tiny", set_int(fd, SOL_SOCKET, SO_SNDBUF, 1));
	TRY("least", get_int(fd, SOL_SOCKET, SO_SNDBUF));
	TRY("force", set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20));
	TRY("sent", sendto(fd, "x", 1, 0, &peer.any, peer.len));
	peer_take("sent", 1);
	TRY("set", set_int(fd, SOL_SOCKET, SO_RCVBUF, 100000));
	hear("received");
	take("received", fd);
}

static void receive_overflow(void)
{
	/* More than the socket has room for: the oldest are kept, the rest is lost, and it goes on.
	 */
	static char data[1000];
	int count = 0, last = -1, in_order = 1;

	start();
	TRY("room", set_int(fd, SOL_SOCKET, SO_RCVBUF, 20000));
	for (int i = 0; i < 9000; i++) {
		snprintf(data, sizeof(data), "%d", i);
		peer_send(1, port, data, sizeof(data));
	}
	settle(fd);
	/* All that is under way comes within this time; if not, it is for the end of the case to
	 * take. */
	while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 500) > 0 &&
	       recv(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
		in_order &= atoi(data) > last, last = atoi(data), count++;
	out("in order: %d, some: %d, not all: %d", in_order, count > 0, count < 9000);
	hear("goes on");
	take("goes on", fd);
}

static void receive_peek_offset(void)
{
	char data[8] = "";

	start();
	TRY("default", get_int(fd, SOL_SOCKET, SO_PEEK_OFF));
	TRY("set", set_int(fd, SOL_SOCKET, SO_PEEK_OFF, 0));
	hear("abcdefgh");
	settle(fd);
	TRY("peek", recv(fd, data, 3, MSG_PEEK));
	out("%.3s", data);
	TRY("peek", recv(fd, data, 3, MSG_PEEK));
	out("%.3s", data);
	TRY("recv", recv(fd, data, 3, 0));
	out("%.3s", data);
}

static void receive_two_sockets(void)
{
	int other = bound_socket(port + 1);

	start();
	peer_open(2);
	peer_text(1, port, "for one");
	peer_text(2, port + 1, "for two");
	take("two", other);
	take("one", fd);
	nothing("one", fd);
	nothing("two", other);
	peer_send_extra(1, port, "second", 6,
			(struct extras){.ttl = -1, .tos = -1, .to_second = 1});
	take("to the second address", fd);
	TRY("close", close(other));
	peer_text(1, port, "still");
	take("still", fd);
}

static void receive_long(void)
{
	static unsigned char data[60000];

	start();
	set_int(fd, SOL_SOCKET, SO_RCVBUF, 1 << 20);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = i / 3 % 251;
	peer_send(1, port, data, 1473);
	take("two fragments", fd);
	peer_send(1, port, data, 20000);
	take("many fragments", fd);
	peer_send(1, port, data, sizeof(data));
	take("very many fragments", fd);
	peer_send(1, port, data, 100);
	take("fine", fd);
}

const struct test receive_cases[] = {
	{"receive-calls", "46", FAST, receive_calls},
	{"receive-flags", "46", FAST, receive_flags},
	{"receive-truncated", "46", FAST, receive_truncated},
	{"receive-empty", "46", FAST, receive_empty},
	{"receive-many", "46", FAST, receive_many},
	{"receive-timeouts", "46", FAST, receive_timeouts},
	{"receive-amounts", "46", FAST, receive_amounts},
	{"receive-bad-memory", "46", FAST, receive_bad_memory},
	{"receive-over-the-edge", "46", FAST, receive_over_the_edge},
	{"receive-buffers", "46", FAST, receive_buffers},
	{"receive-overflow", "4", FAST, receive_overflow},
	{"receive-peek-offset", "46", SETUP, receive_peek_offset},
	{"receive-two-sockets", "46", FAST, receive_two_sockets},
	{"receive-long", "46", FAST, receive_long},
	{0},
};
