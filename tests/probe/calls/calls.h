/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Cases of socket calls: each is a function that does some calls on UDP sockets and writes down
 * what they answered, one a line. Where it is run (natively, in a compartment, on the fast path)
 * must not show.
 *
 *   calls peer PATH               the other machine: serves cases over a Unix socket (peer.c)
 *   calls CASE 4|6 PORT PATH      a case, with the ports from PORT on for its own
 *   calls list                    names, families, and whether the fast path is to carry it
 *   calls serve PORT              an echo server
 *   calls child-... FD            what a case has started anew
 */
#ifndef CALLS_H
#define CALLS_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Nothing that is to come takes longer, on a machine that stalls too. */
#define PATIENCE_MS patience_ms

struct address {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr_storage storage;
	};
	socklen_t len;
};

/* What the fast path is to do with the sockets of a case. */
enum carried {
	FAST,  /* accelerates some, and carries their datagrams */
	SETUP, /* accelerates some; datagrams, if there are any, are not counted upon */
	PLAIN, /* need not accelerate any, or cannot tell at its end */
};

struct test {
	const char *name;
	const char *families; /* "4", "6" or "46" */
	enum carried carried;
	void (*run)(void);
};

extern const struct test send_cases[], receive_cases[], name_cases[], option_cases[],
	control_cases[], error_cases[], ready_cases[], epoll_cases[], thread_cases[],
	process_cases[], descriptor_cases[], environment_cases[], group_cases[], fuzz_cases[];

/* calls.c: the case's circumstances, and writing down */
extern int patience_ms;	   /* CALLS_PATIENCE of the environment, or half a minute */
extern int family;	   /* AF_INET or AF_INET6 */
extern int port;	   /* the first of the ports for this case */
extern const char *myself; /* path of this program */
extern void *volatile bad; /* where nothing is */
#define BAD bad

void out(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fatal(const char *what);
/* "label: 5" or "label: EAGAIN" */
long report(const char *label, long result);
#define TRY(label, call)                                                                           \
	({                                                                                         \
		errno = 0;                                                                         \
		report(label, (long)(call));                                                       \
	})
const char *errno_name(int error);
/* An address in the names of the case: me:+0, peer:1, ... */
const char *show(const struct address *address);
const char *show_host(const struct address *address);

struct address any_address(int port);	    /* wildcard */
struct address my_address(int port);	    /* first address of this machine */
struct address my_second_address(int port); /* second */
struct address address_of(const char *text, int port);
bool v4(void);

int udp_socket(void);	    /* of the family */
int bound_socket(int port); /* bound to all addresses */
bool readable(int fd);	    /* waits until something can be read */
bool settle(int fd);	    /* as readable(), and says so if nothing comes */
/* recvfrom after waiting, written down with contents and sender */
void take(const char *label, int fd);
void take_flags(const char *label, int fd, int flags);
/* nothing may be there to receive */
void nothing(const char *label, int fd);
int set_int(int fd, int level, int name, int value);
long get_int(int fd, int level, int name);
int port_of(int fd);
long now_ms(void);

/* client.c: the other machine, by its sockets 0 to 7 */
struct extras {
	int ttl, tos;	  /* -1: as it is */
	int segment;	  /* bytes, 0: none */
	int to_second;	  /* to my second address */
	int from_outside; /* unused */
};
#define NO_EXTRAS ((struct extras){.ttl = -1, .tos = -1})
#define MAX_DATA  66000

struct arrival {
	bool came;
	int len, ttl, tos;
	struct address from;
	unsigned char data[MAX_DATA];
};

void peer_connect(const char *path);
struct address peer_open(int slot); /* a socket of the peer; its address */
struct address peer_address(int slot);
void peer_close(int slot); /* its port is closed from here on; its address is still known */
void peer_send(int slot, int to_port, const void *data, int len);
void peer_text(int slot, int to_port, const char *text);
void peer_text_to(int slot, const char *group, int to_port, const char *text);
void peer_send_extra(int slot, int to_port, const void *data, int len, struct extras extras);
/* The next datagram at the peer's socket; waits if `patient`. */
const struct arrival *peer_receive(int slot, bool patient);
/* The same written down. */
void peer_take(const char *label, int slot);
void peer_nothing(const char *label, int slot);
int peer_main(const char *path);

/* process.c */
/* Takes one datagram and sends it back. */
bool echo_once(int at);
int child_main(int argc, char **argv);
int serve_main(int at_port);

#endif
