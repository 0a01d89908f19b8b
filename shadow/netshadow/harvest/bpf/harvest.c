// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
/*
 * Copy out the frames that a dead device's driver, or the queueing discipline
 * above it, frees instead of sending.
 *
 * Which freed socket buffer is an unsent frame is decided in outgoing(); the
 * package comment of ../ gives the reasons.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define ETH_HLEN 14
#define PACKET_OUTGOING 4      /* linux/if_packet.h */
#define PACKET_LOOPBACK 5
#define MAC_HEADER_UNSET 0xffff /* skb_mac_header_was_set() */
#define TCQ_F_BUILTIN 1        /* net/sch_generic.h */
#define LINK_STATE_START 1UL   /* bit __LINK_STATE_START of net_device.state */

/*
 * A perf record's size is a __u16 (struct perf_event_header), and the kernel
 * adds a header of 8 and a length of 4 bytes to ours.
 */
#define MAX_SAMPLE (65535 - 8 - 4 - 8)

/* Where a frame was when it was freed, in the order in which frames left. */
enum origin {
	ORIGIN_DRIVER,   /* in the driver: its ring */
	ORIGIN_REQUEUED, /* taken off the queue, refused by the driver */
	ORIGIN_QUEUED,   /* in the queueing discipline */
	ORIGIN_REFUSED,  /* not let into the queueing discipline */
};

/* A function of the kernel's that tells an origin by freeing a frame. */
struct span {
	__u64 start;
	__u64 end;
	__u64 origin;
};

#define SPANS 8
const volatile struct span spans[SPANS];

int device; /* ifindex; 0: none */
int proxy;  /* ifindex; 0: none */
int port;   /* ifindex; 0: none */
int alive;  /* the device works: what it frees while it runs was sent */

__u64 seen;   /* unsent frames that were freed */
__u64 taken;  /* of these, copied out */
__u64 failed; /* of these, could not be copied, e.g. larger than a sample */
__u64 lost;   /* of these, no room in the buffer */

#define SAMPLE_VLAN (1 << 0)   /* a tag is in vlan_proto and vlan_tci */
#define SAMPLE_CRC (1 << 1)    /* the checksum is a CRC32c */
#define SAMPLE_BEHIND (1 << 2) /* freed on proxy or port: left after all others */

struct sample {
	__u64 number; /* of the freed frame, in order over all CPUs */
	__u32 len;
	__u32 pull; /* bytes in front of the Ethernet header */
	__u32 gso_type;
	__u32 priority;
	__u16 gso_size;
	__u16 csum_start;
	__u16 csum_offset;
	__u16 vlan_proto;
	__u16 vlan_tci;
	__u16 queue;
	__u8 flags;
	__u8 ip_summed;
	__u8 origin;
	__u8 unused;
};

const struct sample *sample_layout; /* keeps the type in the object, for a test */

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} samples SEC(".maps");

static __always_inline enum origin origin_of(void *location)
{
	__u64 at = (__u64)location;
	int i;

#pragma unroll
	for (i = 0; i < SPANS; i++)
		if (at >= spans[i].start && at < spans[i].end)
			return spans[i].origin;
	return ORIGIN_DRIVER;
}

/* Is this frame on its way out through the interface? */
static __always_inline bool outgoing(struct sk_buff *skb, int ifindex)
{
	__u8 type = BPF_CORE_READ_BITFIELD(skb, pkt_type);
	__u16 mac = skb->mac_header;

	if (skb->len < ETH_HLEN)
		return false;
	if (type == PACKET_OUTGOING || type == PACKET_LOOPBACK)
		return false;
	if (skb->skb_iif == ifindex)
		return false;
	if (mac == MAC_HEADER_UNSET)
		return skb->sk != 0;
	return skb->data <= skb->head + mac;
}

/*
 * While an interface's queueing discipline is exchanged, it has the one that
 * refuses everything (dev_deactivate_many(), net/sched/sch_generic.c), and what is
 * sent in that moment is lost without a word to its sender. That one is built in. If
 * the next one is there already, it was not that which refused the frame as long as
 * it has refused none.
 */
