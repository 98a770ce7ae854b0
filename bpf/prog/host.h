/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The host's own sockets, by hooks at the root of all cgroups. Two things keep them and the
 * compartments apart.
 *
 * bind(): a socket on all addresses gets SO_REUSEADDR, if no other socket of the host is in its
 * way: so it does not collide with those that compartments have on their addresses (UDP), or have
 * accepted there (TCP). One on an address of a compartment is remembered: it gets what no socket of
 * the compartment wants (steer.h).
 *
 * connect(), sendmsg() to an address of a compartment: the source is an address of the host. The
 * kernel would take the destination itself, since that is an address of this machine, too.
 */
#ifndef AFNET_HOST_H
#define AFNET_HOST_H

#include "connect.h"

/* Addresses of the host; none: the kernel chooses. */
volatile struct afnet_ip host4;
volatile struct afnet_ip host6;

/* Whether a compartment's socket asks, which its own hooks have seen. */
static __always_inline bool is_compartments(struct bpf_sock_addr *ctx)
{
	struct afnet_socket *s;

	if (!ctx->sk)
		return true;
	s = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	return (s && s->slot) || bpf_get_netns_cookie(ctx) != netns_cookie;
}

/* Whether a loopback alias is in use: else it is an address of the host like any other. */
static __always_inline bool has_loopback(__u32 slot)
{
	const struct afnet_confined *c = bpf_map_lookup_elem(&confined, &slot);

	return c && c->cgroup;
}

/*
 * What a socket of the host sends to: 0: nothing special; 1: a compartment, from `from`; or the
 * negative errno, for the private loopback of one.
 */
static __always_inline int host_to(struct bpf_sock_addr *ctx, const struct afnet_ip *to,
				   struct afnet_ip *from)
{
	if (!owner_of(to) || is_compartments(ctx))
		return 0;
	if (is_alias(to))
		return has_loopback(owner_of(to)) ? -ECONNREFUSED : 0;
	for (int i = 0; i < 4; i++)
		from->word[i] = is_ip4(to) ? host4.word[i] : host6.word[i];
	return !is_none(from);
}

/* If bpf_bind() fails the kernel chooses, as it would have. */
SEC("cgroup/connect4")
int afnet_host_connect4(struct bpf_sock_addr *ctx)
{
	struct afnet_ip to = ip4(ctx->user_ip4), from = {};
	int answer = host_to(ctx, &to, &from);

	if (answer < 0) {
		bpf_set_retval(answer);
		return 0;
	}
	if (answer && ctx->sk && !ctx->sk->src_port && !ctx->sk->src_ip4) {
		struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = from.word[3]};

		bpf_bind(ctx, (void *)&name, sizeof(name));
	}
	return 1;
}

SEC("cgroup/connect6")
int afnet_host_connect6(struct bpf_sock_addr *ctx)
{
	struct afnet_ip to = user_ip6(ctx), from = {};
	int answer = host_to(ctx, &to, &from);

	if (answer < 0) {
		bpf_set_retval(answer);
		return 0;
	}
	if (answer && ctx->sk && !ctx->sk->src_port && !ctx->sk->src_ip6[0] &&
	    !ctx->sk->src_ip6[3]) {
		struct sockaddr_in6 name = {.sin6_family = AF_INET6};

		__builtin_memcpy(&name.sin6_addr, &from, sizeof(from));
		bpf_bind(ctx, (void *)&name, sizeof(name));
	}
	return 1;
}

SEC("cgroup/sendmsg4")
int afnet_host_send4(struct bpf_sock_addr *ctx)
{
	struct afnet_ip to = ip4(ctx->user_ip4), from = {};
	int answer = host_to(ctx, &to, &from);

	if (answer < 0) {
		bpf_set_retval(answer);
		return 0;
	}
	if (answer && !ctx->msg_src_ip4)
		ctx->msg_src_ip4 = from.word[3];
	return 1;
}

