// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Ways to send.
 */
#include "calls.h"

#include <limits.h>

static struct address peer;
static int fd;

static void start(void)
{
	fd = bound_socket(port);
	peer = peer_open(1);
}

static void to_peer(void)
{
	if (connect(fd, &peer.any, peer.len) < 0)
		fatal("connect");
}

static void send_calls(void)
{
	struct iovec parts[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
	struct msghdr message = {.msg_name = &peer.any, .msg_iov = parts, .msg_iovlen = 3};

	start();
	message.msg_namelen = peer.len;
	TRY("sendto", sendto(fd, "one", 3, 0, &peer.any, peer.len));
	peer_take("sendto", 1);
	TRY("sendmsg", sendmsg(fd, &message, 0));
	peer_take("sendmsg", 1);
	to_peer();
	TRY("send", send(fd, "two", 3, 0));
	peer_take("send", 1);
	TRY("write", write(fd, "three", 5));
	peer_take("write", 1);
	TRY("writev", writev(fd, parts, 3));
	peer_take("writev", 1);
	TRY("sendto connected", sendto(fd, "x", 1, 0, NULL, 0));
	peer_take("sendto connected", 1);
	message.msg_name = NULL;
	message.msg_namelen = 0;
	TRY("sendmsg connected", sendmsg(fd, &message, 0));
	peer_take("sendmsg connected", 1);
	TRY("dprintf", dprintf(fd, "%s-%d", "text", 7));
	peer_take("dprintf", 1);
}

static void send_many(void)
{
	char text[20][8];
	struct iovec iov[20];
	struct mmsghdr messages[20] = {0};

	start();
	for (int i = 0; i < 20; i++) {
		snprintf(text[i], sizeof(text[i]), "m%d", i);
		iov[i] = (struct iovec){text[i], strlen(text[i])};
		messages[i].msg_hdr = (struct msghdr){.msg_name = &peer.any,
						      .msg_namelen = peer.len,
						      .msg_iov = &iov[i],
						      .msg_iovlen = 1};
	}
	TRY("sendmmsg", sendmmsg(fd, messages, 20, 0));
	for (int i = 0; i < 20; i++) {
		peer_take("of many", 1);
		if (messages[i].msg_len != iov[i].iov_len)
			out("length of %d: %u", i, messages[i].msg_len);
	}
	TRY("none", sendmmsg(fd, messages, 0, 0));
	/* The third has no room in a datagram: two are sent. */
	iov[2].iov_len = 70000;
	iov[2].iov_base = calloc(1, 70000);
	TRY("two of three", sendmmsg(fd, messages, 3, 0));
	peer_take("first", 1);
	peer_take("second", 1);
	TRY("none of one", sendmmsg(fd, messages + 2, 1, 0));
}

static void send_sizes(void)
{
	static unsigned char data[66000];
	const int sizes[] = {0, 1, 100, 1472, 1473, 4000, 20000};

	start();
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = i / 7 % 251;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		char label[32];

		snprintf(label, sizeof(label), "size %d", sizes[i]);
		TRY(label, sendto(fd, data, sizes[i], 0, &peer.any, peer.len));
		peer_take(label, 1);
	}
	TRY("too long", sendto(fd, data, 65508, 0, &peer.any, peer.len));
	TRY("much too long", sendto(fd, data, 66000, 0, &peer.any, peer.len));
	to_peer();
	TRY("send nothing", send(fd, NULL, 0, 0));
	peer_take("send nothing", 1);
	TRY("write nothing", write(fd, data, 0));
}

static void send_longest(void)
{
	static unsigned char data[66000];
	int longest = v4() ? 65507 : 65527;

	start();
	set_int(fd, SOL_SOCKET, SO_SNDBUF, 1 << 20);
	memset(data, 7, sizeof(data));
	/* The peer's IPv6 stack takes no longer payload than 65487 without fragments' headers. */
	TRY("longest", sendto(fd, data, longest - 100, 0, &peer.any, peer.len));
	peer_take("longest", 1);
	TRY("over", sendto(fd, data, longest + 1, 0, &peer.any, peer.len));
}

