/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The chain of IPv6 extension headers (RFC 8200 4): hop-by-hop, destination options, routing,
 * fragment, AH. Bounded to AFNET_CHAIN_MAX headers. ESP and anything unknown end it: they are
 * somebody's payload.
 */
#ifndef AFNET_CHAIN_H
#define AFNET_CHAIN_H

#include "parse.h"

/* Beyond this offset no header is looked for; it also bounds the verifier's arithmetic. */
#define CHAIN_END 2048

/* Bits of chain.seen. */
#define SEEN_FRAGMENT 1 /* any fragment header, an atomic one too (RFC 6946) */
#define SEEN_PIECE    2 /* a fragment header that makes it a real fragment */
#define SEEN_LATER    4 /* a fragment other than the first: what follows is no header */
#define SEEN_ROUTING  8 /* a routing header with segments left: not the final destination */
#define SEEN_AH	      16
#define SEEN_OPTIONS  32 /* any other extension header */

struct chain {
	__u32 offset; /* of the first header that is no extension header */
	__u32 seen;
	__u32 protocol;
};

enum chain_end { CHAIN_OK, CHAIN_SHORT, CHAIN_BAD };

/* The common start of the options, routing and authentication headers. */
struct extension {
	__u8 next;
	__u8 length;
	__u8 type;
	__u8 segments;
};

struct fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* 13 bits offset, 2 reserved, 1 more */
	__be32 id;
};

static __always_inline bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_ROUTING || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH;
}

/*
 * Walks on from chain->offset, where a header of type chain->protocol is.
 *
 * Not static: the verifier then checks it once, by itself, and not for each caller and each path to
 * it. What the loop carries stays in *chain for the same reason: the verifier keeps no values of
 * such memory, so the states of an iteration are alike and it walks each iteration once.
 */
__noinline int walk_chain(struct xdp_md *xdp, struct chain *chain)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;

	if (!chain)
		return CHAIN_BAD;
	for (int i = 0; i < AFNET_CHAIN_MAX; i++) {
		__u8 protocol = chain->protocol;
		__u32 offset = chain->offset;
		struct extension *ext;

		if (!is_extension(protocol) || chain->seen & SEEN_LATER)
			return offset > CHAIN_END ? CHAIN_BAD : CHAIN_OK;
		if (offset > CHAIN_END)
			return CHAIN_BAD;
		/* 8 bytes is the least that any of them has. */
		ext = data + offset;
		if ((void *)ext + sizeof(struct fragment) > end)
			return CHAIN_SHORT;
		if (protocol == IPPROTO_FRAGMENT) {
			struct fragment *fragment = (void *)ext;

			chain->seen |= SEEN_FRAGMENT;
			if (fragment->offset & bpf_htons(0xfff8))
				chain->seen |= SEEN_LATER | SEEN_PIECE;
			else if (fragment->offset & bpf_htons(1))
				chain->seen |= SEEN_PIECE;
			chain->offset = offset + sizeof(*fragment);
		} else if (protocol == IPPROTO_AH) {
			chain->seen |= SEEN_AH;
			chain->offset = offset + (ext->length + 2) * 4;
		} else {
			/* RFC 8200 4.1: hop-by-hop options only directly after the IPv6 header. */
			if (protocol == IPPROTO_HOPOPTS && i)
				return CHAIN_BAD;
			chain->seen |= SEEN_OPTIONS;
			if (protocol == IPPROTO_ROUTING && ext->segments)
				chain->seen |= SEEN_ROUTING;
			chain->offset = offset + (ext->length + 1) * 8;
		}
		chain->protocol = ext->next;
		asm volatile("" ::: "memory");
	}
	if (chain->offset > CHAIN_END)
		return CHAIN_BAD;
	return is_extension(chain->protocol) && !(chain->seen & SEEN_LATER) ? CHAIN_BAD : CHAIN_OK;
}

#endif
