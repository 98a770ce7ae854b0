/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Datagrams to groups and to broadcast, for UDP sockets on all addresses of a compartment. The
 * kernel has them at one address, so its own delivery, which goes to sockets on all addresses or on
 * the group, does not find them.
 *
 *   frame -> who hears it next? -- nobody --> kernel: its own delivery, reassembly
 *             | a copy, tagged with the slot      ^
 *             |   '------- the frame itself ------'
 *             v
 *   copy  -> who hears it next? -> a copy ...; then this one to the socket of its slot
 *
 * So a datagram is copied once at a time, however many hear it, and a burst of them does not
 * overflow the CPU's backlog. The tag is the destination MAC address (AFNET_MAC_COPY): it is in the
 * packet, so that none of the other programs on its way can lose it. What a tag says that somebody
 * else has made up is checked as for any frame. Packet sockets and XDP programs in generic mode see
 * copies at the device, too; the latter have to pass them.
 *
 *  1. candidates by port and group                     hearers.h
 *  2. the compartment has an address at the device     `confined`, `sources`
 *  3. from this host: neither side is isolated         what comes from lo: only its own
 *  4. the socket has joined the group, for this source member.h
 *     broadcast: of one of the compartment's subnets
 *
 * Where copies go. From the wire: to the ingress of the device again. Copies of what this host has
 * sent (dev_loopback_xmit) come without MAC header, and without their route the kernel would take
 * them for forged ones: so IPv4 goes out of `lo`, which keeps it. IPv6 asks for the route anew, at
 * the device.
 *
 * What this host sends to groups that endpoints are in is copied to the workers, too (workers.h).
 * A socket under the shim that a worker serves has what comes from the wire and from endpoints by
 * that, and the rest here: so it hears everything once, and goes on to when the workers die.
 *
 * Of a compartment's sockets that share the port one hears it, the last bound or (SO_REUSEPORT) one
 * by hash. Fragments go to the kernel only. Before 6.6 sockets with SO_REUSEPORT hear but what
 * comes from the wire, for the family of their anchor (bind.h).
 */
#ifndef AFNET_GROUP_H
#define AFNET_GROUP_H

#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include "ping.h"
#include "udp.h"
#include "workers.h"

/* Slots there are, fixed when the programs are loaded. */
const volatile __u32 slots = 4096;

/* Looks at words and candidates for one packet: more than there can be. */
#define SEEK_MAX (1 << 18)

/* No verdicts: a packet is for one address, for the sockets of several, for these indeed. */
#define FOR_ONE	 (-2)
#define FOR_MANY (-3)
#define GO_ON	 (-4)

/* Sockets that have had what comes with AFNET_COPY_REPLICATED to a group, by the fast path. The
 * value is of no meaning. */
HASH(replicated, struct afnet_replicated, __u8, 1 << 16);

/* A datagram on its way to those who hear it. */
struct hearing {
	struct afnet_ip to;
	struct afnet_ip from;
	__u32 ifindex; /* of the device that it came to */
	__u32 sender;  /* the compartment that has sent it; 0: another host, or ours */
	__u32 own;     /* the slot that a copy is for; 0: it is none */
	__u16 flags;   /* AFNET_COPY_* */
	__be16 port;
	bool group;   /* multicast, not broadcast */
	bool private; /* for its sender alone */
	bool assign;  /* now is the time to give it to the socket */
	bool copy;    /* it has a tag */
};

/* The search for the next compartment. */
struct search {
	struct __sk_buff *skb;
	struct hearing hearing;
	__u32 family;
	__u32 sort;
	__u32 cursor;
	__u32 found;
};

static __always_inline bool is_multicast(const struct afnet_ip *ip)
{
	return is_group(ip) && !(is_ip4(ip) && ip->word[3] == 0xffffffff);
}

static __always_inline __be32 broadcast_of(const struct afnet_source *s)
{
	__u32 len = s->prefix_len - 96;

	/* Those with one or two addresses have none. */
	return len > 30 ? 0 : s->addr.word[3] | bpf_htonl(0xffffffffu >> (len & 31));
}

/* Whether the compartment has an address at the device; and, if `broadcast` is one of a subnet, in
 * that. */
