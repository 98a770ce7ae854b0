/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A UDP echo server on afnet's fast path, in C: echo [INSTANCE [COMPARTMENT [PORT]]].
 *
 * Waits with poll(), as a program does that has other descriptors too. Runs until a signal ends it.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "afnet.h"

#define BATCH 32
#define SIZE  2048

static char buffers[BATCH][SIZE];

static int fail(const char *what)
{
	fprintf(stderr, "echo: %s: %s\n", what, afnet_error());
	return 1;
}

int main(int argc, char **argv)
{
	struct afnet_options options = {
		.instance = argc > 1 ? argv[1] : NULL,
		.compartment = argc > 2 ? argv[2] : NULL,
	};
	struct afnet_msg messages[BATCH] = {0};
	struct afnet *endpoint;
	int port, n;

	if (afnet_attach(&options, &endpoint) < 0)
		return fail("attach");
	port = afnet_claim(endpoint, NULL, argc > 3 ? (uint16_t)atoi(argv[3]) : 7, 1);
	if (port < 0)
		return fail("claim");
	printf("ready: port %d\n", port);
	fflush(stdout);

	for (;;) {
		for (int i = 0; i < BATCH; i++) {
			messages[i].data = buffers[i];
			messages[i].len = SIZE;
		}
		n = afnet_recv(endpoint, messages, BATCH, 0);
		if (n < 0)
			return fail("receive");
		if (n == 0) {
			struct pollfd fd = {.fd = afnet_fd(endpoint), .events = POLLIN};

			if (!afnet_arm(endpoint) && poll(&fd, 1, -1) < 0 && errno != EINTR)
				return 1;
			continue;
		}
		/* A received message is its own answer: it keeps its addresses, and the kernel's
		 * way if it came by it. */
		for (int i = 0, sent; i < n; i += sent) {
			messages[i].ttl = messages[i].tos = 0;
			messages[i].flags &= AFNET_KERNEL;
			sent = messages[i].kind == AFNET_DATAGRAM
				       ? afnet_send(endpoint, &messages[i], 1)
				       : 1;
			/* No room, or no way back: lost, as datagrams are. */
			if (sent < 1)
				sent = 1;
		}
	}
}
