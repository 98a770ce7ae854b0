/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * socket(), bind(), listen(), close().
 *
 *  asked for           the kernel binds                      found by
 *  TCP, a port         the address or an anchor; any port    sk_lookup, from `listening`
 *  TCP, UDP, port 0    the address or an anchor              the kernel; elsewhere: sk_lookup
 *  UDP, a port         the address or an anchor; that port   the kernel; elsewhere: sk_lookup
 *  loopback            its alias                             as above
 *  not our address     EADDRNOTAVAIL
 *
 * The anchor is where sockets are that asked for all addresses: the compartment's primary one. So
 * no two compartments, and no compartment and the host, meet in the kernel's tables: TCP listeners
 * are at ports that nobody asked for, UDP sockets at addresses that only they have, and both have
 * SO_REUSEADDR against sockets of the host on all addresses (which get it in turn: host.h).
 */
#ifndef AFNET_BIND_H
#define AFNET_BIND_H

#include "ports.h"

#define SOL_SOCKET   1
#define SO_REUSEADDR 2
#define SO_REUSEPORT 15
#define SOCK_STREAM  1
#define SOCK_DGRAM   2
#define TS_COMPAT    2

/* Answers of a bind hook: go on; go on without asking for CAP_NET_BIND_SERVICE. */
#define BIND_ALLOW	      1
#define BIND_ALLOW_PRIVILEGED 3

/* Makes the storage of a socket of a compartment; NULL: there is no memory. */
static __always_inline struct afnet_socket *adopt(void *sk, struct afnet_socket *new)
{
	new->slot = current_slot(&new->cgroup);
	return bpf_sk_storage_get(&sockets, sk, new, BPF_SK_STORAGE_GET_F_CREATE);
}

/* The kernel's structure behind a socket: the verifier knows the one as a number, which may be
 * computed with. */
static __always_inline const struct sock *kernel_sock(void *sk)
{
	const struct sock *number = NULL;

	bpf_probe_read_kernel(&number, sizeof(number), &sk);
	return number;
}

static __always_inline bool ipv6_only(void *sk)
{
	const struct sock *s = kernel_sock(sk);

	return BPF_CORE_READ_BITFIELD_PROBED(s, __sk_common.skc_ipv6only);
}

/* What the kernel's socket says of sharing its port, as flags. */
static __always_inline __u32 shares(const struct sock *s)
{
	return (BPF_CORE_READ_BITFIELD_PROBED(s, __sk_common.skc_reuse) ? AFNET_SOCKET_REUSE : 0) |
	       (BPF_CORE_READ_BITFIELD_PROBED(s, __sk_common.skc_reuseport) ? AFNET_SOCKET_REUSEPORT
									    : 0);
}

static __always_inline __u32 uid_of(void *sk)
{
	return BPF_CORE_READ(kernel_sock(sk), sk_uid.val);
}

/* inet_port_requires_bind_service() and ns_capable(CAP_NET_BIND_SERVICE), for ports that the kernel
 * does not see. */
static __always_inline bool may_bind(const struct sock *sk, __u16 port)
{
	const struct task_struct *task = (const void *)bpf_get_current_task();
	const struct net *net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	const struct cred *cred;
	__u32 capabilities = 0;

	if (port >= (__u32)BPF_CORE_READ(net, ipv4.sysctl_ip_prot_sock))
		return true;
	cred = BPF_CORE_READ(task, cred);
	/* The low word: the structure's name and type have changed, not where the bits are. */
	bpf_core_read(&capabilities, sizeof(capabilities), &cred->cap_effective);
	if (!(capabilities & 1 << 10))
		return false;
	return BPF_CORE_READ(cred, user_ns) == BPF_CORE_READ(net, user_ns) ||
	       !BPF_CORE_READ(cred, user_ns, level);
}

/* in_32bit_syscall() of x86. */
static __always_inline bool in_32bit_call(void)
{
	const struct task_struct *task = (const void *)bpf_get_current_task();

	return bpf_core_field_exists(task->thread_info.status) &&
	       BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}