__noinline int is_at_device(__u32 slot, __u32 ifindex, __be32 broadcast)
{
	const struct afnet_confined *c = bpf_map_lookup_elem(&confined, &slot);
	const struct afnet_sources *all;

	if (!c)
		return false;
	if (c->device && c->count4 < 2)
		return c->device == ifindex && (!broadcast || c->broadcast4 == broadcast);
	all = bpf_map_lookup_elem(&sources, &slot);
	if (!all)
		return false;
	for (__u32 i = 0; i < AFNET_SOURCES && i < c->count4; i++)
		if (all->v4[i].ifindex == ifindex &&
		    (!broadcast || broadcast_of(&all->v4[i]) == broadcast))
			return true;
	for (__u32 i = 0; i < AFNET_SOURCES && i < c->count6 && !broadcast; i++)
		if (all->v6[i].ifindex == ifindex)
			return true;
	return false;
}

/* Makes a copy one for a single address: the second best, since packet information then shows that.
 */
__noinline int readdress(struct __sk_buff *skb, const struct afnet_ip *from,
			 const struct afnet_ip *to)
{
	__u32 flags = BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0;
	__u32 udp = ETH_HLEN + sizeof(struct ipv6hdr), check;
	struct afnet_ip old, new;
	__u8 version = 0;

	if (!from || !to)
		return false;
	old = *from;
	new = *to;
	if (is_ip4(&old) != is_ip4(&new) || bpf_skb_load_bytes(skb, ETH_HLEN, &version, 1))
		return false;
	if (is_ip4(&old))
		udp = ETH_HLEN + (version & 15) * 4;
	check = udp + offsetof(struct udphdr, check);
	if (is_ip4(&old)) {
		__be32 before = old.word[3], after = new.word[3];

		if (bpf_l4_csum_replace(skb, check, before, after, flags | sizeof(after)) ||
		    bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), before,
					after, sizeof(after)) ||
		    bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &after,
					sizeof(after), 0))
			return false;
	} else {
		__s64 difference =
			bpf_csum_diff((void *)&old, sizeof(old), (void *)&new, sizeof(new), 0);

		if (bpf_l4_csum_replace(skb, check, 0, difference, flags) ||
		    bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &new,
					sizeof(new), 0))
			return false;
	}
	bpf_skb_change_type(skb, PACKET_HOST);
	return true;
}

static __always_inline bool has_had(__u64 cookie, const struct hearing *h)
{
	struct afnet_replicated key = {.cookie = cookie, .ifindex = h->ifindex, .group = h->to};

	return bpf_map_lookup_elem(&replicated, &key);
}

/* Whether a socket of the compartment hears it, and gives it to that, if it is time. Verified by
 * itself. */
__noinline int hears(struct __sk_buff *skb, __u32 slot, const struct hearing *h)
{
	const struct afnet_confined *c = bpf_map_lookup_elem(&confined, &slot);
	struct afnet_port_key key = {.protocol = IPPROTO_UDP};
	struct afnet_ip anchor, nobody = {};
	const struct afnet_port *p;
	struct afnet_socket *s;
	struct bpf_sock *sk;
	struct walk w = {};
	int good = false;

	if (!h || !c || !c->cgroup || (h->private && slot != h->sender))
		return false;
	w.group = h->to;
	w.from = h->from;
	w.ifindex = h->ifindex;
	if (w.ifindex == LO_IFINDEX
		    ? slot != h->sender
		    : !is_at_device(slot, w.ifindex, is_group(&w.group) ? 0 : w.group.word[3]))
		return false;
	key.home = c->cgroup;
	key.port = bpf_ntohs(h->port);
	key.addr = any_of(&w.group);
	p = bpf_map_lookup_elem(&ports, &key);
	/* A socket that never called bind() is on all addresses in the kernel, too. */
	if (!p || !receives(p) || p->flags & AFNET_PORT_UNBOUND)
		return false;
	anchor = p->anchor;
	if (is_ip4(&anchor))
		nobody = ip4(0);
	/* From nobody: connected sockets hear no groups. */
	sk = find_udp(skb, &anchor, &nobody, bpf_htons(p->port), 0);
	if (!sk)
		return false;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!s || s->cgroup != c->cgroup || sk->state == STATE_ESTABLISHED ||
	    !(s->flags & (AFNET_SOCKET_ANY4 | AFNET_SOCKET_ANY6)))
		goto out;
	if (h->group && !is_member(&w, (const void *)kernel_sock(sk)))
		goto out;
	if (h->flags & AFNET_COPY_LOCAL && c->flags & AFNET_CONFINED_ISOLATED &&
	    h->sender != slot) {
		refused(slot, AFNET_DROP_ISOLATED);
		goto out;
	}
	if (h->flags & AFNET_COPY_REPLICATED && has_had(s->cookie, h))
		goto out;
	good = !h->assign;
	if (h->assign) {
		long error = bpf_sk_assign(skb, sk, 0);

		/* Before 6.6 not with SO_REUSEPORT. On `lo` its route would still be one for many.
		 */
		good = !error || (error == -ESOCKTNOSUPPORT && skb->ifindex != LO_IFINDEX &&
				  readdress(skb, &w.group, &anchor));
	}
