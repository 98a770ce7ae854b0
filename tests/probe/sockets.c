// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The socket calls, one operation each.
 */
#include "probe.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

int by_name(const char *name, const char *const *names, const int *values)
{
	for (; *names; names++, values++)
		if (strcmp(*names, name) == 0)
			return *values;
	return number(name);
}

int family_of(const char *name)
{
	return by_name(name, (const char *[]){"inet", "inet6", "packet", "netlink", NULL},
		       (int[]){AF_INET, AF_INET6, AF_PACKET, AF_NETLINK});
}

int type_of(const char *name)
{
	return by_name(name, (const char *[]){"stream", "dgram", "raw", "seqpacket", NULL},
		       (int[]){SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET});
}

static int protocol_of(const char *name)
{
	return by_name(name, (const char *[]){"icmp", "icmp6", "sctp", "mptcp", "udplite", NULL},
		       (int[]){IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_MPTCP,
			       IPPROTO_UDPLITE});
}

/* socket NAME FAMILY TYPE [PROTOCOL] */
void op_socket(char **word)
{
	int family = family_of(word[2]), type = type_of(word[3]);
	int fd = sys(socket, family, type | SOCK_NONBLOCK, word[4] ? protocol_of(word[4]) : 0);

	if (fd < 0)
		return say_errno();
	add(word[1], fd, family, type);
	say("ok");
}

/* The address of a script's HOST, PORT and perhaps the LENGTH to pass. */
bool operand(char *host, char *port, char *length, struct address *out)
{
	if (!host || !port || !parse_address(host, port, out)) {
		say("no-such-address");
		return false;
	}
	if (length)
		out->len = (socklen_t)number(length);
	return true;
}

/* bind NAME ADDRESS PORT [LENGTH] */
void op_bind(char **word)
{
	struct address address;

	if (operand(word[2], word[3], word[4], &address))
		say_result(sys(bind, find(word[1])->fd, &address.any, address.len) == 0);
}

/* 0 or an errno; waits for a stream's handshake. */
int connect_within(struct sock *sock, const struct address *address, int ms)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (sys(connect, sock->fd, &address->any, address->len) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	if (!wait_for(sock->fd, POLLOUT, ms))
		return EINPROGRESS;
	sys(getsockopt, sock->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	return error;
}

void say_connected(int error)
{
	if (error == EINPROGRESS)
		return say("timeout");
	errno = error;
	say_result(error == 0);
}

/* connect NAME ADDRESS PORT [MS]; connectlen NAME ADDRESS PORT LENGTH */
void op_connect(char **word)
{
	struct address address;
	bool length = strcmp(word[0], "connectlen") == 0;

	if (operand(word[2], word[3], length ? word[4] : NULL, &address))
		say_connected(connect_within(find(word[1]), &address,
					     !length && word[4] ? number(word[4]) : PATIENCE_MS));
}

/* listen NAME [BACKLOG] */
void op_listen(char **word)
{
	struct sock *sock = find(word[1]);
	bool good = sys(listen, sock->fd, word[2] ? number(word[2]) : 16) == 0;

	sock->listening |= good;
	say_result(good);
}

/* accept NAME NEW [MS]: who has connected, by the address that accept returns */
void op_accept(char **word)
{
	struct sock *sock = find(word[1]);
	struct address from = {.len = sizeof(from.storage)};
	int fd;

	if (!wait_for(sock->fd, POLLIN, word[3] ? number(word[3]) : PATIENCE_MS))
		return say("timeout");
	fd = sys(accept4, sock->fd, &from.any, &from.len, SOCK_NONBLOCK);
	if (fd < 0)
		return say_errno();
	add(word[2], fd, sock->family, SOCK_STREAM);
	say("from %s", show(&from));
}

/* getsockname NAME; getpeername NAME */
void op_name(char **word)
{
	int fd = find(word[1])->fd;
	struct address address = {.len = sizeof(address.storage)};
	int result = word[0][3] == 's' ? sys(getsockname, fd, &address.any, &address.len)
				       : sys(getpeername, fd, &address.any, &address.len);

	if (result < 0)
		return say_errno();
	say("%s", show(&address));
}

/* send NAME TEXT */
void op_send(char **word)
{
	say_result(transmit(find(word[1]), word[2], strlen(word[2]), NULL, NULL, 0));
}

/* sendto NAME ADDRESS PORT TEXT [LENGTH]: by sendto(2), no control message */
void op_sendto(char **word)
{
	struct address to;

	if (operand(word[2], word[3], word[5], &to))
		say_result(sys(sendto, find(word[1])->fd, word[4], strlen(word[4]), MSG_NOSIGNAL,
			       &to.any, to.len) >= 0);
}

/* sendmsg NAME ADDRESS PORT TEXT SOURCE [IFINDEX]: with packet info */
void op_sendmsg(char **word)
{
	struct address to, from;

	if (!operand(word[2], word[3], NULL, &to) || !parse_address(word[5], "0", &from))
		return;
	say_result(transmit(find(word[1]), word[4], strlen(word[4]), &to, &from,
			    word[6] ? number(word[6]) : 0));
}

static void say_message(const struct message *message)
{
	char from[100] = "", to[100] = "";

	if (message->from.len)
		snprintf(from, sizeof(from), " from %s", show(&message->from));
	if (message->to.len)
		snprintf(to, sizeof(to), " to %s", show_host(&message->to));
	say("%s%s%s", message->text[0] ? message->text : "nothing", from, to);
}

/* recv NAME [MS]: text, sender, and destination if packet info is on; `nothing` at the end of a
 * stream */
void op_recv(char **word)
{
	struct sock *sock = find(word[1]);
	struct message message;

	if (!wait_for(sock->fd, POLLIN, word[2] ? number(word[2]) : PATIENCE_MS))
		return say("timeout");
	if (!receive(sock, 0, &message))
		return say_errno();
	say_message(&message);
}

/* recverr NAME: the error that the error queue holds for it, with the offender's view left out */
void op_recverr(char **word)
{
	struct sock *sock = find(word[1]);
	int error = 0;
	socklen_t len = sizeof(error);

	if (!wait_for(sock->fd, POLLERR, PATIENCE_MS))
		return say("timeout");
	sys(getsockopt, sock->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	say("%s", error ? strerrorname_np(error) : "none");
}

/* shutdown NAME read|write|both */
void op_shutdown(char **word)
{
	int how = by_name(word[2], (const char *[]){"read", "write", "both", NULL},
			  (int[]){SHUT_RD, SHUT_WR, SHUT_RDWR});

	say_result(sys(shutdown, find(word[1])->fd, how) == 0);
}

/* poll NAME [MS]: which events there are */
void op_poll(char **word)
{
	struct pollfd pollfd = {.fd = find(word[1])->fd, .events = POLLIN | POLLOUT | POLLRDHUP};

	poll(&pollfd, 1, word[2] ? number(word[2]) : 0);
	say("%s%s%s%s%s", pollfd.revents & POLLIN ? "in " : "",
	    pollfd.revents & POLLOUT ? "out " : "", pollfd.revents & POLLERR ? "err " : "",
	    pollfd.revents & POLLHUP ? "hup " : "", pollfd.revents & POLLRDHUP ? "rdhup" : "-");
}

/* close NAME; abort NAME (with a reset) */
void op_close(char **word)
{
	struct sock *sock = find(word[1]);

	if (word[0][0] == 'a') {
		drop(sock);
		return say("ok");
	}
	say_result(close(sock->fd) == 0);
	memset(sock, 0, sizeof(*sock));
}
