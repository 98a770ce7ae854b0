// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Processes: fork, exec and their relatives, and what they leave.
 */
#include "calls.h"

#include <spawn.h>

extern char **environ;

static int fd;

/* A child that waits in vain does not stay. */
static pid_t fork_bounded(void)
{
	pid_t child = fork();

	if (child == 0)
		alarm(120);
	return child;
}

static void start(void)
{
	fd = bound_socket(port);
	peer_open(1);
}

/* Takes one datagram and sends it back. */
bool echo_once(int at)
{
	char data[2048];
	struct address from = {.len = sizeof(from.storage)};
	ssize_t len = recvfrom(at, data, sizeof(data), 0, &from.any, &from.len);

	if (len < 0) {
		report("echo", len);
		return false;
	}
	return sendto(at, data, len, 0, &from.any, from.len) == len;
}

static void round_trip(const char *label)
{
	peer_text(1, port, label);
	peer_take(label, 1);
}

static void ended(const char *label, pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status))
		out("%s: exit %d", label, WEXITSTATUS(status));
	else
		out("%s: signal %d", label, WTERMSIG(status));
}

static void process_daemon(void)
{
	int ready[2];
	char byte;

	start();
	peer_text(1, port, "parent");
	echo_once(fd);
	peer_take("parent", 1);
	if (pipe(ready) < 0)
		fatal("pipe");
	pid_t child = fork_bounded();
	if (child == 0) {
		setsid();
		if (fork_bounded() > 0)
			_exit(0);
		close(ready[0]);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		for (int i = 0; i < 3; i++)
			echo_once(fd);
		_exit(0);
	}
	close(ready[1]);
	ended("first child", child);
	close(fd);
	if (read(ready[0], &byte, 1) != 1)
		fatal("read");
	round_trip("one");
	round_trip("two");
	round_trip("three");
	TRY("it ends", read(ready[0], &byte, 1));
}

static void process_fork_shared(void)
{
	start();
	pid_t child = fork_bounded();
	if (child == 0) {
		echo_once(fd);
		_exit(7);
	}
	round_trip("by the child");
	ended("child", child);
	/* What the child had open goes on here. */
	peer_text(1, port, "parent");
	echo_once(fd);
	peer_take("by the parent", 1);
	child = fork_bounded();
	if (child == 0) {
		close(fd);
		_exit(0);
	}
	ended("closing child", child);
	peer_text(1, port, "still");
	take("still", fd);
	/* What comes while a child exists is there for whoever looks. */
	child = fork_bounded();
	if (child == 0) {
		pause();
		_exit(0);
	}
	peer_text(1, port, "beside a child");
	take("beside a child", fd);
	kill(child, SIGKILL);
	ended("idle child", child);
	peer_text(1, port, "after");
	take("after", fd);
}

static void process_child_socket(void)
{
	int ready[2];
	char byte;

	start();
	if (pipe(ready) < 0)
		fatal("pipe");
	pid_t child = fork_bounded();
	if (child == 0) {
		int own = bound_socket(port + 1);

		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		_exit(!echo_once(own));
	}
	if (read(ready[0], &byte, 1) != 1)
		fatal("read");
	peer_text(1, port + 1, "child's own");
	peer_take("child's own", 1);
	ended("child", child);
	peer_text(1, port, "parent's own");
	take("parent's own", fd);
	/* Its port is free as soon as it has ended. */
	int other = bound_socket(port + 1);
	peer_text(1, port + 1, "taken over");
	take("taken over", other);
}

static void process_prefork(void)
{
	int counts[2], total = 0, ends = 0;
	pid_t children[4];

	start();
	set_int(fd, SOL_SOCKET, SO_RCVBUF, 1 << 20);
	if (pipe(counts) < 0)
		fatal("pipe");
	for (int i = 0; i < 4; i++) {
		children[i] = fork_bounded();
		if (children[i] == 0) {
			char text[32] = "";

			while (recv(fd, text, sizeof(text) - 1, 0) > 0) {
				bool last = strncmp(text, "end", 3) == 0;

				if (write(counts[1], last ? "e" : "d", 1) != 1 || last)
					_exit(0);
			}
			_exit(1);
		}
	}
	close(counts[1]);
	/* A few at a time, for which everything on the way has room. */
	for (int round = 0; round < 10; round++) {
		char kind = 'd';

		for (int i = 0; i < 20; i++)
			peer_text(1, port, "data");
		for (int i = 0; i < 20 && kind == 'd' && read(counts[0], &kind, 1) == 1; i++)
			total += kind == 'd';
	}
	for (int i = 0; i < 4; i++)
		peer_text(1, port, "end");
	for (char kind; read(counts[0], &kind, 1) == 1;) {
		total += kind == 'd';
		ends += kind == 'e';
	}
	out("each once: %d, ends: %d", total, ends);
	for (int i = 0; i < 4; i++)
		ended("worker", children[i]);
	nothing("none left", fd);
	peer_text(1, port, "master");
	take("master", fd);
}