/* Has datagrams to groups and broadcast looked at for the socket. */
static __always_inline void hear(const struct afnet_socket *s, void *sk)
{
	enter_hearers(s->slot, s->port, s->flags, in_32bit_call() ? 0 : (__u64)kernel_sock(sk));
}

/*
 * Where a socket is that asked for all addresses. One of both families is at an address of one
 * only, and can connect to that one's alone. To the kernel a socket at an IPv6 address is
 * IPv6-only: it gets and sends no IPv4, while one at a mapped address does all but connect to IPv6.
 * So they are at IPv4, but for TCP without a port of its own, which most often connects. A UDP
 * socket leaves a primary address to one that asked for just that, with SO_REUSEADDR.
 */
static __always_inline struct afnet_ip anchor_of(const struct afnet_confined *c,
						 const struct afnet_socket *s, __u32 kinds)
{
	bool both = kinds == (AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6);
	struct afnet_port_key key = {.home = s->cgroup, .port = s->port, .protocol = s->protocol};
	const struct afnet_port *p;

	key.addr = c->primary4;
	if (!(kinds & AFNET_SOCKET_ANY4) || is_none(&key.addr) ||
	    (both && !s->port && s->protocol == IPPROTO_TCP && !is_none(&c->primary6)))
		key.addr = kinds & AFNET_SOCKET_ANY6 ? c->primary6 : c->primary4;
	if (!is_none(&key.addr)) {
		p = s->protocol == IPPROTO_UDP && s->port ? bpf_map_lookup_elem(&ports, &key)
							  : NULL;
		if (!p || !p->own.count)
			return key.addr;
	}
	off_primary = 1;
	return kinds & AFNET_SOCKET_ANY4 ? loopback4(s->slot, 1) : loopback6(s->slot);
}

/* Counts a new socket of a compartment: false, there are too many. Accepted sockets are not
 * counted: they take no port. */
static __always_inline bool within_quota(struct bpf_sock *sk, const struct afnet_confined *c)
{
	__u64 cgroup = c->cgroup;
	struct afnet_quota *q;

	q = bpf_map_lookup_elem(&quota, &cgroup);
	if (!q) {
		struct afnet_quota none = {};

		bpf_map_update_elem(&quota, &cgroup, &none, BPF_NOEXIST);
		q = bpf_map_lookup_elem(&quota, &cgroup);
		if (!q)
			return true;
	}
	if (__sync_fetch_and_add(&q->sockets, 1) >= c->sockets && c->sockets)
		goto refused;
	/* What is not marked is not given back. */
	if (bpf_sk_storage_get(&counted, sk, &cgroup, BPF_SK_STORAGE_GET_F_CREATE))
		return true;
refused:
	__sync_fetch_and_add(&q->sockets, -1);
	return false;
}

static __always_inline void leave_quota(struct bpf_sock *sk)
{
	__u64 *cgroup = bpf_sk_storage_get(&counted, sk, 0, 0), id;
	struct afnet_quota *q;

	if (!cgroup || !*cgroup)
		return;
	id = *cgroup;
	q = bpf_map_lookup_elem(&quota, &id);
	if (q)
		__sync_fetch_and_add(&q->sockets, -1);
	*cgroup = 0;
}

