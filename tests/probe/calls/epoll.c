// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * epoll: level, edge, once, exclusive, nested, late.
 */
#include "calls.h"

#include <sys/eventfd.h>

static int fd, set;

static void start(void)
{
	fd = bound_socket(port);
	peer_open(1);
	set = epoll_create1(EPOLL_CLOEXEC);
}

static void hear(const char *text)
{
	peer_text(1, port, text);
}

static int control(int operation, int of, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u32 = 7000 + of};

	return epoll_ctl(set, operation, of, &event);
}

/* The ready ones in the order of their numbers, with the names that they were given. */
static void wait_in(const char *label, int in, int ms)
{
	struct epoll_event events[16];
	char text[256];
	int at, ready = epoll_wait(in, events, 16, ms);

	if (ready < 0) {
		report(label, ready);
		return;
	}
	at = snprintf(text, sizeof(text), "%d ready:", ready);
	for (uint32_t name = 7000; name < 7300; name++)
		for (int i = 0; i < ready; i++)
			if (events[i].data.u32 == name)
				at += snprintf(text + at, sizeof(text) - at, " %x",
					       events[i].events);
	out("%s: %s", label, text);
}

static void wait_for(const char *label, int ms)
{
	wait_in(label, set, ms);
}

static void epoll_level(void)
{
	long before;

	start();
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN));
	wait_for("idle", 0);
	before = now_ms();
	wait_for("timeout", 60);
	out("waited: %s", now_ms() - before >= 55 ? "yes" : "no");
	hear("x");
	wait_for("input", PATIENCE_MS);
	wait_for("still", PATIENCE_MS);
	hear("y");
	take("x", fd);
	wait_for("more", PATIENCE_MS);
	take("y", fd);
	wait_for("none left", 0);
	TRY("both", control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT));
	wait_for("output", PATIENCE_MS);
	hear("z");
	settle(fd);
	wait_for("both", PATIENCE_MS);
	TRY("nothing", control(EPOLL_CTL_MOD, fd, 0));
	wait_for("nothing wanted", 0);
	TRY("input again", control(EPOLL_CTL_MOD, fd, EPOLLIN));
	wait_for("input", PATIENCE_MS);
	TRY("del", control(EPOLL_CTL_DEL, fd, 0));
	wait_for("deleted", 0);
	take("z", fd);
}

static void epoll_edge(void)
{
	start();
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET));
	wait_for("idle", 0);
	hear("one");
	wait_for("edge", PATIENCE_MS);
	wait_for("once only", 50);
	/* A further datagram is a further edge, whether or not the first one was taken. */
	hear("two");
	wait_for("edge", PATIENCE_MS);
	take("one", fd);
	wait_for("taking is no edge", 50);
	take("two", fd);
	nothing("none left", fd);
	hear("three");
	wait_for("edge", PATIENCE_MS);
	take("three", fd);
	hear("four");
	settle(fd);
	TRY("mod", control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET));
	wait_for("mod is an edge", PATIENCE_MS);
	wait_for("once only", 50);
	TRY("both", control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT | EPOLLET));
	wait_for("both", PATIENCE_MS);
	wait_for("once only", 50);
	take("four", fd);
}

static void epoll_edge_there_already(void)
{
	start();
	hear("before");
	settle(fd);
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET));
	wait_for("there already", PATIENCE_MS);
	wait_for("once only", 50);
	TRY("del", control(EPOLL_CTL_DEL, fd, 0));
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET));
	wait_for("again", PATIENCE_MS);
	take("before", fd);
}

static void epoll_edge_output(void)
{
	struct address peer;

	start();
	peer = peer_address(1);
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLET));
	wait_for("writable", PATIENCE_MS);
	wait_for("once only", 50);
	/* Input shows that it can be written, too. */
	hear("x");
	wait_for("input", PATIENCE_MS);
	take("x", fd);
	TRY("send", sendto(fd, "y", 1, 0, &peer.any, peer.len));
	peer_take("send", 1);
}

static void epoll_once(void)
{
	start();
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT));
	hear("one");
	wait_for("once", PATIENCE_MS);
	wait_for("no more", 20);
	hear("two");
	settle(fd);
	wait_for("no more", 20);
	TRY("again", control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT));
	wait_for("once", PATIENCE_MS);
	take("one", fd);
	take("two", fd);
	TRY("again", control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT | EPOLLET));
	wait_for("idle", 0);
	hear("three");
	wait_for("once", PATIENCE_MS);
	hear("four");
	settle(fd);
	wait_for("no more", 20);
	take("three", fd);
	take("four", fd);
}