SEC("cgroup/sendmsg6")
int afnet_host_send6(struct bpf_sock_addr *ctx)
{
	struct afnet_ip to = user_ip6(ctx), from = {};
	int answer = host_to(ctx, &to, &from);

	if (answer < 0) {
		bpf_set_retval(answer);
		return 0;
	}
	if (answer && !ctx->msg_src_ip6[0] && !ctx->msg_src_ip6[3]) {
		ctx->msg_src_ip6[0] = from.word[0];
		ctx->msg_src_ip6[1] = from.word[1];
		ctx->msg_src_ip6[2] = from.word[2];
		ctx->msg_src_ip6[3] = from.word[3];
	}
	return 1;
}

static __always_inline int bind_host(struct bpf_sock_addr *ctx, const struct afnet_ip *addr,
				     bool all)
{
	struct afnet_socket new = {}, *s;
	__u32 kinds = AFNET_SOCKET_SINGLE;
	int error, one = 1;

	if (is_any(addr))
		kinds = is_ip4(addr) ? AFNET_SOCKET_ANY4
			: all	     ? AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6
				     : AFNET_SOCKET_ANY6;
	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return BIND_ALLOW;
	if (kinds != AFNET_SOCKET_SINGLE
		    ? !ctx->user_port
		    : (ctx->protocol == IPPROTO_TCP || !ctx->user_port) && !owner_of(addr))
		return BIND_ALLOW;
	if (!ctx->sk || ctx->sk->src_port || is_group(addr) || is_compartments(ctx))
		return BIND_ALLOW;
	/* The private loopback of a compartment. */
	if (is_alias(addr)) {
		if (!has_loopback(owner_of(addr)))
			return BIND_ALLOW;
		bpf_set_retval(-EADDRNOTAVAIL);
		return 0;
	}
	s = bpf_sk_storage_get(&sockets, ctx->sk, &new, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return BIND_ALLOW;
	unregister(s);
	s->flags = shares(kernel_sock(ctx->sk));
	s->protocol = ctx->protocol;
	s->cookie = bpf_get_socket_cookie(ctx);
	s->addr = *addr;
	s->port = bpf_ntohs(ctx->user_port);
	if (!s->port) {
		s->flags |= AFNET_SOCKET_PENDING;
		return BIND_ALLOW;
	}
	error = enroll(s, kinds, uid_of(ctx->sk));
	/* The register knows the host's sockets in part only: the kernel has the last word. */
	if (error == EADDRINUSE && ctx->protocol == IPPROTO_UDP) {
		bpf_set_retval(-error);
		return 0;
	}
	if (!error && kinds != AFNET_SOCKET_SINGLE && !(s->flags & AFNET_SOCKET_REUSE))
		bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return BIND_ALLOW;
}

SEC("cgroup/bind4")
int afnet_host_bind4(struct bpf_sock_addr *ctx)
{
	struct afnet_ip addr = ip4(ctx->user_ip4);

	return bind_host(ctx, &addr, false);
}

SEC("cgroup/bind6")
int afnet_host_bind6(struct bpf_sock_addr *ctx)
{
	struct afnet_ip addr = user_ip6(ctx);

	return bind_host(ctx, &addr, ctx->sk && !ipv6_only(ctx->sk));
}

static __always_inline int bound_host(struct bpf_sock *sk)
{
	struct afnet_socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);

	if (!s || s->slot || !(s->flags & AFNET_SOCKET_PENDING))
		return 1;
	s->flags &= ~AFNET_SOCKET_PENDING;
	s->port = sk->src_port;
	enroll(s, AFNET_SOCKET_SINGLE, uid_of(sk));
	return 1;
}

SEC("cgroup/post_bind4")
int afnet_host_bound4(struct bpf_sock *sk)
{
	return bound_host(sk);
}

SEC("cgroup/post_bind6")
int afnet_host_bound6(struct bpf_sock *sk)
{
	return bound_host(sk);
}

SEC("cgroup/sock_release")
int afnet_host_close(struct bpf_sock *sk)
{
	struct afnet_socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);

	if (s && !s->slot && s->port && s->cookie == bpf_get_socket_cookie(sk))
		unregister(s);
	return 1;
}

#endif