static void process_reuseport(void)
{
	struct address all = any_address(port);
	pid_t children[3];
	int ready[2], total = 0, kept = 1;
	char byte;

	for (int slot = 1; slot < 7; slot++)
		peer_open(slot);
	if (pipe(ready) < 0)
		fatal("pipe");
	for (int i = 0; i < 3; i++) {
		children[i] = fork_bounded();
		if (children[i] == 0) {
			fd = udp_socket();
			if (set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1) < 0 ||
			    bind(fd, &all.any, all.len) < 0 || write(ready[1], "x", 1) != 1)
				_exit(1);
			while (echo_once(fd))
				;
			_exit(2);
		}
	}
	for (int i = 0; i < 3; i++)
		if (read(ready[0], &byte, 1) != 1)
			fatal("read");
	for (int round = 0; round < 10; round++)
		for (int slot = 1; slot < 7; slot++) {
			const struct arrival *arrival;

			peer_text(slot, port, "some");
			arrival = peer_receive(slot, true);
			total += arrival->came;
			kept &= arrival->came && ntohs(arrival->from.v4.sin_port) == port;
		}
	out("answered %d, from the right port: %d", total, kept);
	/* One goes; the others serve its flows, if not the first datagram then a later one. */
	kill(children[1], SIGKILL);
	ended("one", children[1]);
	for (int slot = 1; slot < 7; slot++)
		peer_text(slot, port, "first");
	total = 0;
	for (int round = 0; round < 200 && total < 6; round++) {
		total = 0;
		for (int slot = 1; slot < 7; slot++)
			peer_text(slot, port, "later");
		usleep(round ? 10000 : 0);
		for (int slot = 1; slot < 7; slot++) {
			bool came = false;

			while (peer_receive(slot, false)->came)
				came = true;
			total += came;
		}
	}
	out("flows served by the others: %d", total);
	kill(children[0], SIGKILL);
	kill(children[2], SIGKILL);
	ended("two", children[0]);
	ended("three", children[2]);
}

static void process_spawn(void)
{
	char *arguments[] = {"true", NULL};
	pid_t child;

	start();
	TRY("system", system("true"));
	child = vfork();
	if (child == 0) {
		execvp("true", arguments);
		_exit(127);
	}
	ended("vfork", child);
	TRY("posix_spawn", posix_spawnp(&child, "true", NULL, NULL, arguments, environ));
	ended("posix_spawn", child);
	FILE *pipe = popen("echo popen", "r");
	char line[16] = "";
	if (pipe && fgets(line, sizeof(line), pipe))
		out("popen: %.5s", line);
	TRY("pclose", pclose(pipe));
	peer_text(1, port, "still");
	take("still", fd);
	peer_text(1, port, "echo");
	out("echo %d", echo_once(fd));
	peer_take("echo", 1);
}

/* A program that has inherited a descriptor: echoes once. */
int child_main(int argc, char **argv)
{
	int at = argc > 2 ? atoi(argv[2]) : 0;

	if (strcmp(argv[1], "child-echo") == 0)
		return !echo_once(at);
	if (strcmp(argv[1], "child-look") == 0) {
		char byte;

		TRY("inherited", recv(at, &byte, 1, MSG_DONTWAIT));
		return 0;
	}
	return 64;
}

int serve_main(int at_port)
{
	family = AF_INET;
	fd = bound_socket(at_port);
	while (echo_once(fd))
		;
	return 1;
}

static pid_t spawn_self(const char *mode, int at)
{
	char number[16];
	pid_t child = fork_bounded();

	snprintf(number, sizeof(number), "%d", at);
	if (child == 0) {
		execl(myself, "calls", mode, number, (char *)NULL);
		_exit(127);
	}
	return child;
}

static void process_exec(void)
{
	pid_t child;

	start();
	child = spawn_self("child-echo", fd);
	round_trip("by the new program");
	ended("new program", child);
	peer_text(1, port, "parent again");
	take("parent again", fd);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	child = spawn_self("child-look", fd);
	ended("with cloexec", child);
	peer_text(1, port, "parent again");
	take("parent again", fd);
	/* As inetd does it. */
	child = fork_bounded();
	if (child == 0) {
		dup2(fd, 0);
		close(fd);
		execl(myself, "calls", "child-echo", "0", (char *)NULL);
		_exit(127);
	}
	round_trip("as standard input");
	ended("inetd's", child);
	peer_text(1, port, "parent again");
	take("parent again", fd);
}

/* Waits until a child has become another program. */
static void became(pid_t child, const char *mode)
{
	for (long end = now_ms() + PATIENCE_MS; now_ms() < end; usleep(1000)) {
		char path[64], line[64] = "";
		int file;

		snprintf(path, sizeof(path), "/proc/%d/cmdline", child);
		file = open(path, O_RDONLY);
		if (read(file, line, sizeof(line) - 1) > 6 && strcmp(line + 6, mode) == 0)
			end = 0;
		close(file);
		if (!end)
			return;
	}
	out("not %s", mode);
}