static void epoll_exclusive(void)
{
	int other;

	start();
	other = epoll_create1(0);
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLEXCLUSIVE));
	set = other;
	TRY("add to the other", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLEXCLUSIVE));
	hear("x");
	settle(fd);
	/* Nobody waits: both know it when they look. */
	wait_for("other", PATIENCE_MS);
	TRY("mod", control(EPOLL_CTL_MOD, fd, EPOLLIN));
	TRY("once", control(EPOLL_CTL_DEL, fd, 0));
	TRY("with once", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT));
	take("x", fd);
}

static void epoll_nested(void)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = 7001};
	struct pollfd pollfd;
	int outer;

	start();
	outer = epoll_create1(0);
	TRY("inner", control(EPOLL_CTL_ADD, fd, EPOLLIN));
	TRY("outer", epoll_ctl(outer, EPOLL_CTL_ADD, set, &event));
	wait_in("idle", outer, 0);
	hear("x");
	wait_in("outer", outer, PATIENCE_MS);
	wait_for("inner", PATIENCE_MS);
	pollfd = (struct pollfd){.fd = outer, .events = POLLIN};
	TRY("poll of the outer", poll(&pollfd, 1, PATIENCE_MS));
	pollfd.fd = set;
	TRY("poll of the inner", poll(&pollfd, 1, PATIENCE_MS));
	take("x", fd);
	wait_in("idle", outer, 0);
	TRY("poll of the inner", poll(&pollfd, 1, 0));
	TRY("circle", control(EPOLL_CTL_ADD, outer, EPOLLIN));
	TRY("itself", control(EPOLL_CTL_ADD, set, EPOLLIN));
}

static void epoll_late_bind(void)
{
	struct address all = any_address(port);

	start();
	close(fd);
	fd = udp_socket();
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET));
	wait_for("not bound", 0);
	TRY("bind", bind(fd, &all.any, all.len));
	hear("x");
	wait_for("bound later", PATIENCE_MS);
	take("x", fd);
	hear("y");
	wait_for("edge", PATIENCE_MS);
	take("y", fd);
	TRY("mod", control(EPOLL_CTL_MOD, fd, EPOLLIN));
	hear("z");
	wait_for("level", PATIENCE_MS);
	wait_for("level", PATIENCE_MS);
	take("z", fd);
	wait_for("idle", 0);
}

static void epoll_late_connect(void)
{
	struct address peer;

	start();
	close(fd);
	fd = udp_socket();
	peer = peer_address(1);
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN));
	TRY("connect", connect(fd, &peer.any, peer.len));
	peer_text(1, port_of(fd), "x");
	wait_for("connected later", PATIENCE_MS);
	take("x", fd);
	wait_for("idle", 0);
}

static void epoll_life(void)
{
	struct address all = any_address(port);
	int copy;

	start();
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN));
	TRY("add again", control(EPOLL_CTL_ADD, fd, EPOLLIN));
	TRY("add closed", control(EPOLL_CTL_ADD, 99, EPOLLIN));
	TRY("mod unknown", control(EPOLL_CTL_MOD, set + 50, EPOLLIN));
	TRY("bad operation", control(77, fd, EPOLLIN));
	TRY("bad event", epoll_ctl(set, EPOLL_CTL_MOD, fd, NULL));
	TRY("bad pointer", epoll_ctl(set, EPOLL_CTL_MOD, fd, BAD));
	TRY("not a set", epoll_ctl(fd, EPOLL_CTL_ADD, set, &(struct epoll_event){0}));
	TRY("wait in no set", epoll_wait(fd, &(struct epoll_event){0}, 1, 0));
	TRY("room for none", epoll_wait(set, &(struct epoll_event){0}, 0, 0));
	TRY("bad room", epoll_wait(set, BAD, 1, 0));
	hear("x");
	settle(fd);
	TRY("bad room, something there", epoll_wait(set, BAD, 1, 0));
	TRY("del", epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
	TRY("del again", epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
	TRY("mod deleted", control(EPOLL_CTL_MOD, fd, EPOLLIN));
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN));
	wait_for("there", PATIENCE_MS);
	close(fd);
	wait_for("closed", 0);
	fd = udp_socket();
	TRY("the same number", control(EPOLL_CTL_ADD, fd, EPOLLIN));
	TRY("bind", bind(fd, &all.any, all.len));
	hear("y");
	wait_for("new one", PATIENCE_MS);
	take("y", fd);
	copy = dup(fd);
	TRY("a copy", control(EPOLL_CTL_ADD, copy, EPOLLIN));
	hear("z");
	/* One after the other they become ready, on the kernel too. */
	settle(copy);
	wait_for("both", PATIENCE_MS);
	take("z", copy);
	/* The file is open yet: what was registered stays (epoll(7), questions). */
	close(fd);
	peer_text(1, port, "still");
	settle(copy);
	wait_for("closed, but not the copy", PATIENCE_MS);
	take("still", copy);
	close(set);
	wait_for("closed set", 0);
}