static void send_parts(void)
{
	static struct iovec parts[1100];
	static char letters[1100];
	struct msghdr message = {.msg_name = &peer.any, .msg_iov = parts};

	start();
	message.msg_namelen = peer.len;
	for (int i = 0; i < 1100; i++) {
		letters[i] = 'a' + i % 26;
		parts[i] = (struct iovec){&letters[i], i % 3 ? 1 : 0};
	}
	for (int count = 1; count <= 1024;
	     count = count < 1000 ? count * 4 + 1 : 1024 + (count >= 1024)) {
		char label[32];

		message.msg_iovlen = count;
		snprintf(label, sizeof(label), "%d parts", count);
		TRY(label, sendmsg(fd, &message, 0));
		peer_take(label, 1);
	}
	message.msg_iovlen = IOV_MAX + 1;
	TRY("too many parts", sendmsg(fd, &message, 0));
	message.msg_iovlen = 0;
	TRY("no parts", sendmsg(fd, &message, 0));
	peer_take("no parts", 1);
	message.msg_iov = NULL;
	TRY("no parts at all", sendmsg(fd, &message, 0));
	peer_take("no parts at all", 1);
	to_peer();
	TRY("writev too many", writev(fd, parts, IOV_MAX + 1));
	TRY("writev none", writev(fd, parts, 0));
	TRY("writev nothing", writev(fd, parts, 1));
	TRY("write nothing", write(fd, letters, 0));
	TRY("send one", send(fd, letters, 1, 0));
	peer_take("the first that comes", 1);
	TRY("writev negative", writev(fd, parts, -1));
}

static void send_flags(void)
{
	static const struct {
		const char *name;
		int flag;
	} flags[] = {
		{"confirm", MSG_CONFIRM},   {"dontroute", MSG_DONTROUTE},
		{"dontwait", MSG_DONTWAIT}, {"eor", MSG_EOR},
		{"nosignal", MSG_NOSIGNAL}, {"oob", MSG_OOB},
		{"zerocopy", MSG_ZEROCOPY}, {"waitall", MSG_WAITALL},
		{"fastopen", MSG_FASTOPEN},
	};

	start();
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		long sent = TRY(flags[i].name, sendto(fd, flags[i].name, strlen(flags[i].name),
						      flags[i].flag, &peer.any, peer.len));
		if (sent >= 0)
			peer_take(flags[i].name, 1);
	}
}

static void send_more(void)
{
	start();
	TRY("more", sendto(fd, "ab", 2, MSG_MORE, &peer.any, peer.len));
	peer_nothing("more", 1);
	TRY("more", sendto(fd, "cd", 2, MSG_MORE, &peer.any, peer.len));
	TRY("end", sendto(fd, "ef", 2, 0, &peer.any, peer.len));
	peer_take("end", 1);
	to_peer();
	TRY("cork", set_int(fd, IPPROTO_UDP, UDP_CORK, 1));
	TRY("is corked", get_int(fd, IPPROTO_UDP, UDP_CORK));
	TRY("corked", send(fd, "gh", 2, 0));
	TRY("corked", send(fd, "ij", 2, 0));
	peer_nothing("corked", 1);
	TRY("uncork", set_int(fd, IPPROTO_UDP, UDP_CORK, 0));
	peer_take("uncork", 1);
	TRY("after", send(fd, "kl", 2, 0));
	peer_take("after", 1);
}

static void send_bad_addresses(void)
{
	struct address other = address_of(v4() ? "2001:db8::100" : "192.0.2.100", 9);
	struct address zero = peer, unspec;

	start();
	zero = peer;
	zero.v4.sin_port = 0;
	TRY("no address", send(fd, "x", 1, 0));
	TRY("no address, write", write(fd, "x", 1));
	TRY("port 0", sendto(fd, "x", 1, 0, &zero.any, zero.len));
	TRY("other family", sendto(fd, "x", 1, 0, &other.any, other.len));
	TRY("short address", sendto(fd, "x", 1, 0, &peer.any, 8));
	TRY("length 0", sendto(fd, "x", 1, 0, &peer.any, 0));
	TRY("long address", sendto(fd, "x", 1, 0, &peer.any, sizeof(peer.storage)));
	peer_take("long address", 1);
	TRY("longer", sendto(fd, "x", 1, 0, &peer.any, sizeof(peer.storage) + 1));
	TRY("negative length", sendto(fd, "x", 1, 0, &peer.any, -1));
	unspec = peer;
	unspec.any.sa_family = AF_UNSPEC;
	TRY("unspec", sendto(fd, "u", 1, 0, &unspec.any, unspec.len));
	if (v4())
		peer_take("unspec", 1);
	unspec.any.sa_family = 99;
	TRY("no family", sendto(fd, "u", 1, 0, &unspec.any, unspec.len));
}