SEC("cgroup/sock_create")
int afnet_socket(struct bpf_sock *sk)
{
	struct afnet_socket new = {};
	const struct afnet_confined *c;
	struct afnet_socket *s;

	if (bpf_get_netns_cookie(sk) != netns_cookie)
		return 1;
	s = adopt(sk, &new);
	if (!s)
		return 0;
	/* Not below a compartment: one that was removed, or a stray directory. */
	c = home(s);
	if (!c)
		return 0;
	if (sk->protocol == IPPROTO_MPTCP)
		return refuse(s->slot, AFNET_REFUSED_SOCKET, EPROTONOSUPPORT);
	if ((sk->type == SOCK_STREAM && sk->protocol == IPPROTO_TCP) ||
	    (sk->type == SOCK_DGRAM &&
	     (sk->protocol == IPPROTO_UDP || sk->protocol == IPPROTO_ICMP ||
	      sk->protocol == IPPROTO_ICMPV6)) ||
	    c->flags & AFNET_CONFINED_RAW) {
		if (within_quota(sk, c))
			return 1;
		return refuse(s->slot, AFNET_REFUSED_QUOTA, ENOBUFS);
	}
	return refuse(s->slot, AFNET_REFUSED_SOCKET, EPERM);
}

/* One bind(): what is asked, then what the kernel gets. */
struct wish {
	struct afnet_ip addr;
	__u16 port;
	bool all; /* ::, not IPv6 alone */
};

/* Waits for the hidden port that another thread's bind() of the same port is about to get. */
__noinline int hidden_port(struct afnet_socket *s, __u32 kind)
{
	struct afnet_port *p;

	if (!s)
		return 0;
	p = port_of(s, kind);
	if (!p)
		return 0;
	for (int i = 0; i < PORT_WAITS; i++) {
		if (*(volatile __u16 *)&p->port) {
			s->anchor = p->anchor;
			return p->port;
		}
		if (p->own.count < 2)
			return 0;
		bpf_ktime_get_ns();
	}
	return 0;
}