static void epoll_many(void)
{
	int sockets[8], tcp, event, got = 0;

	start();
	event = eventfd(0, EFD_NONBLOCK);
	tcp = socket(AF_INET, SOCK_STREAM, 0);
	listen(tcp, 1);
	TRY("eventfd", control(EPOLL_CTL_ADD, event, EPOLLIN));
	TRY("tcp", control(EPOLL_CTL_ADD, tcp, EPOLLIN));
	for (int i = 0; i < 8; i++) {
		sockets[i] = bound_socket(port + 1 + i);
		if (control(EPOLL_CTL_ADD, sockets[i], EPOLLIN) < 0)
			fatal("add");
	}
	for (int round = 0; round < 5; round++) {
		for (int i = round % 2; i < 8; i += 2)
			peer_text(1, port + 1 + i, "x");
		eventfd_write(event, 1);
		for (int left = 5; left > 0;) {
			struct epoll_event events[3];
			int count = epoll_wait(set, events, 3, PATIENCE_MS);

			if (count <= 0) {
				out("round %d: %d left", round, left);
				return;
			}
			for (int i = 0; i < count; i++, left--) {
				eventfd_t value;
				char byte;
				int ready = events[i].data.u32 - 7000;

				if (ready == event)
					got += eventfd_read(event, &value) == 0;
				else
					got += recv(ready, &byte, 1, MSG_DONTWAIT) == 1;
			}
		}
		wait_for("idle", 0);
	}
	out("got %d", got);
}

static void on_signal(int number)
{
	(void)number;
}

static void epoll_signals(void)
{
	struct epoll_event event;
	struct timespec time = {0, 20000000};
	sigset_t all, none;

	start();
	sigemptyset(&none);
	sigemptyset(&all);
	sigaddset(&all, SIGUSR1);
	signal(SIGUSR1, on_signal);
	TRY("add", control(EPOLL_CTL_ADD, fd, EPOLLIN));
	sigprocmask(SIG_BLOCK, &all, NULL);
	kill(getpid(), SIGUSR1);
	TRY("masked", epoll_wait(set, &event, 1, 20));
	TRY("pwait lets it through", epoll_pwait(set, &event, 1, PATIENCE_MS, &none));
	TRY("pwait", epoll_pwait(set, &event, 1, 20, &none));
	kill(getpid(), SIGUSR1);
	TRY("pwait2 lets it through", epoll_pwait2(set, &event, 1, &time, &none));
	TRY("pwait2", epoll_pwait2(set, &event, 1, &time, NULL));
	hear("x");
	TRY("input", epoll_pwait(set, &event, 1, PATIENCE_MS, &all));
	TRY("input", epoll_pwait2(set, &event, 1, NULL, &all));
	take("x", fd);
}

const struct test epoll_cases[] = {
	{"epoll-level", "46", FAST, epoll_level},
	{"epoll-edge", "46", FAST, epoll_edge},
	{"epoll-edge-there-already", "46", FAST, epoll_edge_there_already},
	{"epoll-edge-output", "46", FAST, epoll_edge_output},
	{"epoll-once", "46", FAST, epoll_once},
	{"epoll-exclusive", "46", FAST, epoll_exclusive},
	{"epoll-nested", "46", FAST, epoll_nested},
	{"epoll-late-bind", "46", FAST, epoll_late_bind},
	{"epoll-late-connect", "46", FAST, epoll_late_connect},
	{"epoll-life", "46", FAST, epoll_life},
	{"epoll-many", "46", FAST, epoll_many},
	{"epoll-signals", "46", FAST, epoll_signals},
	{0},
};
