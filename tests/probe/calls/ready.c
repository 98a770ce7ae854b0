// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * poll, ppoll, select and pselect, over sockets of several kinds.
 */
#include "calls.h"

static int fd;

static void start(void)
{
	fd = bound_socket(port);
	peer_open(1);
}

static void hear(const char *text)
{
	peer_text(1, port, text);
}

static void show_poll(const char *label, struct pollfd *fds, int count, int ms)
{
	char text[256];
	int at, ready = poll(fds, count, ms);

	if (ready < 0) {
		report(label, ready);
		return;
	}
	at = snprintf(text, sizeof(text), "%d ready:", ready);
	for (int i = 0; i < count; i++)
		at += snprintf(text + at, sizeof(text) - at, " %x", fds[i].revents);
	out("%s: %s", label, text);
}

static void ready_poll(void)
{
	struct pollfd fds[6] = {{0}};
	long before;

	start();
	fds[0] = (struct pollfd){.fd = fd, .events = POLLIN};
	show_poll("idle", fds, 1, 0);
	before = now_ms();
	show_poll("timeout", fds, 1, 60);
	out("waited: %s", now_ms() - before >= 55 ? "yes" : "no");
	hear("x");
	show_poll("input", fds, 1, PATIENCE_MS);
	show_poll("still", fds, 1, 0);
	fds[0].events = POLLIN | POLLOUT | POLLPRI | POLLRDNORM | POLLWRNORM | POLLRDHUP;
	show_poll("all", fds, 1, 0);
	take("x", fd);
	show_poll("output", fds, 1, 0);
	fds[0].events = 0;
	show_poll("nothing wanted", fds, 1, 0);
	fds[0] = (struct pollfd){.fd = -1, .events = POLLIN, .revents = 7};
	fds[1] = (struct pollfd){.fd = 99, .events = POLLIN};
	fds[2] = (struct pollfd){.fd = fd, .events = POLLIN};
	fds[3] = (struct pollfd){.fd = fd, .events = POLLOUT};
	show_poll("odd ones", fds, 4, -1);
	show_poll("none", fds, 0, 0);
}

static void ready_poll_mixed(void)
{
	struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(loopback);
	int pipes[2], listener, client, other;
	struct pollfd fds[5];

	start();
	other = bound_socket(port + 1);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	client = socket(AF_INET, SOCK_STREAM, 0);
	if (pipe(pipes) < 0 || bind(listener, (void *)&loopback, len) < 0 ||
	    listen(listener, 5) < 0 || getsockname(listener, (void *)&loopback, &len) < 0)
		fatal("a listener");
	fds[0] = (struct pollfd){.fd = fd, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = listener, .events = POLLIN};
	fds[2] = (struct pollfd){.fd = pipes[0], .events = POLLIN};
	fds[3] = (struct pollfd){.fd = other, .events = POLLIN};
	show_poll("idle", fds, 4, 0);
	if (write(pipes[1], "x", 1) != 1)
		fatal("write");
	show_poll("pipe", fds, 4, PATIENCE_MS);
	fds[2].fd = -1;
	TRY("connect", connect(client, (void *)&loopback, len));
	show_poll("tcp", fds, 4, PATIENCE_MS);
	fds[1].fd = -1;
	peer_text(1, port + 1, "for the other");
	show_poll("udp", fds, 4, PATIENCE_MS);
	take("other", other);
	hear("for this one");
	show_poll("udp", fds, 4, PATIENCE_MS);
	take("this", fd);
	close(pipes[1]);
	fds[2].fd = pipes[0];
	fds[1].fd = accept(listener, NULL, NULL);
	close(client);
	show_poll("tcp and pipe at their ends", fds, 4, PATIENCE_MS);
}

static void ready_ppoll(void)
{
	struct pollfd pollfd;
	struct timespec time = {0, 30000000};
	sigset_t none;

	start();
	sigemptyset(&none);
	pollfd = (struct pollfd){.fd = fd, .events = POLLIN};
	TRY("timeout", ppoll(&pollfd, 1, &time, &none));
	out("the time is kept: %ld", time.tv_nsec);
	hear("x");
	TRY("input", ppoll(&pollfd, 1, NULL, NULL));
	out("events %x", pollfd.revents);
	time = (struct timespec){0, -1};
	TRY("bad time", ppoll(&pollfd, 1, &time, NULL));
	time = (struct timespec){0, 0};
	TRY("no time", ppoll(&pollfd, 1, &time, NULL));
}

