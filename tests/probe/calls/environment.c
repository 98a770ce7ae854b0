// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * What processes do to their surroundings: descriptors closed wholesale, other roots and users, the
 * C library by hand.
 */
#include "calls.h"

#include <dlfcn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static int fd;

static void start(void)
{
	fd = bound_socket(port);
	peer_open(1);
}

static void environment_descriptors_closed(void)
{
	struct address peer = peer_open(1);

	/* What daemons do at their start: all is closed that may be open (but the case's own
	 * channel). */
	for (int i = 3; i < 200; i++)
		close(i);
	closefrom(201);
	fd = bound_socket(port);
	TRY("lowest free", fd);
	peer_text(1, port, "after a loop");
	take("after a loop", fd);
	TRY("close_range", syscall(SYS_close_range, 3, 199, 0));
	TRY("closed", recv(fd, &peer, 1, MSG_DONTWAIT));
	fd = bound_socket(port);
	peer_text(1, port, "after close_range");
	take("after close_range", fd);
	TRY("close_range", close_range(3, 199, 0));
	fd = bound_socket(port);
	peer_text(1, port, "after libc's");
	take("after libc's", fd);
	TRY("cloexec only", close_range(3, 199, CLOSE_RANGE_CLOEXEC));
	peer_text(1, port, "still open");
	take("still open", fd);
	TRY("answer", sendto(fd, "x", 1, 0, &peer.any, peer.len));
	peer_take("answer", 1);
}

static void environment_descriptors_closed_later(void)
{
	struct address peer;

	/* The same when a socket is at work already: all but that one. */
	start();
	peer = peer_address(1);
	peer_text(1, port, "before");
	take("before", fd);
	for (int i = 3; i < 200; i++)
		if (i != fd)
			close(i);
	closefrom(201);
	peer_text(1, port, "after");
	take("after", fd);
	TRY("answer", sendto(fd, "x", 1, 0, &peer.any, peer.len));
	peer_take("answer", 1);
	int other = bound_socket(port + 1);
	peer_text(1, port + 1, "another one");
	take("another one", other);
}

static void environment_chroot(void)
{
	char directory[] = "/tmp/afnet-calls-XXXXXX";

	if (!mkdtemp(directory))
		fatal("mkdtemp");
	start();
	peer_text(1, port, "before");
	take("before", fd);
	TRY("chroot", chroot(directory));
	TRY("chdir", chdir("/"));
	peer_text(1, port, "after");
	take("after", fd);
	int other = bound_socket(port + 1);
	peer_text(1, port + 1, "new one");
	take("new one", other);
	peer_text(1, port + 1, "echo");
	out("%d", echo_once(other));
	peer_take("echo", 1);
}

static void environment_user(void)
{
	start();
	peer_text(1, port, "before");
	take("before", fd);
	TRY("setgid", setgid(65534));
	TRY("setuid", setuid(65534));
	peer_text(1, port, "after");
	take("after", fd);
	int other = bound_socket(port + 1);
	peer_text(1, port + 1, "new one");
	take("new one", other);
	peer_text(1, port + 1, "echo");
	out("%d", echo_once(other));
	peer_take("echo", 1);
}

static void environment_not_dumpable(void)
{
	TRY("dumpable", prctl(PR_SET_DUMPABLE, 0));
	start();
	peer_text(1, port, "x");
	take("x", fd);
	peer_text(1, port, "echo");
	out("%d", echo_once(fd));
	peer_take("echo", 1);
}

static void environment_few_descriptors(void)
{
	int filler[200], count = 0, socket_fd;

	start();
	peer_text(1, port, "x");
	take("x", fd);
	while (count < 190 && (filler[count] = dup(0)) >= 0 && filler[count] < 199)
		count++;
	for (int i = 0; i < count; i++)
		close(filler[i]);
	/* No descriptor is left for anybody but the program. */
	struct {
		unsigned long now, most;
	} limit = {12, 12};
	TRY("limit", syscall(SYS_setrlimit, 7, &limit));
	count = 0;
	while ((socket_fd = socket(family, SOCK_DGRAM, 0)) >= 0) {
		struct address all = any_address(port + 1 + count % 10);

		if (count < 5 && bind(socket_fd, &all.any, all.len) < 0)
			report("bind", -1);
		count++;
	}
	TRY("no more", socket(family, SOCK_DGRAM, 0));
	peer_text(1, port, "still");
	take("still", fd);
}

static void environment_libc_by_hand(void)
{
	void *libc = dlopen("libc.so.6", RTLD_NOW);
	ssize_t (*receive)(int, void *, size_t, int);
	ssize_t (*transmit)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
	int (*make)(int, int, int), (*give)(int, const struct sockaddr *, socklen_t);
	struct address all = any_address(port), peer;
	char text[16] = "";

	receive = dlsym(libc, "recv");
	transmit = dlsym(libc, "sendto");
	make = dlsym(libc, "socket");
	give = dlsym(libc, "bind");
	fd = make(family, SOCK_DGRAM, 0);
	TRY("bind", give(fd, &all.any, all.len));
	peer = peer_open(1);
	peer_text(1, port, "by dlsym");
	TRY("recv", receive(fd, text, sizeof(text), 0));
	TRY("send", transmit(fd, text, 8, 0, &peer.any, peer.len));
	peer_take("send", 1);
	/* Made by one, used by the other. */
	fd = bound_socket(port + 1);
	peer_text(1, port + 1, "mixed");
	TRY("recv", receive(fd, text, sizeof(text), 0));
	TRY("send", transmit(fd, text, 5, 0, &peer.any, peer.len));
	peer_take("send", 1);
	fd = make(family, SOCK_DGRAM, 0);
	all = any_address(port + 2);
	TRY("bind", bind(fd, &all.any, all.len));
	peer_text(1, port + 2, "mixed again");
	take("mixed", fd);
}

static void environment_system_calls(void)
{
	struct address all = any_address(port), peer;
	char text[16] = "";

	fd = syscall(SYS_socket, family, SOCK_DGRAM, 0);
	TRY("bind", syscall(SYS_bind, fd, &all.any, all.len));
	peer = peer_open(1);
	peer_text(1, port, "by syscall");
	TRY("recv", syscall(SYS_recvfrom, fd, text, sizeof(text), 0, NULL, NULL));
	TRY("send", syscall(SYS_sendto, fd, text, 8, 0, &peer.any, peer.len));
	peer_take("send", 1);
}

const struct test environment_cases[] = {
	{"environment-descriptors-closed", "46", SETUP, environment_descriptors_closed},
	{"environment-descriptors-closed-later", "46", SETUP, environment_descriptors_closed_later},
	{"environment-chroot", "46", PLAIN, environment_chroot},
	{"environment-user", "46", PLAIN, environment_user},
	{"environment-not-dumpable", "46", SETUP, environment_not_dumpable},
	{"environment-few-descriptors", "46", PLAIN, environment_few_descriptors},
	{"environment-libc-by-hand", "46", SETUP, environment_libc_by_hand},
	{"environment-system-calls", "46", PLAIN, environment_system_calls},
	{0},
};
