/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * connect(), sendto(), sendmsg(): destinations on the loopback become the compartment's, and the
 * source is one of its addresses. A source that the program names (IP_PKTINFO, IPV6_PKTINFO) must
 * be one of them: EINVAL, as the kernel says of addresses that it does not have.
 */
#ifndef AFNET_CONNECT_H
#define AFNET_CONNECT_H

#include "bind.h"
#include "source.h"

/* INET_FLAGS_PKTINFO; before 6.6 IP_CMSG_PKTINFO. */
#define PKTINFO 1

/* The storage of a compartment's socket; NULL: not confined (another network namespace). */
static __always_inline struct afnet_socket *confined_socket(struct bpf_sock_addr *ctx)
{
	struct afnet_socket new = {}, *s;

	if (!ctx->sk)
		return NULL;
	s = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	if (s || bpf_get_netns_cookie(ctx) != netns_cookie)
		return s;
	return adopt(ctx->sk, &new);
}

/* Where the kernel has a socket. (The barriers keep the compiler from computing addresses of the
 * fields, which the verifier does not take.) */
static __always_inline struct afnet_ip place_of(struct bpf_sock *sk)
{
	__be32 four = sk->src_ip4;
	struct afnet_ip at;

	barrier_var(four);
	at = ip4(four);
	if (sk->family == AF_INET6) {
		for (int i = 0; i < 4; i++) {
			__be32 word = sk->src_ip6[i];

			barrier_var(word);
			at.word[i] = word;
		}
	}
	return at;
}

/* Whether that is no single address of this machine. */
static __always_inline bool nowhere(struct bpf_sock *sk)
{
	struct afnet_ip at = place_of(sk);

	return is_any(&at) || is_group(&at);
}

/* Translates a destination: 1, or 0 if nobody is there for this compartment. */
static __always_inline int destination(struct afnet_socket *s, struct afnet_ip *to)
{
	/* "This host" (RFC 1122 3.2.1.3): the kernel takes it for the loopback address. */
	if (is_any(to))
		*to = is_ip4(to) ? loopback4(s->slot, 1) : loopback6(s->slot);
	else if (is_loopback(to) && !to_alias(to, s->slot))
		return 0;
	return !is_alias(to) || owner_of(to) == s->slot;
}

/* Chooses the source for packets to `to`, which destination() has translated. */
static __always_inline bool source(struct afnet_socket *s, const struct afnet_ip *to, __u32 ifindex,
				   struct afnet_ip *from)
{
	if (is_alias(to)) {
		*from = is_ip4(to) ? loopback4(s->slot, 1) : loopback6(s->slot);
		return true;
	}
	return choose_source(s->slot, to, ifindex, from);
}

static __always_inline int connect_socket(struct bpf_sock_addr *ctx, struct afnet_ip *to, bool six)
{
	struct afnet_socket *s = confined_socket(ctx);
	struct afnet_ip from = {};
	struct bpf_sock *sk = ctx->sk;

	if (!s || !sk)
		return 1;
	if (!home(s))
		return refuse(s->slot, AFNET_REFUSED_SOURCE, ENETUNREACH);
	if (!destination(s, to))
		return refuse(s->slot, AFNET_REFUSED_LOOPBACK, ECONNREFUSED);
	/* From now on it hears its peer alone. */
	if (ctx->protocol == IPPROTO_UDP && s->port)
		engage(s, true);
	/* Bound to one address, whose port comes now (IP_BIND_ADDRESS_NO_PORT). */
	if (!sk->src_port && s->flags & AFNET_SOCKET_PENDING && !is_any(&s->addr))
		return 1;
	/* Bound, by bind() or by an earlier sendto(), which cannot be undone: then it may be at no
	 * address yet, and the kernel would choose one of the host. */
	if (sk->src_port) {
		if (!nowhere(sk) || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
			return 1;
		return refuse(s->slot, AFNET_REFUSED_SOURCE, EADDRNOTAVAIL);
	}
	if (!source(s, to, sk->bound_dev_if, &from)) {
		bpf_set_retval(-ENETUNREACH);
		return 0;
	}
	if (six) {
		struct sockaddr_in6 name = {.sin6_family = AF_INET6};

		__builtin_memcpy(&name.sin6_addr, &from, sizeof(from));
		if (bpf_bind(ctx, (void *)&name, sizeof(name)))
			goto failed;
	} else {
		struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = from.word[3]};

		if (bpf_bind(ctx, (void *)&name, sizeof(name)))
			goto failed;
	}
	return 1;
failed:
	/* The address is on its way out. */
	bpf_set_retval(-EADDRNOTAVAIL);
	return 0;
}

SEC("cgroup/connect4")
int afnet_connect4(struct bpf_sock_addr *ctx)
{
	struct afnet_ip to = ip4(ctx->user_ip4);
	int answer = connect_socket(ctx, &to, false);

	ctx->user_ip4 = to.word[3];
	return answer;
}

SEC("cgroup/connect6")
int afnet_connect6(struct bpf_sock_addr *ctx)
{
	struct afnet_ip to = user_ip6(ctx);
	int answer = connect_socket(ctx, &to, true);

	set_user_ip6(ctx, &to);
	return answer;
}

