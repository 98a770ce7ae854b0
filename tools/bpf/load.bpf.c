// SPDX-License-Identifier: BSD-2-Clause
/*
 * Load: `spread` runs on live frames, writes the varying head of each (addresses, ports, tags,
 * checksums, stamp), and hands it to the program under test, which sees it as if the device had
 * received it. The head is written whole each time: the kernel uses pages again, and whoever
 * forwards a frame changes it.
 *
 * `pass` and `drop` are for devices without an XDP program of their own: the kernel's stack, and
 * the generator's own ceiling.
 *
 * A program array takes only programs that agree about multi-buffer frames, so there are two of the
 * spreaders.
 *
 * src/pattern.rs does the same in Rust, for frames that go out by AF_XDP.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* As in src/pattern.rs. */
#define MAX_FIELDS  8
#define HEAD_BYTES  128
#define STAMP_BYTES 18

/* Frames that share a time stamp: those that the kernel hands over together. */
#define CLOCK_EVERY 64

#define FIELD_WIDE   (1 << 0) /* 32 bits, else 16 */
#define FIELD_RANDOM (1 << 1) /* else one after the other */
#define FIELD_FOLLOW (1 << 2) /* the value of the field before */
#define FIELD_IP     (1 << 3) /* counts for the IPv4 header checksum */
#define FIELD_L4     (1 << 4) /* counts for the transport's checksum */

/* A place in the head that changes. It holds `fixed | (value & mask)`, value in first + [0, count).
 */
struct field {
	__u32 at;
	__u32 flags;
	__u32 first;
	__u32 count;
	__u32 next;
	__u32 mask;
	__u32 fixed;
};

/* All of it is set by user space before a run; one program object runs on one CPU at a time. */
struct field fields[MAX_FIELDS];
__u32 field_count;
/* The head with fields, stamp and checksums 0. */
__u64 head[HEAD_BYTES / 8];
__u32 head_bytes;
/* Where checksums are (0: nowhere), and sums of what they cover in the head as it stands above. */
__u32 ip_at;
__u32 ip_sum;
__u32 l4_at;
__u32 l4_sum;
/* A UDP checksum of 0 would say that there is none. */
__u32 l4_udp;
/* Where the stamp is (0: nowhere), its first word, the stream in the upper 16 bits. */
__u32 stamp_at;
__u32 stamp_magic;
__u64 stamp_stream;

/* Next sequence number: also how many frames there were. */
__u64 sequence;
/* Frames until the clock is read again. */
__u32 clock_left;
__u64 clock_now;
/* State of xorshift64. */
__u64 random_state;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps"), target_frags SEC(".maps");

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u32 random32(void)
{
	__u64 x = random_state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	random_state = x;
	return x >> 32;
}

/* Words of a 48-bit number, as a checksum adds them. */
static __always_inline __u32 words48(__u64 x)
{
	return ((x >> 32) & 0xffff) + ((x >> 16) & 0xffff) + (x & 0xffff);
}

static __always_inline int write_head(void *data, void *end)
{
	__u32 words = head_bytes / 8, halves = head_bytes % 8 / 2;

#pragma clang loop unroll(full)
	for (int i = 0; i < HEAD_BYTES / 8; i++) {
		__u64 *to = data + i * 8;

		if (i >= words)
			break;
		if ((void *)(to + 1) > end)
			return -1;
		*to = head[i];
	}
#pragma clang loop unroll(full)
	for (int i = 0; i < 3; i++) {
		__u32 at = (words * 4 + i) % (HEAD_BYTES / 2);
		__u16 *to = data + at * 2;

		if (i >= halves)
			break;
		if ((void *)(to + 1) > end)
			return -1;
		*to = ((__u16 *)head)[at];
	}
	return 0;
}

static __always_inline int write_fields(void *data, void *end, __u64 *ip, __u64 *l4)
{
	__u32 value = 0, carry = 1;

	for (int i = 0; i < MAX_FIELDS; i++) {
		struct field *field = &fields[i];
		__u32 flags, written, sum;
		void *to;

		if (i >= field_count)
			break;
		flags = field->flags;
		if (flags & FIELD_RANDOM) {
			value = field->first + (((__u64)random32() * field->count) >> 32);
		} else if (!(flags & FIELD_FOLLOW)) {
			__u32 next = field->next;

			value = field->first + next;
			next += carry;
			carry = next >= field->count;
			field->next = carry ? 0 : next;
		}
		written = field->fixed | (value & field->mask);
		to = data + (field->at & (HEAD_BYTES - 1));
		if (to + 4 > end)
			return -1;
		if (flags & FIELD_WIDE) {
			*(__u32 *)to = bpf_htonl(written);
			sum = (written >> 16) + (written & 0xffff);
		} else {
			*(__u16 *)to = bpf_htons(written);
			sum = written & 0xffff;
		}
		if (flags & FIELD_IP)
			*ip += sum;
		if (flags & FIELD_L4)
			*l4 += sum;
	}
	return 0;
}

static __always_inline int write_stamp(void *data, void *end, __u64 *l4)
{
	void *to = data + (stamp_at & (HEAD_BYTES - 1));
	__u64 now = clock_now, number = sequence & 0xffffffffffff;

	if (to + STAMP_BYTES > end)
		return -1;
	if (clock_left) {
		clock_left--;
	} else {
		clock_now = now = bpf_ktime_get_ns();
		clock_left = CLOCK_EVERY - 1;
	}
	now &= 0xffffffffffff;
	*(__u32 *)to = bpf_htonl(stamp_magic);
	*(__u64 *)(to + 4) = bpf_cpu_to_be64(stamp_stream | number);
	*(__u16 *)(to + 12) = bpf_htons(now >> 32);
	*(__u32 *)(to + 14) = bpf_htonl(now);
	*l4 += words48(number) + words48(now);
	return 0;
}

static __always_inline int write_sum(void *data, void *end, __u32 at, __u64 sum, __u32 udp)
{
	__u16 *to = data + (at & (HEAD_BYTES - 1));
	__u16 folded = fold(sum);

	if ((void *)(to + 1) > end)
		return -1;
	*to = folded || !udp ? bpf_htons(folded) : 0xffff;
	return 0;
}

static __always_inline int rewrite(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end, *data = (void *)(long)ctx->data;
	__u64 ip = ip_sum, l4 = l4_sum;

	if (write_head(data, end) || write_fields(data, end, &ip, &l4))
		return -1;
	if (stamp_at && write_stamp(data, end, &l4))
		return -1;
	sequence++;
	if (ip_at && write_sum(data, end, ip_at, ip, 0))
		return -1;
	if (l4_at && write_sum(data, end, l4_at, l4, l4_udp))
		return -1;
	return 0;
}

SEC("xdp")
int spread(struct xdp_md *ctx)
{
	if (!rewrite(ctx))
		bpf_tail_call(ctx, &target, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int spread_frags(struct xdp_md *ctx)
{
	if (!rewrite(ctx))
		bpf_tail_call(ctx, &target_frags, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp.frags")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

_Static_assert(sizeof(struct field) == 28, "seven words, as the skeleton's user writes them");

char LICENSE[] SEC("license") = "Dual BSD/GPL";
