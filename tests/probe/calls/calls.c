// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Chooses the case, and what cases share.
 */
#include "calls.h"

#include <stdarg.h>

int family, port, patience_ms = 30000;
const char *myself;
void *volatile bad = (void *)8;

static const struct test *const tables[] = {
	send_cases,	  receive_cases,     name_cases,  option_cases, control_cases,
	error_cases,	  ready_cases,	     epoll_cases, thread_cases, process_cases,
	descriptor_cases, environment_cases, group_cases, fuzz_cases,
};
static const char *const table_names[] = {
	"send",	 "receive", "names",   "options",     "control",     "errors", "ready",
	"epoll", "threads", "process", "descriptors", "environment", "groups", "fuzz",
};

/* One write a line: several processes and threads may have something to say. */
void out(const char *format, ...)
{
	char line[4096];
	va_list arguments;
	int len;

	va_start(arguments, format);
	len = vsnprintf(line, sizeof(line) - 1, format, arguments);
	va_end(arguments);
	if (len > (int)sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	if (write(STDOUT_FILENO, line, len) < 0)
		_exit(3);
}

void fatal(const char *what)
{
	out("fatal: %s: %s", what, errno_name(errno));
	_exit(2);
}

const char *errno_name(int error)
{
	const char *name = error ? strerrorname_np(error) : "0";

	return name ? name : "unknown-errno";
}

long report(const char *label, long result)
{
	if (result < 0)
		out("%s: %s", label, errno_name(errno));
	else
		out("%s: %ld", label, result);
	return result;
}

bool v4(void)
{
	return family == AF_INET;
}

struct address address_of(const char *text, int number)
{
	struct address address = {0};

	if (inet_pton(AF_INET, text, &address.v4.sin_addr) == 1) {
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = htons(number);
		address.len = sizeof(address.v4);
	} else if (inet_pton(AF_INET6, text, &address.v6.sin6_addr) == 1) {
		address.v6.sin6_family = AF_INET6;
		address.v6.sin6_port = htons(number);
		address.len = sizeof(address.v6);
	} else {
		fatal(text);
	}
	return address;
}

struct address any_address(int number)
{
	return address_of(v4() ? "0.0.0.0" : "::", number);
}

struct address my_address(int number)
{
	return address_of(v4() ? "192.0.2.10" : "2001:db8::10", number);
}

struct address my_second_address(int number)
{
	return address_of(v4() ? "192.0.2.11" : "2001:db8::11", number);
}

/* Names for what every run has otherwise or elsewhere. */
const char *show_host(const struct address *address)
{
	static char text[4][INET6_ADDRSTRLEN + 16];
	static const char *const names[][2] = {
		{"192.0.2.10", "me"},
		{"2001:db8::10", "me"},
		{"192.0.2.11", "me2"},
		{"2001:db8::11", "me2"},
		{"192.0.2.100", "peer"},
		{"2001:db8::100", "peer"},
		{"0.0.0.0", "any"},
		{"::", "any"},
		{"::ffff:192.0.2.100", "mapped-peer"},
		{"::ffff:0.0.0.0", "mapped-any"},
		{"::ffff:192.0.2.10", "mapped-me"},
	};
	static int next;
	char *mine = text[next++ % 4];

	if (address->len == 0)
		return "nobody";
	if (address->any.sa_family == AF_INET)
		inet_ntop(AF_INET, &address->v4.sin_addr, mine, sizeof(text[0]));
	else if (address->any.sa_family == AF_INET6)
		inet_ntop(AF_INET6, &address->v6.sin6_addr, mine, sizeof(text[0]));
	else
		snprintf(mine, sizeof(text[0]), "family-%d", address->any.sa_family);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i][0], mine) == 0)
			return names[i][1];
	return mine;
}

const char *show(const struct address *address)
{
	static char text[4][INET6_ADDRSTRLEN + 40];
	static int next;
	char *mine = text[next++ % 4];
	int number = ntohs(address->v4.sin_port);

	if (address->len == 0)
		return "nobody";
	snprintf(mine, sizeof(text[0]), "%s:ephemeral", show_host(address));
	if (number == 0)
		snprintf(mine, sizeof(text[0]), "%s:0", show_host(address));
	if (number >= port && number < port + 20)
		snprintf(mine, sizeof(text[0]), "%s:+%d", show_host(address), number - port);
	/* A port that the kernel has chosen here may be one of the peer's, too. */
	bool mine_too = strstr(show_host(address), "me") || strstr(show_host(address), "any");
	for (int slot = 0; slot < 8 && !mine_too; slot++)
		if (number && number == ntohs(peer_address(slot).v4.sin_port))
			snprintf(mine, sizeof(text[0]), "%s:p%d", show_host(address), slot);
	return mine;
}

