/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * getsockname(), getpeername(), accept(), recvfrom(): programs see what they would see alone on a
 * machine.
 *
 *  local name   of a socket that is not connected: what bind() was told; else the true one
 *  any name     loopback addresses as 127.0.0.X and ::1
 */
#ifndef AFNET_NAMES_H
#define AFNET_NAMES_H

#include "connect.h"

/* enum of net/tcp_states.h, the same for UDP. */
#define STATE_ESTABLISHED 1
#define STATE_CLOSE	  7
#define STATE_LISTEN	  10

static __always_inline bool told(struct bpf_sock_addr *ctx, struct afnet_ip *addr, __u16 *port)
{
	struct bpf_sock *sk = ctx->sk;
	struct afnet_socket *s;

	if (!sk)
		return false;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!s || !s->slot || !(s->flags & AFNET_SOCKET_BOUND) ||
	    s->cookie != bpf_get_socket_cookie(ctx) || !s->port)
		return false;
	if (sk->state != STATE_CLOSE && sk->state != STATE_LISTEN)
		return false;
	*addr = s->addr;
	*port = s->port;
	return true;
}

SEC("cgroup/getsockname4")
int afnet_local_name4(struct bpf_sock_addr *ctx)
{
	struct afnet_ip addr = ip4(ctx->user_ip4);
	__u16 port = bpf_ntohs(ctx->user_port);

	if (told(ctx, &addr, &port))
		ctx->user_port = bpf_htons(port);
	from_alias(&addr);
	ctx->user_ip4 = addr.word[3];
	return 1;
}

SEC("cgroup/getsockname6")
int afnet_local_name6(struct bpf_sock_addr *ctx)
{
	struct afnet_ip addr = user_ip6(ctx);
	__u16 port = bpf_ntohs(ctx->user_port);

	if (told(ctx, &addr, &port))
		ctx->user_port = bpf_htons(port);
	from_alias(&addr);
	set_user_ip6(ctx, &addr);
	return 1;
}

static __always_inline int name4(struct bpf_sock_addr *ctx)
{
	struct afnet_ip addr = ip4(ctx->user_ip4);

	if (from_alias(&addr))
		ctx->user_ip4 = addr.word[3];
	return 1;
}

static __always_inline int name6(struct bpf_sock_addr *ctx)
{
	struct afnet_ip addr = user_ip6(ctx);

	if (from_alias(&addr))
		set_user_ip6(ctx, &addr);
	return 1;
}

SEC("cgroup/getpeername4")
int afnet_peer_name4(struct bpf_sock_addr *ctx)
{
	return name4(ctx);
}

SEC("cgroup/getpeername6")
int afnet_peer_name6(struct bpf_sock_addr *ctx)
{
	return name6(ctx);
}

SEC("cgroup/recvmsg4")
int afnet_receive4(struct bpf_sock_addr *ctx)
{
	return name4(ctx);
}

SEC("cgroup/recvmsg6")
int afnet_receive6(struct bpf_sock_addr *ctx)
{
	return name6(ctx);
}

#endif
