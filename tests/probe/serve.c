// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Diallers and servers: the two ends of a script's `reach`.
 */
#include "probe.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

/*
 * dial tcp|udp ADDRESS PORT: a new socket `@` that connects, or sends "hello" with errors wanted.
 * The harness then asks every probe to `serve` until one has something, and the dialler for its
 * `answer`.
 */
void op_dial(char **word)
{
	struct address to;
	bool udp = strcmp(word[1], "udp") == 0;
	struct sock *sock;
	int one = 1, fd;

	if (!operand(word[2], word[3], NULL, &to))
		return;
	fd = sys(socket, to.any.sa_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return say_errno();
	sock = add("@", fd, to.any.sa_family, udp ? SOCK_DGRAM : SOCK_STREAM);
	if (!udp)
		return say_connected(connect_within(sock, &to, PATIENCE_MS));
	sys(setsockopt, fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one));
	sys(setsockopt, fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one));
	say_result(sys(sendto, fd, "hello", 5, MSG_NOSIGNAL, &to.any, to.len) >= 0);
}

/* answer [MS]: what came back to the dialler */
void op_answer(char **word)
{
	struct sock *sock = find("@");
	struct message message;

	if (!wait_for(sock->fd, POLLIN, word[1] ? number(word[1]) : PATIENCE_MS))
		return say("silence");
	if (!receive(sock, 0, &message))
		say_errno();
	else if (message.from.len)
		say("reply from %s", show(&message.from));
	else
		say("reply");
	drop(sock);
}

/* What waits at a socket of a server: it is accepted or received, answered, and told. */
static bool serve_one(struct sock *sock)
{
	struct address from = {.len = sizeof(from.storage)}, local = {.len = sizeof(local.storage)};
	struct message message;
	int fd;

	if (sock->listening) {
		fd = sys(accept4, sock->fd, &from.any, &from.len, SOCK_NONBLOCK);
		if (fd < 0)
			return false;
		sys(getsockname, fd, &local.any, &local.len);
		say("%s at %s from %s", sock->name, show(&local), show(&from));
		sys(sendto, fd, "hello", 5, MSG_NOSIGNAL, NULL, 0);
		add("@served", fd, sock->family, SOCK_STREAM);
		return true;
	}
	if (sock->type != SOCK_DGRAM || sock->name[0] == '@' || !receive(sock, 0, &message))
		return false;
	sys(getsockname, sock->fd, &local.any, &local.len);
	/* By packet info from the address that was hit, if the script has asked for packet info. */
	transmit(sock, "hello", 5, &message.from, message.to.len ? &message.to : NULL, 0);
	say("%s at %s from %s", sock->name, message.to.len ? show_host(&message.to) : show(&local),
	    show(&message.from));
	return true;
}

void op_serve(char **word)
{
	(void)word;
	if (find("@served")->fd >= 0)
		drop(find("@served"));
	for (struct sock *sock = sockets; sock < sockets + MAX_SOCKETS; sock++)
		if (sock->name[0] && serve_one(sock))
			return;
	say("nobody");
}
