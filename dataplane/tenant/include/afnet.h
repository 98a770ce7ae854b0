/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * afnet for C: attach to a compartment of afnetd, claim UDP ports, send and receive in batches.
 *
 * Build the library with
 *   cargo rustc --release -p afnet-tenant --features capi --crate-type staticlib     (or cdylib)
 * and link libafnet_tenant.a with -lpthread -ldl -lm, or libafnet_tenant.so.
 *
 * A struct afnet belongs to one thread at a time. Calls that can fail return a negative errno value
 * and leave a text for afnet_error(). Nothing here raises a signal.
 */
#ifndef AFNET_H
#define AFNET_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

struct afnet;

/* Kinds of endpoints. */
#define AFNET_UDP 1 /* datagrams of claimed ports */
#define AFNET_RAW 2 /* all IP packets of the compartment */

/* Bits of struct afnet_options.flags. */
#define AFNET_NO_RECONNECT 1u /* do not attach again when the daemon has been restarted */
#define AFNET_POPULATE	   2u /* touch all of the rings' memory at once */

/* How to attach. All zero (or a null pointer) is a udp endpoint in the compartment of the process's
 * cgroup. */
struct afnet_options {
	const char *instance; /* daemon; null: environment variable AFNET_INSTANCE, else the default
				 one */
	const char
		*compartment; /* null: that of the process's cgroup; naming one needs privilege */
	uint64_t rx_len;      /* bytes of each RX ring, a power of two; 0: the daemon's default */
	uint64_t tx_len;      /* bytes of each TX ring, likewise */
	uint32_t kind;	      /* AFNET_UDP (or 0) or AFNET_RAW */
	uint32_t flags;
	uint32_t spin_us;  /* microseconds to look at the rings before sleeping */
	uint32_t reserved; /* 0 */
};

/* An IPv4 or IPv6 address with port; sa.sa_family 0: none. */
union afnet_addr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

/* Values of struct afnet_msg.kind. */
#define AFNET_DATAGRAM 1
#define AFNET_PACKET   2
#define AFNET_ERROR    3 /* received only: an ICMP error about a datagram to .remote; .error, .mtu */

/* Bits of struct afnet_msg.flags. */
#define AFNET_DONT_FRAGMENT 1u /* send: an error instead of fragments */
#define AFNET_TRUNCATED	    2u /* received: longer than the buffer, the rest is lost */
#define AFNET_KERNEL	    4u /* received: through a kernel socket; send: through that of the claim */
#define AFNET_LOCAL	    8u	/* received: from this host */
#define AFNET_NO_LOOP	    16u /* send, to a group: no copies for members on this host */

/* One datagram, packet or error. */
struct afnet_msg {
	void *data; /* receive: buffer of the caller; send: payload, not changed */
	size_t len; /* receive: in: bytes of the buffer, out: bytes received; send: bytes of payload
		     */
	union afnet_addr local;	 /* send: source address (or none: afnet chooses) and claimed port
				    (0: first claim) */
	union afnet_addr remote; /* send: destination */
	uint64_t timestamp_ns;	 /* received: CLOCK_REALTIME; 0: unknown */
	uint32_t kind;		 /* send: 0 stands for the endpoint's kind */
	uint32_t flags;
	uint32_t ifindex;  /* device: received by; send: 0: by the routing table */
	uint32_t vlan;	   /* VLAN on that device, as afnet_abi's Vlan::raw(); 0: untagged */
	uint32_t mtu;	   /* of an error about size: path MTU in bytes */
	int32_t error;	   /* of an error: errno */
	uint16_t segment;  /* send: cut the payload into datagrams of this length; 0: do not */
	uint8_t ttl;	   /* TTL or hop limit; send: 0: default */
	uint8_t tos;	   /* TOS or traffic class */
	uint32_t reserved; /* 0 */
};

/* Text of this thread's last failed call; valid until its next one. Never null. */
const char *afnet_error(void);

/* Attaches; *endpoint is to be given to afnet_detach(). 0 or a negative errno. */
int afnet_attach(const struct afnet_options *options, struct afnet **endpoint);

/* Gives everything back; null is fine. */
void afnet_detach(struct afnet *endpoint);

/*
 * Claims count ports from port on; port 0 picks one (count 1). address: only this one (its port is
 * ignored), or null for all of the compartment. Returns the port, or a negative errno: -EADDRINUSE
 * if somebody has it.
 */
int afnet_claim(struct afnet *endpoint, const struct sockaddr *address, uint16_t port,
		uint16_t count);

/* Gives a claim back; address and port as when claimed. 0 or a negative errno. */
int afnet_unclaim(struct afnet *endpoint, const struct sockaddr *address, uint16_t port);

/*
 * What the endpoint hears in a multicast group, or at a broadcast address, from now on, as
 * setsourcefilter(3): fmode MCAST_EXCLUDE with no sources: everything; MCAST_INCLUDE with none:
 * nothing. device: null for that of the compartment's first address of the family. 0 or a negative
 * errno.
 */
int afnet_setsourcefilter(struct afnet *endpoint, const char *device, uint32_t vlan,
			  const struct sockaddr *group, uint32_t fmode, uint32_t numsrc,
			  const struct sockaddr_storage *slist);

/*
 * Receives up to n messages. Blocks until there is one, for at most timeout_ms milliseconds (0:
 * does not block, negative: for ever). Returns how many came, 0 if none did, or a negative errno.
 */
int afnet_recv(struct afnet *endpoint, struct afnet_msg *messages, unsigned int n, int timeout_ms);

/*
 * Sends n messages as one batch; never blocks. Returns how many were taken, fewer than n if the
 * ring is full or one of them is refused, or a negative errno if the first one is: -EAGAIN if the
 * ring is full.
 */
int afnet_send(struct afnet *endpoint, const struct afnet_msg *messages, unsigned int n);

/* Descriptor for poll() or epoll, for input; see afnet_arm(). It belongs to the endpoint. */
int afnet_fd(const struct afnet *endpoint);

/*
 * Before sleeping on afnet_fd(): 1: something is there already, receive instead; 0: nothing, the
 * descriptor will become readable. Receiving disarms.
 */
int afnet_arm(struct afnet *endpoint);

/* Whether a daemon serves the endpoint. If not, datagrams of claimed ports come and go through the
 * kernel. */
int afnet_connected(const struct afnet *endpoint);

/* Attaches anew with the same claims. 0 or a negative errno. */
int afnet_reconnect(struct afnet *endpoint);

#ifdef __cplusplus
}
#endif

#endif
