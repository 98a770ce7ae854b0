/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Shared by the files of the probe: the table of sockets, the output of an operation, and the
 * socket calls, which with PROBE_RAW go to the kernel by syscall(2) with nothing of libc between.
 */
#ifndef PROBE_H
#define PROBE_H

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Every socket call of a script is made by this. */
#ifdef PROBE_RAW
#define sys(call, ...) ((int)syscall(SYS_##call, __VA_ARGS__))
#else
#define sys(call, ...) ((int)call(__VA_ARGS__))
#endif

/* An operation gives up waiting after so many milliseconds, unless its script says otherwise. */
#define PATIENCE_MS 3000
#define MAX_SOCKETS 4096

struct sock {
	char name[16]; /* empty: the slot is free */
	int fd;
	int family;
	int type;
	bool listening;
};

/* A socket address of any family, with the length to pass. */
struct address {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr_storage storage;
	};
	socklen_t len;
};

/* A received message. */
struct message {
	char text[2048];
	struct address from; /* len 0: a connected stream */
	struct address to;   /* from the packet-info control message; len 0 without */
	int ifindex;
};

/* net.c */
bool parse_address(const char *text, const char *port, struct address *out);
const char *show(const struct address *address);
const char *show_host(const struct address *address);
bool wait_for(int fd, short events, int ms);
bool transmit(struct sock *sock, const void *data, size_t size, const struct address *to,
	      const struct address *from, int ifindex);
bool receive(struct sock *sock, int flags, struct message *message);

/* options.c */
void op_set(char **word);
void op_get(char **word);
void op_sticky(char **word);
void op_membership(char **word);
void op_via(char **word);

/* packets.c */
void op_ping(char **word);
void op_forge(char **word);

/* sockets.c */
int by_name(const char *name, const char *const *names, const int *values);
int family_of(const char *name);
int type_of(const char *name);
bool operand(char *host, char *port, char *length, struct address *out);
int connect_within(struct sock *sock, const struct address *address, int ms);
void say_connected(int error);
void op_socket(char **word);
void op_bind(char **word);
void op_connect(char **word);
void op_listen(char **word);
void op_accept(char **word);
void op_name(char **word);
void op_send(char **word);
void op_sendto(char **word);
void op_sendmsg(char **word);
void op_recv(char **word);
void op_recverr(char **word);
void op_shutdown(char **word);
void op_poll(char **word);
void op_close(char **word);

/* serve.c */
void op_dial(char **word);
void op_answer(char **word);
void op_serve(char **word);

/* probe.c */
extern struct sock sockets[MAX_SOCKETS];
struct sock *find(const char *name);
struct sock *add(const char *name, int fd, int family, int type);
void drop(struct sock *sock);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_errno(void);
void say_result(bool good);
int number(const char *text);

#endif