static __always_inline int bind_socket(struct bpf_sock_addr *ctx, struct wish *w)
{
	struct afnet_socket new = {}, *s;
	const struct afnet_confined *c;
	bool tcp = ctx->protocol == IPPROTO_TCP;
	__u32 kinds, slot;
	int error, one = 1;

	if (!ctx->sk || bpf_get_netns_cookie(ctx) != netns_cookie)
		return BIND_ALLOW;
	s = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	if (!s)
		s = adopt(ctx->sk, &new);
	if (!s)
		return 0;
	c = home(s);
	slot = s->slot;
	if (!c)
		return refuse(slot, AFNET_REFUSED_BIND, EADDRNOTAVAIL);
	/* Bound already: the kernel says EINVAL. */
	if (ctx->sk->src_port)
		return BIND_ALLOW;
	if (is_group(&w->addr)) {
		/* Only for reception, by whoever wants; a TCP socket would connect from the host's
		 * address. */
		if (tcp)
			return refuse(slot, AFNET_REFUSED_BIND,
				      is_ip4(&w->addr) ? EADDRNOTAVAIL : EINVAL);
		if (s->flags & AFNET_SOCKET_SET_REUSE)
			bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (s->flags & AFNET_SOCKET_SET_REUSEPORT)
			bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		return c->flags & AFNET_CONFINED_PRIVILEGED ? BIND_ALLOW_PRIVILEGED : BIND_ALLOW;
	}
	if (is_any(&w->addr))
		kinds = is_ip4(&w->addr) ? AFNET_SOCKET_ANY4
			: w->all	 ? AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6
					 : AFNET_SOCKET_ANY6;
	else
		kinds = AFNET_SOCKET_SINGLE;
	if (is_loopback(&w->addr) && !to_alias(&w->addr, slot))
		return refuse(slot, AFNET_REFUSED_BIND, EADDRNOTAVAIL);
	if (kinds == AFNET_SOCKET_SINGLE && owner_of(&w->addr) != slot)
		return refuse(slot, AFNET_REFUSED_BIND, EADDRNOTAVAIL);
	/* Raw and others have no ports. */
	if (!tcp && ctx->protocol != IPPROTO_UDP)
		return BIND_ALLOW;

	/* A bind() that the kernel refused, or a dissolved connection, may have left the socket in
	 * the register. */
	if (s->port)
		report_release(ctx->sk);
	unregister(s);
	s->flags &= AFNET_SOCKET_SET_REUSE | AFNET_SOCKET_SET_REUSEPORT;
	if (s->flags & AFNET_SOCKET_SET_REUSE)
		s->flags |= AFNET_SOCKET_REUSE;
	if (s->flags & AFNET_SOCKET_SET_REUSEPORT)
		s->flags |= AFNET_SOCKET_REUSEPORT;
	s->flags |= AFNET_SOCKET_BOUND;
	s->protocol = ctx->protocol;
	s->cookie = bpf_get_socket_cookie(ctx);
	s->addr = w->addr;
	s->port = w->port;
	s->anchor = kinds == AFNET_SOCKET_SINGLE ? w->addr : anchor_of(c, s, kinds);
	/* What setsockopt() has kept back. At an address of ours it shares with nobody else. */
	if (s->flags & AFNET_SOCKET_REUSEPORT &&
	    bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		return refuse(slot, AFNET_REFUSED_PORT, EADDRINUSE);
	if (!w->port) {
		s->flags |= AFNET_SOCKET_PENDING;
		w->addr = s->anchor;
		return BIND_ALLOW;
	}
	if (tcp && !(c->flags & AFNET_CONFINED_PRIVILEGED) &&
	    !may_bind(kernel_sock(ctx->sk), w->port))
		return refuse(slot, AFNET_REFUSED_PORT, EACCES);
	error = enroll(s, kinds, uid_of(ctx->sk));
	if (error)
		return refuse(slot, AFNET_REFUSED_PORT, error);
	if (!tcp)
		hear(s, ctx->sk);
	/* Whoever shares the port is at one place. */
	w->port = hidden_port(s, kinds & -kinds);
	if (!w->port && kinds == (AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6))
		w->port = hidden_port(s, AFNET_SOCKET_ANY6);
	w->addr = s->anchor;
	/* Against sockets of the host on all addresses: UDP ones as they are, TCP ones in the way
	 * of those accepted here. */
	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		return refuse(slot, AFNET_REFUSED_PORT, EADDRINUSE);
	if (!tcp) {
		w->port = s->port;
		place(s, s->port, 0);
	} else if (!w->port) {
		s->flags |= AFNET_SOCKET_PENDING;
	}
	return c->flags & AFNET_CONFINED_PRIVILEGED ? BIND_ALLOW_PRIVILEGED : BIND_ALLOW;
}

SEC("cgroup/bind4")
int afnet_bind4(struct bpf_sock_addr *ctx)
{
	struct wish w = {.addr = ip4(ctx->user_ip4), .port = bpf_ntohs(ctx->user_port)};
	int answer = bind_socket(ctx, &w);

	if (answer) {
		ctx->user_ip4 = w.addr.word[3];
		ctx->user_port = bpf_htons(w.port);
	}
	return answer;
}

static __always_inline struct afnet_ip user_ip6(const struct bpf_sock_addr *ctx)
{
	struct afnet_ip ip = {
		.word = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};

	return ip;
}

static __always_inline void set_user_ip6(struct bpf_sock_addr *ctx, const struct afnet_ip *ip)
{
	ctx->user_ip6[0] = ip->word[0];
	ctx->user_ip6[1] = ip->word[1];
	ctx->user_ip6[2] = ip->word[2];
	ctx->user_ip6[3] = ip->word[3];
}

SEC("cgroup/bind6")
int afnet_bind6(struct bpf_sock_addr *ctx)
{
	struct wish w = {.addr = user_ip6(ctx), .port = bpf_ntohs(ctx->user_port)};
	int answer;

	w.all = ctx->sk && !ipv6_only(ctx->sk);
	answer = bind_socket(ctx, &w);
	if (answer) {
		set_user_ip6(ctx, &w.addr);
		ctx->user_port = bpf_htons(w.port);
	}
	return answer;
}

/* What the socket asked for, as kinds. */
static __always_inline __u32 kinds_of(const struct afnet_socket *s, bool all)
{
	if (!is_any(&s->addr))
		return AFNET_SOCKET_SINGLE;
	if (is_ip4(&s->addr))
		return AFNET_SOCKET_ANY4;
	return all ? AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6 : AFNET_SOCKET_ANY6;
}

/* The kernel has bound the socket: now its port is known. */
static __always_inline int bound(struct bpf_sock *sk)
{
	struct afnet_socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	__u16 port = sk->src_port;
	int error;

	if (!s || !s->slot || !(s->flags & AFNET_SOCKET_PENDING))
		return 1;
	s->flags &= ~AFNET_SOCKET_PENDING;
	/* Its compartment was removed meanwhile. */
	if (!home(s))
		return refuse(s->slot, AFNET_REFUSED_BIND, EADDRNOTAVAIL);
	if (!s->port) {
		s->port = port;
		error = enroll(s, kinds_of(s, !ipv6_only(sk)), uid_of(sk));
		if (error)
			return refuse(s->slot, AFNET_REFUSED_PORT, error);
		if (is_hearer(s))
			hear(s, sk);
	}
	place(s, port, 0);
	return 1;
}

SEC("cgroup/post_bind4")
int afnet_bound4(struct bpf_sock *sk)
{
	return bound(sk);
}

SEC("cgroup/post_bind6")
int afnet_bound6(struct bpf_sock *sk)
{
	return bound(sk);
}

SEC("cgroup/sock_release")
int afnet_close(struct bpf_sock *sk)
{
	struct afnet_socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);

	/* What an accepted socket has inherited is its listener's. */
	if (s && s->slot && s->port && s->cookie == bpf_get_socket_cookie(sk))
		unregister(s);
	if (s && s->slot) {
		report_release(sk);
		leave_quota(sk);
	}
	return 1;
}

