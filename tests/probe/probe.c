// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The probe: does socket operations that a script tells it to, one a line on standard input, and
 * answers each with one line on standard output: `ok`, what was found out, or the name of an errno.
 *
 *   socket s inet stream       ok
 *   bind s 0.0.0.0 80          ok
 *   bind s 192.0.2.99 80       EADDRNOTAVAIL
 *   getsockname s              0.0.0.0:80
 *
 * Built twice: as an ordinary program, and static with PROBE_RAW. Sockets have names and are all
 * non-blocking; what has to wait polls, with a bound, and says `timeout`.
 */
#include "probe.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MAX_WORDS 16
#define MAX_MANY  20000

struct sock sockets[MAX_SOCKETS];
static int many[MAX_MANY];
static int many_count;
static bool said;

void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
	said = true;
}

void say_errno(void)
{
	const char *name = strerrorname_np(errno);

	say("%s", name ? name : "unknown-errno");
}

void say_result(bool good)
{
	if (good)
		say("ok");
	else
		say_errno();
}

int number(const char *text)
{
	return (int)strtol(text, NULL, 0);
}

/* A socket that does not exist has descriptor -1: the kernel answers EBADF. */
struct sock *find(const char *name)
{
	static struct sock none;

	for (size_t i = 0; name && i < MAX_SOCKETS; i++)
		if (strcmp(sockets[i].name, name) == 0)
			return &sockets[i];
	none = (struct sock){.fd = -1};
	return &none;
}

/* Closes without leaving a connection in TIME_WAIT, so that scripts do not disturb each other. */
void drop(struct sock *sock)
{
	struct linger linger = {.l_onoff = 1};

	setsockopt(sock->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(sock->fd);
	memset(sock, 0, sizeof(*sock));
}

struct sock *add(const char *name, int fd, int family, int type)
{
	struct sock *sock = find(name);

	if (sock->fd >= 0)
		drop(sock);
	sock = sockets;
	while (sock->name[0])
		if (++sock == sockets + MAX_SOCKETS)
			abort();
	snprintf(sock->name, sizeof(sock->name), "%s", name);
	sock->fd = fd;
	sock->family = family;
	sock->type = type;
	sock->listening = false;
	return sock;
}

/* Closes everything and becomes root again, if the process was. */
static void op_reset(char **word)
{
	(void)word;
	for (struct sock *sock = sockets; sock < sockets + MAX_SOCKETS; sock++)
		if (sock->name[0])
			drop(sock);
	while (many_count > 0)
		close(many[--many_count]);
	if (geteuid() != 0 && seteuid(0) < 0 && getuid() == 0)
		return say_errno();
	say("ok");
}

/* many COUNT FAMILY TYPE ADDRESS PORT: that many sockets with SO_REUSEPORT, bound */
static void op_many(char **word)
{
	struct rlimit limit = {MAX_MANY + 100, MAX_MANY + 100};
	struct address address;
	int one = 1, count = number(word[1]);

	if (!parse_address(word[4], word[5], &address))
		return say("no-such-address");
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 0; i < count && many_count < MAX_MANY; i++) {
		int fd = sys(socket, family_of(word[2]), type_of(word[3]) | SOCK_NONBLOCK, 0);

		if (fd < 0)
			return say("%d %s", i, strerrorname_np(errno));
		many[many_count++] = fd;
		if (word[5][0] != '0')
			sys(setsockopt, fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		if (sys(bind, fd, &address.any, address.len) < 0)
			return say("%d %s", i, strerrorname_np(errno));
	}
	say("ok");
}

/* user ID: the effective user from here on (0 is given back by `reset`) */
static void op_user(char **word)
{
	say_result(seteuid((uid_t)number(word[1])) == 0);
}

/* daemon: forks twice, in a session of its own; what follows is the grandchild's */
static void op_daemon(char **word)
{
	(void)word;
	for (int i = 0; i < 2; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return say_errno();
		if (pid > 0)
			_exit(0);
		setsid();
	}
	say("ok");
}

/* write PATH TEXT */
static void op_write(char **word)
{
	int fd = open(word[1], O_WRONLY | O_CLOEXEC);
	bool good = fd >= 0 && write(fd, word[2], strlen(word[2])) >= 0;

	say_result(good);
	if (fd >= 0)
		close(fd);
}

static const struct operation {
	const char *name;
	int operands; /* that it needs at least */
	void (*run)(char **word);
} operations[] = {
	{"socket", 3, op_socket},    {"bind", 3, op_bind},
	{"connect", 3, op_connect},  {"connectlen", 4, op_connect},
	{"listen", 1, op_listen},    {"accept", 2, op_accept},
	{"getsockname", 1, op_name}, {"getpeername", 1, op_name},
	{"send", 2, op_send},	     {"sendto", 4, op_sendto},
	{"sendmsg", 5, op_sendmsg},  {"recv", 1, op_recv},
	{"recverr", 1, op_recverr},  {"shutdown", 2, op_shutdown},
	{"poll", 1, op_poll},	     {"close", 1, op_close},
	{"abort", 1, op_close},	     {"reset", 0, op_reset},
	{"dial", 3, op_dial},	     {"answer", 0, op_answer},
	{"serve", 0, op_serve},	     {"many", 5, op_many},
	{"user", 1, op_user},	     {"daemon", 0, op_daemon},
	{"write", 2, op_write},	     {"set", 2, op_set},
	{"get", 2, op_get},	     {"sticky", 2, op_sticky},
	{"join", 3, op_membership},  {"leave", 3, op_membership},
	{"block", 4, op_membership}, {"unblock", 4, op_membership},
	{"via", 2, op_via},	     {"ping", 2, op_ping},
	{"forge", 6, op_forge},
};

static void run(char *line)
{
	char *word[MAX_WORDS + 1] = {0};
	int words = 0;

	for (char *next = strtok(line, " \n"); next && words < MAX_WORDS;
	     next = strtok(NULL, " \n"))
		word[words++] = next;
	said = false;
	for (size_t i = 0; words && i < sizeof(operations) / sizeof(operations[0]); i++)
		if (strcmp(operations[i].name, word[0]) == 0 && words > operations[i].operands)
			operations[i].run(word);
	if (!said)
		say("no-such-operation");
}

int main(void)
{
	char line[4096];

	signal(SIGPIPE, SIG_IGN);
	while (fgets(line, sizeof(line), stdin))
		run(line);
	return 0;
}