/* Whether the program wants to know which address was hit: then it says from which one it answers.
 */
static __always_inline bool wants_pktinfo(void *sk, bool six)
{
	const struct inet_sock *inet = (const void *)kernel_sock(sk);

	if (six) {
		const struct ipv6_pinfo *np = BPF_CORE_READ(inet, pinet6);

		return BPF_CORE_READ_BITFIELD_PROBED(np, rxopt.bits.rxinfo);
	}
	if (bpf_core_field_exists(inet->inet_flags))
		return BPF_CORE_READ(inet, inet_flags) & PKTINFO;
	return BPF_CORE_READ((const struct inet_sock___old *)inet, cmsg_flags) & PKTINFO;
}

/* A datagram of an unconnected UDP socket. `from` is what the socket is bound to, or what the
 * program has named. */
static __always_inline int send(struct bpf_sock_addr *ctx, struct afnet_ip *to,
				struct afnet_ip *from)
{
	struct afnet_socket *s = confined_socket(ctx);
	const struct afnet_confined *c;
	struct bpf_sock *sk = ctx->sk;
	bool any;

	if (!s || !sk)
		return 1;
	c = home(s);
	if (!c)
		return refuse(s->slot, AFNET_REFUSED_SOURCE, ENETUNREACH);
	/* A connected socket that sends with control messages names no destination. */
	if (sk->state == BPF_TCP_ESTABLISHED && !ctx->user_port && is_any(to)) {
		if (is_any(from) || owner_of(from) == s->slot)
			return 1;
		return refuse(s->slot, AFNET_REFUSED_SOURCE, EINVAL);
	}
	/* The kernel has just taken a port, the first or (after a connection was dissolved) another
	 * one: replies to it are to be let in. */
	if (s->port != sk->src_port) {
		__u32 flags = s->flags & AFNET_SOCKET_BOUND ? 0 : AFNET_PORT_UNBOUND;

		if (s->port) {
			report_release(sk);
			unregister(s);
		}
		if (flags)
			s->addr = sk->family == AF_INET ? ip4(0) : (struct afnet_ip){};
		s->port = sk->src_port;
		s->protocol = IPPROTO_UDP;
		s->cookie = bpf_get_socket_cookie(ctx);
		if (enroll(s, kinds_of(s, !ipv6_only(sk)), uid_of(sk)))
			return refuse(s->slot, AFNET_REFUSED_PORT, ENOBUFS);
		if (is_hearer(s))
			hear(s, sk);
		place(s, s->port, flags);
	}
	/* This hook sees sockets that are not connected, or not any more. */
	engage(s, false);
	if (!destination(s, to))
		return refuse(s->slot, AFNET_REFUSED_LOOPBACK, ECONNREFUSED);
	/* A socket that asked for all addresses is bound to one of them, or to one of the other
	 * family. */
	any = is_any(from) || is_ip4(from) != is_ip4(to) ||
	      /* LOOPBACK4_IPV6: what IPv4 sees of a socket that is bound to an IPv6 address. */
	      (is_ip4(from) && sk->family == AF_INET6 && from->word[3] == bpf_htonl(0x7f000006));
	if (!any && s->flags & (AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6) && same_ip(from, &s->anchor))
		any = is_alias(to) || is_alias(from) ||
		      !same_ip(from, is_ip4(from) ? &c->primary4 : &c->primary6) ||
		      ((is_ip4(to) ? c->count4 : c->count6) > 1 && !wants_pktinfo(sk, !is_ip4(to)));
	if (any) {
		if (!source(s, to, sk->bound_dev_if, from)) {
			bpf_set_retval(-ENETUNREACH);
			return 0;
		}
		return 1;
	}
	if (is_loopback(from) && !to_alias(from, s->slot))
		return refuse(s->slot, AFNET_REFUSED_SOURCE, EINVAL);
	if (!same_ip(from, is_ip4(from) ? &c->primary4 : &c->primary6) && owner_of(from) != s->slot)
		return refuse(s->slot, AFNET_REFUSED_SOURCE, EINVAL);
	return 1;
}

SEC("cgroup/sendmsg4")
int afnet_send4(struct bpf_sock_addr *ctx)
{
	struct afnet_ip to = ip4(ctx->user_ip4), from = ip4(ctx->msg_src_ip4);
	int answer = send(ctx, &to, &from);

	ctx->user_ip4 = to.word[3];
	ctx->msg_src_ip4 = from.word[3];
	return answer;
}

SEC("cgroup/sendmsg6")
int afnet_send6(struct bpf_sock_addr *ctx)
{
	struct afnet_ip to = user_ip6(ctx),
			from = {.word = {ctx->msg_src_ip6[0], ctx->msg_src_ip6[1],
					 ctx->msg_src_ip6[2], ctx->msg_src_ip6[3]}};
	int answer = send(ctx, &to, &from);

	set_user_ip6(ctx, &to);
	ctx->msg_src_ip6[0] = from.word[0];
	ctx->msg_src_ip6[1] = from.word[1];
	ctx->msg_src_ip6[2] = from.word[2];
	ctx->msg_src_ip6[3] = from.word[3];
	return answer;
}

#endif