out:
	bpf_sk_release(sk);
	return good;
}

/* Not static, to be verified once. */
__noinline int lowest_bit(__u64 word)
{
	int bit = 0;

	for (int half = 32; half; half >>= 1)
		if (!(word & ((1ull << half) - 1))) {
			word >>= half;
			bit += half;
		}
	return bit;
}

/* One step to the next candidate: over an entry, over a word, or to a bit. */
static long seek(__u32 step __attribute__((unused)), struct search *search)
{
	struct hearing *h = &search->hearing;
	struct afnet_hearers_key key;
	const struct afnet_hearers *e;
	__u32 slot = search->cursor;
	__u64 word;

	if (slot >= slots)
		return 1;
	key = hearers_key(slot, bpf_ntohs(h->port), search->family, search->sort);
	e = bpf_map_lookup_elem(&hearers, &key);
	if (!e) {
		search->cursor = (slot | (AFNET_HEARERS_BLOCK - 1)) + 1;
		return 0;
	}
	word = e->slots[WORD(slot)] >> (slot & 63);
	if (!word) {
		search->cursor = (slot | 63) + 1;
		return 0;
	}
	slot += lowest_bit(word);
	search->cursor = slot + 1;
	if (!hears(search->skb, slot, h))
		return 0;
	search->found = slot;
	return 1;
}

/* The destination of a frame, as a tag: (kind, flags, 0, slot). */
static __always_inline void put_tag(struct __sk_buff *skb, __u16 flags, __u32 slot)
{
	__be16 to[3] = {bpf_htons(AFNET_MAC_COPY), bpf_htons(flags), bpf_htons(slot)};

	bpf_skb_store_bytes(skb, 0, to, sizeof(to), 0);
}

/* Gives a looped packet the MAC header that it came without. */
static __always_inline long put_header(struct __sk_buff *skb, const struct hearing *h)
{
	struct {
		__u8 to[ETH_ALEN];
		__be16 from_kind;
		__be32 from_ifindex;
		__be16 protocol;
	} __attribute__((packed)) header = {.from_kind = bpf_htons(0x02af),
					    .from_ifindex = bpf_htonl(h->ifindex),
					    .protocol = skb->protocol};

	return bpf_skb_change_head(skb, ETH_HLEN, 0)
		       ?: bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0);
}

/* Sends a copy to the socket of `slot`, by where its route is found. */
static __always_inline void send_copy(struct __sk_buff *skb, const struct hearing *h, __u32 slot,
				      bool looped)
{
	__u8 before[ETH_ALEN];
	__u32 flags = h->flags;
	bool by_lo = skb->ifindex == LO_IFINDEX || (looped && is_ip4(&h->to));

	if (looped && by_lo)
		flags |= AFNET_COPY_MOVED;
	bpf_skb_load_bytes(skb, 0, before, sizeof(before));
	put_tag(skb, flags, slot);
	bpf_clone_redirect(skb, by_lo ? LO_IFINDEX : skb->ifindex, by_lo ? 0 : BPF_F_INGRESS);
	bpf_skb_store_bytes(skb, 0, before, sizeof(before), 0);
}

/*
 * A worker hands a frame on, for the device whose index stands in its destination address: the
 * verdict. One of an endpoint stays at the host link, if the kernel has its IPv4 source: at the
 * device it would be taken for a forged one. GO_ON: then.
 */
static __always_inline int from_worker(struct __sk_buff *skb, struct hearing *h)
{
	struct {
		__be16 to[3];
		__be16 from_kind;
		__be32 from_ifindex;
	} __attribute__((packed)) header = {.from_kind = bpf_htons(0x02af)};
	struct afnet_ip from = ip4(0);

	if (bpf_skb_load_bytes(skb, 2, &header.from_ifindex, sizeof(header.from_ifindex)))
		return TC_ACT_SHOT;
	h->ifindex = bpf_ntohl(header.from_ifindex);
	if (!chooses_source(h->ifindex))
		return TC_ACT_SHOT;
	if (skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &from.word[3],
			       sizeof(from.word[3])) ||
	    !owner_of(&from)) {
		put_tag(skb, AFNET_COPY_REPLICATED, 0);
		return bpf_redirect(h->ifindex, BPF_F_INGRESS);
	}
	h->flags = AFNET_COPY_REPLICATED | AFNET_COPY_MOVED;
	header.to[0] = bpf_htons(AFNET_MAC_COPY);
	header.to[1] = bpf_htons(h->flags);
	bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0);
	return GO_ON;
}