/* The flag of a socket option that shares ports; 0: another option, another kind of socket. */
static __always_inline __u32 sharing_option(const struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (ctx->level != SOL_SOCKET || !sk ||
	    (sk->protocol != IPPROTO_TCP && sk->protocol != IPPROTO_UDP))
		return 0;
	return ctx->optname == SO_REUSEADDR   ? AFNET_SOCKET_SET_REUSE
	       : ctx->optname == SO_REUSEPORT ? AFNET_SOCKET_SET_REUSEPORT
					      : 0;
}

/* Options that make a socket a member of a multicast group. */
#define IP_ADD_MEMBERSHIP	 35
#define IP_ADD_SOURCE_MEMBERSHIP 39
#define IP_MSFILTER		 41
#define MCAST_JOIN_GROUP	 42
#define MCAST_JOIN_SOURCE_GROUP	 46
#define MCAST_MSFILTER		 48

/* The sort (hearers.h) of the group that a socket is about to join; 0: not to be known; -1: it does
 * not. */
static __always_inline int joins(struct bpf_sockopt *ctx)
{
	void *at = ctx->optval, *end = ctx->optval_end;
	bool four = ctx->level == IPPROTO_IP;
	struct afnet_ip group = ip4(0);

	if (!four && ctx->level != IPPROTO_IPV6)
		return -1;
	switch (ctx->optname) {
	case IP_ADD_MEMBERSHIP:
	case IP_ADD_SOURCE_MEMBERSHIP:
	case IP_MSFILTER:
		if (!four)
			return -1;
		break;
	case IPV6_ADD_MEMBERSHIP:
		if (four)
			return -1;
		break;
	case MCAST_JOIN_GROUP:
	case MCAST_JOIN_SOURCE_GROUP:
	case MCAST_MSFILTER:
		/* Behind the ifindex a sockaddr_in or sockaddr_in6. */
		at += 8 + (four ? 4 : 8);
		break;
	default:
		return -1;
	}
	if (four) {
		if (at + 4 > end)
			return 0;
		group.word[3] = *(__be32 *)at;
	} else {
		if (at + sizeof(group) > end)
			return 0;
		__builtin_memcpy(&group, at, sizeof(group));
	}
	return sort_of(&group);
}