static __always_inline bool in_exchange(struct net_device *dev, __u16 queue)
{
	char *queues = (char *)BPF_CORE_READ(dev, _tx);
	struct netdev_queue *q;
	struct Qdisc *qdisc;

	q = (void *)(queues + queue * bpf_core_type_size(struct netdev_queue));
	qdisc = BPF_CORE_READ(q, qdisc);
	return (BPF_CORE_READ(qdisc, flags) & TCQ_F_BUILTIN) ||
	       BPF_CORE_READ(qdisc, qstats.drops) == 0;
}

static __always_inline void take(void *ctx, struct sk_buff *skb, enum origin origin, __u8 flags)
{
	struct sample s = {};
	struct skb_shared_info *shared;
	__u16 mac = skb->mac_header;
	__u64 len;
	long err;

	s.number = __sync_fetch_and_add(&seen, 1);
	s.len = skb->len;
	s.priority = skb->priority;
	s.queue = skb->queue_mapping;
	s.origin = origin;
	s.pull = mac == MAC_HEADER_UNSET ? 0 : mac - (__u32)(skb->data - skb->head);
	s.ip_summed = BPF_CORE_READ_BITFIELD(skb, ip_summed);
	s.csum_start = skb->csum_start - (__u16)(skb->data - skb->head);
	s.csum_offset = skb->csum_offset;
	s.vlan_proto = skb->vlan_proto;
	s.vlan_tci = skb->vlan_tci;
	if (bpf_core_field_exists(skb->vlan_present) ? BPF_CORE_READ_BITFIELD(skb, vlan_present)
						     : skb->vlan_all != 0)
		flags |= SAMPLE_VLAN;
	if (bpf_core_field_exists(skb->csum_not_inet) && BPF_CORE_READ_BITFIELD(skb, csum_not_inet))
		flags |= SAMPLE_CRC;
	s.flags = flags;
	shared = (void *)(skb->head + skb->end);
	s.gso_size = BPF_CORE_READ(shared, gso_size);
	s.gso_type = BPF_CORE_READ(shared, gso_type);

	len = s.len;
	if (len > MAX_SAMPLE - sizeof(s)) {
		__sync_fetch_and_add(&failed, 1);
		return;
	}
	err = bpf_skb_output(skb, &samples, (len << 32) | BPF_F_CURRENT_CPU, &s, sizeof(s));
	if (!err)
		__sync_fetch_and_add(&taken, 1);
	else if (err == -ENOSPC)
		__sync_fetch_and_add(&lost, 1);
	else
		__sync_fetch_and_add(&failed, 1);
}

static __always_inline int freed(void *ctx, struct sk_buff *skb, enum origin origin)
{
	struct net_device *dev = skb->dev;
	int ifindex = BPF_CORE_READ(dev, ifindex);

	if (!ifindex)
		return 0;
	if (ifindex == device) {
		if (!outgoing(skb, ifindex))
			return 0;
		if (alive && origin == ORIGIN_DRIVER && (BPF_CORE_READ(dev, state) & LINK_STATE_START))
			return 0;
		take(ctx, skb, origin, 0);
	} else if (ifindex == proxy) {
		if (origin == ORIGIN_REQUEUED || origin == ORIGIN_QUEUED ||
		    (origin == ORIGIN_REFUSED && in_exchange(dev, skb->queue_mapping)))
			take(ctx, skb, origin, SAMPLE_BEHIND);
	} else if (ifindex == port && origin == ORIGIN_REFUSED) {
		take(ctx, skb, origin, SAMPLE_BEHIND);
	}
	return 0;
}

SEC("tp_btf/consume_skb")
int BPF_PROG(consumed, struct sk_buff *skb)
{
	return freed(ctx, skb, ORIGIN_DRIVER);
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(dropped, struct sk_buff *skb, void *location)
{
	return freed(ctx, skb, origin_of(location));
}