static void ready_select(void)
{
	fd_set in, output, error;
	struct timeval time = {0, 50000};
	int pipes[2];

	start();
	if (pipe(pipes) < 0)
		fatal("pipe");
	FD_ZERO(&in);
	FD_SET(fd, &in);
	FD_SET(pipes[0], &in);
	TRY("timeout", select(pipes[0] + 1, &in, NULL, NULL, &time));
	out("left %ld.%06ld, sets %d %d", (long)time.tv_sec, (long)time.tv_usec,
	    FD_ISSET(fd, &in) != 0, FD_ISSET(pipes[0], &in) != 0);
	hear("x");
	FD_SET(fd, &in);
	FD_SET(pipes[0], &in);
	time.tv_sec = 30;
	TRY("input", select(pipes[0] + 1, &in, NULL, NULL, &time));
	out("time is left: %d, sets %d %d", time.tv_sec > 0 || time.tv_usec > 0,
	    FD_ISSET(fd, &in) != 0, FD_ISSET(pipes[0], &in) != 0);
	FD_ZERO(&output);
	FD_ZERO(&error);
	FD_SET(fd, &output);
	FD_SET(fd, &error);
	TRY("all three", select(fd + 1, &in, &output, &error, NULL));
	out("sets %d %d %d", FD_ISSET(fd, &in) != 0, FD_ISSET(fd, &output) != 0,
	    FD_ISSET(fd, &error) != 0);
	take("x", fd);
	TRY("input and output", select(fd + 1, &in, &output, NULL, NULL));
	out("sets %d %d", FD_ISSET(fd, &in) != 0, FD_ISSET(fd, &output) != 0);
	time = (struct timeval){0, 0};
	TRY("few", select(0, NULL, NULL, NULL, &time));
	TRY("negative", select(-1, NULL, NULL, NULL, &time));
	FD_ZERO(&in);
	FD_SET(150, &in);
	TRY("closed", select(151, &in, NULL, NULL, &time));
	time = (struct timeval){-1, 0};
	TRY("bad time", select(0, NULL, NULL, NULL, &time));
	/* Only descriptors below the number count. */
	FD_ZERO(&in);
	FD_SET(fd, &in);
	time = (struct timeval){0, 0};
	hear("y");
	settle(fd);
	TRY("not looked at", select(fd, &in, NULL, NULL, &time));
}

static void ready_pselect(void)
{
	struct timespec time = {0, 40000000};
	fd_set in;
	sigset_t none;

	start();
	sigemptyset(&none);
	FD_ZERO(&in);
	FD_SET(fd, &in);
	TRY("timeout", pselect(fd + 1, &in, NULL, NULL, &time, &none));
	out("the time is kept: %ld", time.tv_nsec);
	FD_SET(fd, &in);
	hear("x");
	TRY("input", pselect(fd + 1, &in, NULL, NULL, NULL, NULL));
	out("set %d", FD_ISSET(fd, &in) != 0);
}

static void ready_high_descriptor(void)
{
	struct pollfd pollfd;
	fd_set in;
	int high;

	start();
	high = fcntl(fd, F_DUPFD, 900);
	TRY("high", high);
	close(fd);
	fd = high;
	FD_ZERO(&in);
	FD_SET(high, &in);
	hear("x");
	TRY("select", select(high + 1, &in, NULL, NULL, NULL));
	out("set %d", FD_ISSET(high, &in) != 0);
	pollfd = (struct pollfd){.fd = high, .events = POLLIN};
	show_poll("poll", &pollfd, 1, PATIENCE_MS);
	take("x", high);
	peer_text(1, port, "y");
	take("y", high);
}

static void ready_bad_memory(void)
{
	struct timespec time = {0, 0};

	start();
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	volatile unsigned many = 1u << 30;

	TRY("too many", poll(&pollfd, many, 0));
	show_poll("poll", BAD, 1, 0);
	TRY("ppoll", ppoll(BAD, 1, &time, NULL));
	TRY("select", select(fd + 1, BAD, NULL, NULL, &(struct timeval){0, 0}));
	hear("fine");
	take("fine", fd);
}

static void ready_unbound(void)
{
	struct address all = any_address(port);
	struct pollfd pollfd;

	fd = udp_socket();
	peer_open(1);
	pollfd = (struct pollfd){.fd = fd, .events = POLLIN | POLLOUT};
	show_poll("not bound", &pollfd, 1, 0);
	TRY("bind", bind(fd, &all.any, all.len));
	show_poll("bound", &pollfd, 1, 0);
	pollfd.events = POLLIN;
	hear("x");
	show_poll("input", &pollfd, 1, PATIENCE_MS);
	take("x", fd);
}

const struct test ready_cases[] = {
	{"ready-poll", "46", FAST, ready_poll},
	{"ready-poll-mixed", "46", FAST, ready_poll_mixed},
	{"ready-ppoll", "46", SETUP, ready_ppoll},
	{"ready-select", "46", FAST, ready_select},
	{"ready-pselect", "46", SETUP, ready_pselect},
	{"ready-high-descriptor", "46", FAST, ready_high_descriptor},
	{"ready-bad-memory", "46", FAST, ready_bad_memory},
	{"ready-unbound", "46", FAST, ready_unbound},
	{0},
};