/* Reads a packet of a group or broadcast frame, or to a group: GO_ON, a verdict, or FOR_ONE. */
__noinline int read_group_packet(struct __sk_buff *skb, struct hearing *h)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	bool looped = skb->pkt_type == PACKET_LOOPBACK;
	struct flow flow = {};

	/* Tagged, it goes to another device first. */
	if (!h || skb->pkt_type == PACKET_OTHERHOST || skb->vlan_present)
		return TC_ACT_UNSPEC;
	h->ifindex = skb->ifindex;
	if (!looped) {
		__u16 kind;

		if (data + ETH_HLEN > end)
			return TC_ACT_UNSPEC;
		kind = bpf_ntohs(*(__be16 *)data);
		if (kind == AFNET_MAC_WORKER && host_link && skb->ifindex == host_link) {
			int verdict = from_worker(skb, h);

			if (verdict != GO_ON)
				return verdict;
			h->copy = true;
			data = (void *)(long)skb->data;
			end = (void *)(long)skb->data_end;
		} else if (kind == AFNET_MAC_COPY) {
			h->copy = true;
			h->flags = bpf_ntohs(*(__be16 *)(data + 2));
			h->own = bpf_ntohs(*(__be16 *)(data + 4));
			if (h->flags & AFNET_COPY_MOVED &&
			    (skb->ifindex == LO_IFINDEX ||
			     (host_link && skb->ifindex == host_link)))
				h->ifindex = bpf_ntohl(*(__be32 *)(data + ETH_ALEN + 2));
		}
		data += ETH_HLEN;
	}
	if (!read_udp(skb, data, end, false, &flow) || !flow.whole)
		goto other;
	h->to = flow.ours;
	h->from = flow.theirs;
	h->port = flow.port;
	h->group = is_multicast(&flow.ours);
	if (is_group(&flow.ours) ||
	    (is_ip4(&flow.ours) && skb->pkt_type != PACKET_HOST && !owner_of(&flow.ours)))
		return GO_ON;
other:
	if (h->own)
		return TC_ACT_SHOT;
	return looped || is_group(&flow.ours) ? TC_ACT_UNSPEC : FOR_ONE;
}

/*
 * A packet of a group or broadcast frame, or to a group: the verdict, or FOR_ONE. Verified by
 * itself.
 */
__noinline int group_packet(struct __sk_buff *skb)
{
	bool looped = skb->pkt_type == PACKET_LOOPBACK;
	const struct afnet_confined *c = NULL;
	struct search search = {.skb = skb};
	struct hearing *h = &search.hearing;
	int verdict = read_group_packet(skb, h);
	__u32 sender;
	bool fast;

	if (verdict != GO_ON)
		return verdict;
	sender = h->sender = owner_of(&h->from);
	if (looped || skb->ifindex == LO_IFINDEX || (h->flags & AFNET_COPY_REPLICATED && sender))
		h->flags |= AFNET_COPY_LOCAL;
	if (h->flags & AFNET_COPY_LOCAL) {
		if (sender)
			c = bpf_map_lookup_elem(&confined, &sender);
		h->private = is_alias(&h->from) || (c && c->flags & AFNET_CONFINED_ISOLATED);
	}
	fast = looped && host_link && !h->private && is_fast_group(h->ifindex, &h->to);
	search.family = is_ip4(&h->to) ? AF_INET : AF_INET6;
	search.sort = h->group && !is_everyones(&h->to) ? sort_of(&h->to) : 0;
	search.cursor = h->own + 1;
	bpf_loop(SEEK_MAX, seek, &search, 0);
	if ((fast || (looped && search.found)) && put_header(skb, h))
		return h->private ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	if (fast)
		copy_to_workers(skb, h->ifindex);
	if (search.found)
		send_copy(skb, h, search.found, looped);
	if (h->own) {
		h->assign = true;
		if (!hears(skb, h->own, h))
			return TC_ACT_SHOT;
	}
	if (!h->group && h->copy)
		bpf_skb_change_type(skb, PACKET_BROADCAST);
	return !h->own && h->private ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#endif
