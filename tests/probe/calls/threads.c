// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Threads and signals.
 */
#include "calls.h"

#include <sys/syscall.h>

static int fd;

static void start(void)
{
	fd = bound_socket(port);
	peer_open(1);
}

static void on_signal(int number)
{
	(void)number;
}

static void handle(int number, int flags)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};

	sigaction(number, &action, NULL);
}

/* Waits until a thread of this process sleeps in the kernel (it has something to wait for). */
static void sleeps(pid_t thread)
{
	char path[64], line[512];
	long end = now_ms() + PATIENCE_MS;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
	while (now_ms() < end) {
		int file = open(path, O_RDONLY);
		ssize_t len = read(file, line, sizeof(line) - 1);
		char *state;

		close(file);
		line[len > 0 ? len : 0] = '\0';
		state = strrchr(line, ')');
		if (state && state[2] == 'S')
			return;
		usleep(1000);
	}
}

static struct worker {
	void (*body)(struct worker *worker);
	volatile pid_t id;
	volatile bool done;
	long result;
	int error, which;
	char text[32];
	pthread_t thread;
} workers[8];

static void *enter(void *pointer)
{
	struct worker *worker = pointer;

	worker->id = syscall(SYS_gettid);
	worker->body(worker);
	worker->error = errno;
	worker->done = true;
	return NULL;
}

static struct worker *begin(int which, void (*body)(struct worker *worker))
{
	struct worker *worker = &workers[which];

	*worker = (struct worker){.body = body, .which = which};
	pthread_create(&worker->thread, NULL, enter, worker);
	while (!worker->id)
		usleep(100);
	return worker;
}

static void end(const char *label, struct worker *worker)
{
	pthread_join(worker->thread, NULL);
	if (worker->result < 0)
		out("%s: %s", label, errno_name(worker->error));
	else
		out("%s: %ld \"%s\"", label, worker->result, worker->text);
}

static void receives(struct worker *worker)
{
	worker->result = recv(fd, worker->text, sizeof(worker->text) - 1, 0);
}

static void polls(struct worker *worker)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};

	worker->result = poll(&pollfd, 1, PATIENCE_MS);
}

static void threads_wake_up(void)
{
	struct worker *worker;

	start();
	worker = begin(0, receives);
	sleeps(worker->id);
	peer_text(1, port, "wake up");
	end("recv", worker);
	worker = begin(0, polls);
	sleeps(worker->id);
	peer_text(1, port, "poll");
	end("poll", worker);
	take("poll", fd);
	/* Two readers, two datagrams. */
	worker = begin(0, receives);
	begin(1, receives);
	sleeps(workers[0].id);
	sleeps(workers[1].id);
	peer_text(1, port, "same");
	peer_text(1, port, "same");
	end("one", &workers[0]);
	end("two", &workers[1]);
	nothing("none left", fd);
}

static void threads_shutdown(void)
{
	struct address peer;
	struct worker *worker;

	start();
	peer = peer_address(1);
	TRY("connect", connect(fd, &peer.any, peer.len));
	worker = begin(0, receives);
	sleeps(worker->id);
	TRY("shutdown", shutdown(fd, SHUT_RD));
	end("recv", worker);
}

static void threads_shutdown_not_connected(void)
{
	struct worker *worker;

	start();
	worker = begin(0, receives);
	sleeps(worker->id);
	/* Says that it is not connected, and wakes whoever waits nevertheless. */
	TRY("shutdown", shutdown(fd, SHUT_RDWR));
	end("recv", worker);
}

static void threads_close(void)
{
	struct worker *worker;
	int copy;

	start();
	copy = dup(fd);
	worker = begin(0, receives);
	sleeps(worker->id);
	/* Who waits goes on waiting: closing a descriptor wakes nobody. */
	TRY("close", close(fd));
	usleep(50000);
	out("done: %d", worker->done);
	peer_text(1, port, "after close");
	end("recv", worker);
	TRY("closed", recv(fd, &copy, 0, MSG_DONTWAIT));
	peer_text(1, port, "copy");
	take("copy", copy);
}

static int taken;

static void takes_many(struct worker *worker)
{
	(void)worker;
	for (;;) {
		char text[32] = "";

		if (recv(fd, text, sizeof(text) - 1, 0) <= 0 || strcmp(text, "end") == 0)
			break;
		__atomic_fetch_add(&taken, 1, __ATOMIC_SEQ_CST);
	}
}

