/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few fields of kernel structures that the kernel path reads, relocated when the programs are
 * loaded (CO-RE). Names ending in ___X are other versions of the same structure.
 */
#ifndef AFNET_KERNEL_H
#define AFNET_KERNEL_H

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct user_namespace {
	int level;
};

typedef struct {
	__u32 val;
} kuid_t;

/* A set of bits: an array of two words before 6.3, one of 64 bits now. */
typedef struct {
} kernel_cap_t;

struct cred {
	kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
};

/* x86 alone. */
struct thread_info {
	__u32 status;
};

struct task_struct {
	struct thread_info thread_info;
	const struct cred *cred;
};

struct netns_ipv4 {
	int sysctl_ip_prot_sock;
};

struct net {
	struct user_namespace *user_ns;
	__u64 net_cookie;
	struct netns_ipv4 ipv4;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	unsigned char skc_reuse : 4;
	unsigned char skc_reuseport : 1;
	unsigned char skc_ipv6only : 1;
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
	kuid_t sk_uid;
};

/* A socket's filter of sources of a multicast group. */
struct ip_sf_socklist {
	unsigned int sl_count;
	__be32 sl_addr[];
};

struct ip6_sf_socklist {
	unsigned int sl_count;
	struct in6_addr sl_addr[];
};

struct ip_mreqn___kernel {
	struct in_addr imr_multiaddr;
	int imr_ifindex;
};

/* Multicast groups that a socket has joined. */
struct ip_mc_socklist {
	struct ip_mc_socklist *next_rcu;
	struct ip_mreqn___kernel multi;
	unsigned int sfmode;
	struct ip_sf_socklist *sflist;
};

struct ipv6_mc_socklist {
	struct in6_addr addr;
	int ifindex;
	unsigned int sfmode;
	struct ipv6_mc_socklist *next;
	struct ip6_sf_socklist *sflist;
};

struct ipv6_pinfo {
	union {
		struct {
			__u16 rxinfo : 1;
		} bits;
	} rxopt;
	struct ipv6_mc_socklist *ipv6_mc_list;
};

/* Before 6.7. */
struct ipv6_pinfo___old {
	__u16 mc_all : 1;
};

struct inet_sock {
	struct ipv6_pinfo *pinet6;
	unsigned long inet_flags;
	struct ip_mc_socklist *mc_list;
};

/* Before 6.6. */
struct inet_sock___old {
	__u8 cmsg_flags;
	__u8 mc_all : 1;
};

#pragma clang attribute pop

#endif
