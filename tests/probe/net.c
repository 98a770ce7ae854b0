// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Addresses as text, waiting, and messages with packet info.
 */
#include "probe.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * ADDRESS is an IPv4 or IPv6 address, the latter with %DEVICE if need be; `unspec` is AF_UNSPEC
 * with zeros, `unspec:IPV4` AF_UNSPEC with an IPv4 address behind it.
 */
bool parse_address(const char *text, const char *port, struct address *out)
{
	char host[80];
	bool unspec = strncmp(text, "unspec", 6) == 0;
	char *device;

	memset(out, 0, sizeof(*out));
	if (unspec)
		text = text[6] == ':' ? text + 7 : "0.0.0.0";
	snprintf(host, sizeof(host), "%s", text);
	device = strchr(host, '%');
	if (device)
		*device++ = '\0';
	if (inet_pton(AF_INET, host, &out->v4.sin_addr) == 1) {
		out->v4.sin_family = unspec ? AF_UNSPEC : AF_INET;
		out->v4.sin_port = htons((uint16_t)atoi(port));
		out->len = sizeof(out->v4);
		return true;
	}
	if (inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1) {
		out->v6.sin6_family = unspec ? AF_UNSPEC : AF_INET6;
		out->v6.sin6_port = htons((uint16_t)atoi(port));
		out->v6.sin6_scope_id = device ? if_nametoindex(device) : 0;
		out->len = sizeof(out->v6);
		return true;
	}
	return false;
}

const char *show_host(const struct address *address)
{
	static char text[2][INET6_ADDRSTRLEN];
	static int next;
	char *out = text[next++ % 2];

	if (address->any.sa_family == AF_INET)
		inet_ntop(AF_INET, &address->v4.sin_addr, out, sizeof(text[0]));
	else if (address->any.sa_family == AF_INET6)
		inet_ntop(AF_INET6, &address->v6.sin6_addr, out, sizeof(text[0]));
	else
		snprintf(out, sizeof(text[0]), "family-%d", address->any.sa_family);
	return out;
}

/* ADDRESS:PORT or [ADDRESS]:PORT; a scope is not shown. */
const char *show(const struct address *address)
{
	static char text[2][INET6_ADDRSTRLEN + 16];
	static int next;
	char *out = text[next++ % 2];
	bool v6 = address->any.sa_family == AF_INET6;

	/* The port of both families is at the same place. */
	snprintf(out, sizeof(text[0]), v6 ? "[%s]:%u" : "%s:%u", show_host(address),
		 ntohs(address->v4.sin_port));
	return out;
}

bool wait_for(int fd, short events, int ms)
{
	struct pollfd pollfd = {.fd = fd, .events = events};

	return poll(&pollfd, 1, ms) > 0;
}

/* Sends with the packet info FROM and IFINDEX (either may be absent); TO may be NULL. */
bool transmit(struct sock *sock, const void *data, size_t size, const struct address *to,
	      const struct address *from, int ifindex)
{
	union {
		char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)data, .iov_len = size};
	struct msghdr message = {
		.msg_name = to ? (void *)&to->storage : NULL,
		.msg_namelen = to ? to->len : 0,
		.msg_iov = &iov,
		.msg_iovlen = 1,
	};

	if (from || ifindex) {
		bool v4 = from ? from->any.sa_family == AF_INET : sock->family == AF_INET;
		struct in_pktinfo info4 = {.ipi_ifindex = ifindex};
		struct in6_pktinfo info6 = {.ipi6_ifindex = (unsigned int)ifindex};
		size_t info = v4 ? sizeof(info4) : sizeof(info6);

		if (from && v4)
			info4.ipi_spec_dst = from->v4.sin_addr;
		else if (from)
			info6.ipi6_addr = from->v6.sin6_addr;
		control.align.cmsg_level = v4 ? IPPROTO_IP : IPPROTO_IPV6;
		control.align.cmsg_type = v4 ? IP_PKTINFO : IPV6_PKTINFO;
		control.align.cmsg_len = CMSG_LEN(info);
		memcpy(CMSG_DATA(&control.align), v4 ? (void *)&info4 : (void *)&info6, info);
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(info);
	}
	return sys(sendmsg, sock->fd, &message, MSG_NOSIGNAL) >= 0;
}

bool receive(struct sock *sock, int flags, struct message *out)
{
	union {
		char space[1024];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = out->text, .iov_len = sizeof(out->text) - 1};
	struct msghdr message = {
		.msg_name = &out->from.storage,
		.msg_namelen = sizeof(out->from.storage),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t size;

	memset(&out->from, 0, sizeof(out->from));
	memset(&out->to, 0, sizeof(out->to));
	out->ifindex = 0;
	size = sys(recvmsg, sock->fd, &message, flags);
	if (size < 0)
		return false;
	out->text[size] = '\0';
	out->from.len = message.msg_namelen;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message); cmsg;
	     cmsg = CMSG_NXTHDR(&message, cmsg)) {
		if (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;

			memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
			out->to.v4.sin_family = AF_INET;
			out->to.v4.sin_addr = info.ipi_addr;
			out->to.len = sizeof(out->to.v4);
			out->ifindex = info.ipi_ifindex;
		}
		if (cmsg->cmsg_level == IPPROTO_IPV6 && cmsg->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo info;

			memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
			out->to.v6.sin6_family = AF_INET6;
			out->to.v6.sin6_addr = info.ipi6_addr;
			out->to.len = sizeof(out->to.v6);
			out->ifindex = (int)info.ipi6_ifindex;
		}
	}
	return true;
}