static void threads_share(void)
{
	start();
	for (int i = 0; i < 4; i++)
		begin(i, takes_many);
	/* A few at a time, for which everything on the way has room. */
	for (int sent = 40; sent <= 400; sent += 40) {
		for (int i = 0; i < 40; i++)
			peer_text(1, port, "some");
		for (long end = now_ms() + PATIENCE_MS; now_ms() < end; usleep(1000))
			if (__atomic_load_n(&taken, __ATOMIC_SEQ_CST) >= sent)
				break;
	}
	for (int i = 0; i < 4; i++)
		peer_text(1, port, "end");
	for (int i = 0; i < 4; i++)
		pthread_join(workers[i].thread, NULL);
	out("all of them, each once: %d", taken);
	nothing("none left", fd);
}

static int sender_fd[4];

static void sends_many(struct worker *worker)
{
	struct address peer = peer_address(1);

	for (int i = 0; i < 20; i++)
		worker->result +=
			sendto(sender_fd[worker->which], "some", 4, 0, &peer.any, peer.len) == 4;
}

static void threads_send(void)
{
	struct address peer;
	int sent = 0, arrived = 0;

	start();
	peer = peer_address(1);
	/* Until a neighbour is known only so many datagrams wait for it. */
	TRY("first", sendto(fd, "some", 4, 0, &peer.any, peer.len));
	peer_take("first", 1);
	for (int round = 0; round < 5 && arrived == sent; round++) {
		for (int i = 0; i < 4; i++) {
			sender_fd[i] = fd;
			begin(i, sends_many);
		}
		for (int i = 0; i < 4; i++) {
			pthread_join(workers[i].thread, NULL);
			sent += workers[i].result;
		}
		while (arrived < sent && peer_receive(1, true)->came)
			arrived++;
	}
	out("sent %d, arrived %d", sent, arrived);
	peer_nothing("no more", 1);
}

static int groups[4];

static void answers_in_group(struct worker *worker)
{
	for (;;) {
		char text[32] = "";
		struct address from = {.len = sizeof(from.storage)};
		ssize_t len = recvfrom(groups[worker->which], text, sizeof(text) - 1, 0, &from.any,
				       &from.len);

		if (len <= 0)
			break;
		worker->result++;
		sendto(groups[worker->which], text, len, 0, &from.any, from.len);
	}
}

static void threads_reuseport(void)
{
	struct address all = any_address(port);
	int total = 0, kept = 1;

	for (int i = 0; i < 4; i++) {
		groups[i] = udp_socket();
		TRY("reuseport", set_int(groups[i], SOL_SOCKET, SO_REUSEPORT, 1));
		TRY("bind", bind(groups[i], &all.any, all.len));
	}
	int stranger = udp_socket();
	TRY("stranger", bind(stranger, &all.any, all.len));
	for (int i = 0; i < 4; i++)
		begin(i, answers_in_group);
	/* Six flows: each stays with its socket, all are answered. */
	for (int slot = 1; slot < 7; slot++)
		peer_open(slot);
	for (int round = 0; round < 10; round++)
		for (int slot = 1; slot < 7; slot++) {
			const struct arrival *arrival;

			peer_text(slot, port, "some");
			arrival = peer_receive(slot, true);
			total += arrival->came;
			kept &= arrival->came && ntohs(arrival->from.v4.sin_port) == port;
		}
	out("answered %d, from the right port: %d", total, kept);
	/* shutdown wakes readers, see above */
	total = 0;
	for (int i = 0; i < 4; i++)
		shutdown(groups[i], SHUT_RDWR);
	for (int i = 0; i < 4; i++) {
		pthread_join(workers[i].thread, NULL);
		total += workers[i].result > 60 ? 60 : workers[i].result;
	}
	out("received %d", total >= 60 ? 60 : total);
}

static void interrupted(struct worker *worker)
{
	worker->result = recv(fd, worker->text, sizeof(worker->text) - 1, 0);
}

static void interrupted_poll(struct worker *worker)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};

	worker->result = poll(&pollfd, 1, PATIENCE_MS);
}

static void interrupted_epoll(struct worker *worker)
{
	struct epoll_event event = {.events = EPOLLIN};
	int set = epoll_create1(0);

	epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
	worker->result = epoll_wait(set, &event, 1, PATIENCE_MS);
}

static void interrupted_select(struct worker *worker)
{
	fd_set in;

	FD_ZERO(&in);
	FD_SET(fd, &in);
	worker->result = select(fd + 1, &in, NULL, NULL, NULL);
}

static void interrupted_many(struct worker *worker)
{
	struct iovec iov = {worker->text, 10};
	struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}},
				      {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}}};

	worker->result = recvmmsg(fd, messages, 2, 0, NULL);
}