static void send_bad_memory(void)
{
	struct iovec parts[2] = {{"ab", 2}, {BAD, 3}};
	struct msghdr message = {.msg_name = &peer.any, .msg_iov = parts, .msg_iovlen = 2};

	start();
	message.msg_namelen = peer.len;
	TRY("data", sendto(fd, BAD, 5, 0, &peer.any, peer.len));
	TRY("address", sendto(fd, "x", 1, 0, BAD, peer.len));
	TRY("messages", sendmmsg(fd, BAD, 1, 0));
	TRY("part", sendmsg(fd, &message, 0));
	TRY("message", sendmsg(fd, BAD, 0));
	message.msg_iov = BAD;
	TRY("parts", sendmsg(fd, &message, 0));
	message = (struct msghdr){
		.msg_name = BAD, .msg_namelen = peer.len, .msg_iov = parts, .msg_iovlen = 1};
	TRY("name", sendmsg(fd, &message, 0));
	message = (struct msghdr){.msg_name = &peer.any,
				  .msg_namelen = peer.len,
				  .msg_iov = parts,
				  .msg_iovlen = 1,
				  .msg_control = BAD,
				  .msg_controllen = 64};
	TRY("control", sendmsg(fd, &message, 0));
	to_peer();
	TRY("send", send(fd, BAD, 5, 0));
	TRY("write", write(fd, BAD, 5));
	TRY("writev", writev(fd, parts, 2));
	TRY("writev parts", writev(fd, BAD, 2));
	TRY("still works", send(fd, "ok", 2, 0));
	peer_take("still works", 1);
}

static void send_broadcast(void)
{
	struct address subnet = address_of("192.0.2.255", 9);

	start();
	TRY("subnet", sendto(fd, "x", 1, 0, &subnet.any, subnet.len));
	TRY("connect", connect(fd, &subnet.any, subnet.len));
	TRY("allowed", set_int(fd, SOL_SOCKET, SO_BROADCAST, 1));
	TRY("subnet", sendto(fd, "x", 1, 0, &subnet.any, subnet.len));
	TRY("still works", sendto(fd, "ok", 2, 0, &peer.any, peer.len));
	peer_take("still works", 1);
}

static void send_bad_descriptors(void)
{
	int pipes[2];

	start();
	if (pipe(pipes) < 0)
		fatal("pipe");
	TRY("none", sendto(-1, "x", 1, 0, &peer.any, peer.len));
	TRY("closed", sendto(99, "x", 1, 0, &peer.any, peer.len));
	TRY("pipe", sendto(pipes[1], "x", 1, 0, &peer.any, peer.len));
	TRY("recv of none", recv(-1, NULL, 0, 0));
	TRY("recv of pipe", recv(pipes[0], NULL, 0, 0));
	TRY("seek", lseek(fd, 0, SEEK_SET));
	TRY("pread", pread(fd, &peer, 1, 0));
	TRY("pwrite", pwrite(fd, "x", 1, 0));
	TRY("listen", listen(fd, 1));
	TRY("accept", accept(fd, NULL, NULL));
	TRY("fsync", fsync(fd));
	TRY("truncate", ftruncate(fd, 0));
}

/* More in all than any ring holds; so few at a time that nothing on the way is too small for them.
 */
static void send_burst(void)
{
	static char data[1000];
	int lost = 0, order = 0, count = 0;

	start();
	to_peer();
	/* Until a neighbour is known only so many datagrams wait for it. */
	TRY("first", send(fd, "first", 5, 0));
	peer_take("first", 1);
	for (int round = 0; round < 20 && !lost; round++) {
		for (int i = 0; i < 100; i++) {
			snprintf(data, sizeof(data), "%d", count + i);
			if (send(fd, data, sizeof(data), 0) != sizeof(data)) {
				report("send", -1);
				return;
			}
		}
		for (int i = 0; i < 100 && !lost; i++) {
			const struct arrival *arrival = peer_receive(1, true);

			if (!arrival->came)
				lost++;
			else if (atoi((const char *)arrival->data) != count + i)
				order++;
		}
		count += 100;
	}
	out("%d sent, lost: %s, out of order: %s", count, lost ? "some" : "none",
	    order ? "some" : "none");
}

const struct test send_cases[] = {
	{"send-calls", "46", FAST, send_calls},
	{"send-many", "46", FAST, send_many},
	{"send-sizes", "46", FAST, send_sizes},
	{"send-longest", "46", FAST, send_longest},
	{"send-parts", "46", FAST, send_parts},
	{"send-flags", "46", FAST, send_flags},
	{"send-more", "46", SETUP, send_more},
	{"send-bad-addresses", "46", FAST, send_bad_addresses},
	{"send-bad-memory", "46", FAST, send_bad_memory},
	{"send-broadcast", "4", FAST, send_broadcast},
	{"send-bad-descriptors", "46", SETUP, send_bad_descriptors},
	{"send-burst", "46", FAST, send_burst},
	{0},
};