static void process_exec_in_place(void)
{
	peer_open(1);
	pid_t child = fork_bounded();
	if (child == 0) {
		/* A server that becomes a new version of itself. */
		char number[16];

		fd = bound_socket(port);
		peer_text(1, port, "first");
		take("first", fd);
		snprintf(number, sizeof(number), "%d", fd);
		execl(myself, "calls", "child-echo", number, (char *)NULL);
		_exit(127);
	}
	became(child, "child-echo");
	round_trip("second");
	ended("server", child);
	fd = bound_socket(port);
	peer_text(1, port, "port is free");
	take("port is free", fd);
}

static void send_descriptor(int channel, int what)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte = 'f';
	struct iovec iov = {&byte, 1};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &what, sizeof(int));
	TRY("pass", sendmsg(channel, &message, 0));
}

static int receive_descriptor(int channel)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = {&byte, 1};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	int got = -1;

	if (recvmsg(channel, &message, 0) < 0)
		fatal("receive a descriptor");
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(&got, CMSG_DATA(c), sizeof(got));
	return got;
}

static void process_rights(void)
{
	int pair[2];
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		fatal("socketpair");
	child = fork_bounded();
	if (child == 0) {
		int got;

		close(pair[0]);
		got = receive_descriptor(pair[1]);
		for (int i = 0; i < 2; i++)
			echo_once(got);
		_exit(0);
	}
	start();
	peer_text(1, port, "before");
	take("before", fd);
	send_descriptor(pair[0], fd);
	round_trip("by the receiver");
	close(fd);
	round_trip("the receiver has it alone");
	ended("receiver", child);
}

static void process_rights_to_itself(void)
{
	int pair[2], got;

	start();
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		fatal("socketpair");
	peer_text(1, port, "before");
	settle(fd);
	send_descriptor(pair[0], fd);
	got = receive_descriptor(pair[1]);
	take("before", got);
	peer_text(1, port, "after");
	take("after", got);
	peer_text(1, port, "by the first");
	take("by the first", fd);
	close(fd);
	peer_text(1, port, "closed");
	take("closed", got);
}

static void process_killed(void)
{
	int ready[2];
	char byte;

	peer_open(1);
	for (int round = 0; round < 10; round++) {
		if (pipe(ready) < 0)
			fatal("pipe");
		pid_t child = fork_bounded();
		if (child == 0) {
			int own = bound_socket(port);

			if (write(ready[1], "x", 1) != 1)
				_exit(1);
			while (echo_once(own))
				;
			_exit(1);
		}
		if (read(ready[0], &byte, 1) != 1)
			fatal("read");
		peer_text(1, port, "child");
		if (!peer_receive(1, true)->came)
			out("no answer in round %d", round);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		close(ready[0]);
		close(ready[1]);
		/* Its port is free at once, and the traffic soon the new owner's. */
		fd = udp_socket();
		struct address all = any_address(port);
		if (bind(fd, &all.any, all.len) < 0) {
			out("round %d", round);
			report("bind", -1);
			return;
		}
		/* What was under way to the dead one may be lost. */
		struct pollfd pollfd = {.fd = fd, .events = POLLIN};
		int tries = 0;
		do
			peer_text(1, port, "parent");
		while (++tries < 100 && poll(&pollfd, 1, PATIENCE_MS / 50) == 0);
		if (recv(fd, &byte, 1, MSG_DONTWAIT) != 1)
			out("nothing in round %d", round);
		close(fd);
	}
	out("all rounds");
}

static void process_rebind(void)
{
	char byte;

	peer_open(1);
	for (int round = 0; round < 50; round++) {
		fd = bound_socket(port);
		peer_text(1, port, "x");
		if (!settle(fd) || recv(fd, &byte, 1, 0) != 1)
			out("nothing in round %d", round);
		close(fd);
	}
	out("all rounds");
}

const struct test process_cases[] = {
	{"process-daemon", "46", FAST, process_daemon},
	{"process-fork-shared", "46", FAST, process_fork_shared},
	{"process-child-socket", "46", FAST, process_child_socket},
	{"process-prefork", "46", SETUP, process_prefork},
	{"process-reuseport", "46", PLAIN, process_reuseport},
	{"process-spawn", "46", SETUP, process_spawn},
	{"process-exec", "46", SETUP, process_exec},
	{"process-exec-in-place", "46", SETUP, process_exec_in_place},
	{"process-rights", "46", FAST, process_rights},
	{"process-rights-to-itself", "46", SETUP, process_rights_to_itself},
	{"process-killed", "46", FAST, process_killed},
	{"process-rebind", "46", FAST, process_rebind},
	{0},
};