/*
 * setsockopt(): what shares ports is kept back until bind() says with whom. Otherwise a socket that
 * never calls bind() could get the port of one of the host's, and its datagrams. From bind() on it
 * is as bind_socket() needs it.
 */
SEC("cgroup/setsockopt")
int afnet_set_option(struct bpf_sockopt *ctx)
{
	int *value = ctx->optval;
	struct afnet_socket *s;
	__u32 flag;
	int sort;

	/* An IPv4 socket made of an IPv6 one would leave `listening` without the kernel noticing.
	 */
	if (ctx->level == IPPROTO_IPV6 && ctx->optname == IPV6_ADDRFORM)
		return !ctx->sk || !(s = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0)) || !s->slot;
	sort = ctx->sk && ctx->sk->protocol == IPPROTO_UDP ? joins(ctx) : -1;
	if (sort >= 0) {
		s = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
		if (s && is_hearer(s) && s->port)
			enter_member(s->slot, s->port,
				     ctx->level == IPPROTO_IP ? AF_INET : AF_INET6, sort);
	}
	flag = sharing_option(ctx);
	s = flag ? bpf_sk_storage_get(&sockets, ctx->sk, 0, 0) : NULL;
	if (!s || !s->slot || (void *)(value + 1) > ctx->optval_end) {
		/* To the kernel, as the program gave it, however long it is. */
		ctx->optlen = 0;
		return 1;
	}
	s->flags = *value ? s->flags | flag : s->flags & ~flag;
	/* Done: the kernel need not. */
	ctx->optlen = -1;
	return 1;
}

/* getsockopt(): what the program has said. */
SEC("cgroup/getsockopt")
int afnet_get_option(struct bpf_sockopt *ctx)
{
	int *value = ctx->optval;
	struct afnet_socket *s;
	__u32 flag = sharing_option(ctx);

	s = flag && !ctx->retval ? bpf_sk_storage_get(&sockets, ctx->sk, 0, 0) : NULL;
	if (!s || !s->slot || (void *)(value + 1) > ctx->optval_end) {
		ctx->optlen = 0;
		return 1;
	}
	*value = !!(s->flags & flag);
	return 1;
}

/* listen(): from now on sk_lookup can find it. A socket that never called bind() is on all
 * addresses. */
SEC("sockops")
int afnet_listen(struct bpf_sock_ops *ops)
{
	struct afnet_port_key key;
	struct afnet_socket *s;
	struct bpf_sock *sk = ops->sk;

	if (ops->op != BPF_SOCK_OPS_TCP_LISTEN_CB || !sk)
		return 1;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!s || !home(s))
		return 1;
	if (!s->port) {
		bool all = ops->family == AF_INET6 && !ipv6_only(sk);

		s->addr = ops->family == AF_INET ? ip4(0) : (struct afnet_ip){};
		s->port = ops->local_port;
		s->protocol = IPPROTO_TCP;
		s->cookie = bpf_get_socket_cookie(ops);
		if (enroll(s, kinds_of(s, all), uid_of(sk)))
			return 1;
		place(s, s->port, AFNET_PORT_UNBOUND);
	}
	for (__u32 kind = AFNET_SOCKET_ANY4; kind <= AFNET_SOCKET_SINGLE; kind <<= 1) {
		if (!(s->flags & kind))
			continue;
		key = port_key(s, &s->addr);
		if (kind == AFNET_SOCKET_ANY4)
			key.addr = ip4(0);
		for (int i = 0; i < AFNET_LISTENERS; i++) {
			key.bucket = i;
			if (!bpf_sock_hash_update(ops, &listening, &key, BPF_NOEXIST))
				break;
			if (i == AFNET_LISTENERS - 1) {
				key.bucket = s->cookie % AFNET_LISTENERS;
				bpf_sock_hash_update(ops, &listening, &key, BPF_ANY);
			}
		}
	}
	engage(s, true);
	return 1;
}

#endif