int udp_socket(void)
{
	int fd = socket(family, SOCK_DGRAM, 0);

	if (fd < 0)
		fatal("socket");
	return fd;
}

int bound_socket(int number)
{
	struct address address = any_address(number);
	int fd = udp_socket();

	/* Sockets of both families have cases of their own. */
	if (!v4())
		set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	if (bind(fd, &address.any, address.len) < 0)
		fatal("bind");
	/* The shim wants to know how a program waits before it does anything for it. */
	poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0);
	return fd;
}

bool readable(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	int ready;

	do
		ready = poll(&pollfd, 1, PATIENCE_MS);
	while (ready < 0 && errno == EINTR);
	return ready > 0;
}

bool settle(int fd)
{
	if (readable(fd))
		return true;
	out("nothing came");
	return false;
}

/* Bytes as they are if they can be printed, else their number and a sum. */
static void show_data(char *to, size_t size, const unsigned char *data, size_t len)
{
	unsigned sum = 0;
	bool printable = len < 100;

	for (size_t i = 0; i < len; i++) {
		sum = sum * 31 + data[i];
		printable &= data[i] >= 32 && data[i] < 127;
	}
	if (printable)
		snprintf(to, size, "%zu \"%.*s\"", len, (int)len, data);
	else
		snprintf(to, size, "%zu sum %08x", len, sum);
}

void take_flags(const char *label, int fd, int flags)
{
	static unsigned char data[MAX_DATA];
	char text[160];
	struct address from = {.len = sizeof(from.storage)};
	ssize_t len;

	if (!settle(fd))
		return;
	len = recvfrom(fd, data, sizeof(data), flags, &from.any, &from.len);
	if (len < 0) {
		report(label, len);
		return;
	}
	show_data(text, sizeof(text), data, len);
	out("%s: %s from %s", label, text, show(&from));
}

void take(const char *label, int fd)
{
	take_flags(label, fd, 0);
}

void nothing(const char *label, int fd)
{
	char byte;

	TRY(label, recv(fd, &byte, 1, MSG_DONTWAIT));
}

int set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value));
}

long get_int(int fd, int level, int name)
{
	int value = 0;
	socklen_t len = sizeof(value);

	if (getsockopt(fd, level, name, &value, &len) < 0)
		return -1;
	return value;
}

int port_of(int fd)
{
	struct address address = {.len = sizeof(address.storage)};

	if (getsockname(fd, &address.any, &address.len) < 0)
		return -1;
	return ntohs(address.v4.sin_port);
}

long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void peer_take(const char *label, int slot)
{
	const struct arrival *arrival = peer_receive(slot, true);
	char text[160];

	if (!arrival->came) {
		out("%s: the peer got nothing", label);
		return;
	}
	show_data(text, sizeof(text), arrival->data, arrival->len);
	out("%s: the peer got %s from %s", label, text, show(&arrival->from));
}

void peer_nothing(const char *label, int slot)
{
	const struct arrival *arrival = peer_receive(slot, false);

	out("%s: the peer got %s", label, arrival->came ? "something" : "nothing");
}

static int list(void)
{
	static const char *const carried[] = {"fast", "setup", "plain"};

	for (size_t table = 0; table < sizeof(tables) / sizeof(tables[0]); table++)
		for (const struct test *test = tables[table]; test->name; test++)
			out("%s %s %s %s", table_names[table], test->name, test->families,
			    carried[test->carried]);
	return 0;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "list";

	myself = "/proc/self/exe";
	/* A name that stays when /proc is not the process's own any more. */
	static char path[4096];
	ssize_t len = readlink(myself, path, sizeof(path) - 1);
	if (len > 0)
		myself = path;
	if (getenv("CALLS_PATIENCE"))
		patience_ms = atoi(getenv("CALLS_PATIENCE"));
	if (strcmp(name, "list") == 0)
		return list();
	if (strcmp(name, "peer") == 0)
		return peer_main(argv[2]);
	if (strcmp(name, "serve") == 0)
		return serve_main(atoi(argv[2]));
	if (strncmp(name, "child-", 6) == 0)
		return child_main(argc, argv);
	if (argc < 5)
		return 64;
	family = argv[2][0] == '4' ? AF_INET : AF_INET6;
	port = atoi(argv[3]);
	alarm(240);
	peer_connect(argv[4]);
	for (size_t table = 0; table < sizeof(tables) / sizeof(tables[0]); table++)
		for (const struct test *test = tables[table]; test->name; test++)
			if (strcmp(test->name, name) == 0) {
				test->run();
				out("end");
				return 0;
			}
	out("no such case");
	return 64;
}