static void interrupt(const char *label, void (*body)(struct worker *worker), bool restarts)
{
	struct worker *worker = begin(0, body);

	sleeps(worker->id);
	pthread_kill(worker->thread, SIGUSR1);
	if (restarts) {
		usleep(20000);
		out("%s goes on: %d", label, !worker->done);
		peer_text(1, port, "then");
	}
	end(label, worker);
}

static void threads_interrupted(void)
{
	struct timeval time = {60, 0};

	start();
	handle(SIGUSR1, 0);
	interrupt("recv", interrupted, false);
	interrupt("poll", interrupted_poll, false);
	interrupt("epoll", interrupted_epoll, false);
	interrupt("select", interrupted_select, false);
	interrupt("recvmmsg", interrupted_many, false);
	handle(SIGUSR1, SA_RESTART);
	interrupt("recv with restart", interrupted, true);
	interrupt("poll with restart", interrupted_poll, false);
	interrupt("epoll with restart", interrupted_epoll, false);
	interrupt("select with restart", interrupted_select, false);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
	interrupt("recv with restart and timeout", interrupted, false);
	peer_text(1, port, "still works");
	take("still works", fd);
}

static void threads_alarm(void)
{
	char byte;

	start();
	/* Again and again: the first may come before anything waits. */
	handle(SIGALRM, 0);
	ualarm(20000, 20000);
	TRY("recv", recv(fd, &byte, 1, 0));
	TRY("poll", poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, PATIENCE_MS));
	handle(SIGALRM, SA_RESTART);
	peer_text(1, port, "x");
	TRY("recv with restart", recv(fd, &byte, 1, 0));
	ualarm(0, 0);
	signal(SIGALRM, SIG_DFL);
	alarm(240);
}

static void leaves(int number)
{
	struct address peer = peer_address(1);

	(void)number;
	/* Socket calls are allowed in handlers, in the middle of another one too. */
	if (sendto(fd, "from the handler", 16, 0, &peer.any, peer.len) < 0)
		_exit(5);
}

static void threads_handler_sends(void)
{
	struct sigaction action = {.sa_handler = leaves, .sa_flags = SA_RESTART};
	struct address peer;
	struct worker *worker;
	int count = 0, handlers = 0;

	start();
	peer = peer_address(1);
	sigaction(SIGUSR1, &action, NULL);
	worker = begin(0, receives);
	sleeps(worker->id);
	pthread_kill(worker->thread, SIGUSR1);
	peer_take("during recv", 1);
	peer_text(1, port, "done");
	end("recv", worker);
	sender_fd[0] = fd;
	worker = begin(0, sends_many);
	while (!worker->done)
		if (handlers < 50) {
			handlers++;
			pthread_kill(worker->thread, SIGUSR1);
			usleep(100);
		}
	pthread_join(worker->thread, NULL);
	TRY("after", sendto(fd, "last", 4, 0, &peer.any, peer.len));
	for (const struct arrival *arrival = peer_receive(1, true); arrival->came;
	     arrival = peer_receive(1, true)) {
		if (arrival->len == 4 && memcmp(arrival->data, "last", 4) == 0)
			break;
		count += arrival->len == 4;
	}
	out("ordinary ones: %d", count);
}

static void in_and_out(struct worker *worker)
{
	struct address all = any_address(0);

	for (int i = 0; i < 50; i++) {
		int mine = udp_socket();

		worker->result += bind(mine, &all.any, all.len) == 0;
		close(mine);
	}
}

static void threads_churn(void)
{
	long total = 0;

	start();
	for (int i = 0; i < 4; i++)
		begin(i, in_and_out);
	for (int i = 0; i < 20; i++) {
		peer_text(1, port, "x");
		if (!settle(fd))
			break;
		total += recv(fd, workers[7].text, 8, 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(workers[i].thread, NULL);
		total += workers[i].result;
	}
	out("total %ld", total);
	peer_text(1, port, "still works");
	take("still works", fd);
}

const struct test thread_cases[] = {
	{"threads-wake-up", "46", FAST, threads_wake_up},
	{"threads-shutdown", "46", SETUP, threads_shutdown},
	{"threads-shutdown-not-connected", "46", SETUP, threads_shutdown_not_connected},
	{"threads-close", "46", FAST, threads_close},
	{"threads-share", "46", FAST, threads_share},
	{"threads-send", "46", FAST, threads_send},
	{"threads-reuseport", "46", FAST, threads_reuseport},
	{"threads-interrupted", "46", FAST, threads_interrupted},
	{"threads-alarm", "46", FAST, threads_alarm},
	{"threads-handler-sends", "46", FAST, threads_handler_sends},
	{"threads-churn", "46", FAST, threads_churn},
	{0},
};
