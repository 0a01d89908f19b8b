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
#define LINK_STATE_START (1UL << 0)     /* of net_device.state: enum netdev_state_t */
#define LINK_STATE_NOCARRIER (1UL << 2)
#define QUEUE_STATE_ANY_XOFF 3UL /* of netdev_queue.state: stopped by driver or byte limit */
#define FEATURE_LLTX (1ULL << 12) /* of net_device.features: NETIF_F_LLTX_BIT, until 6.11 */

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

/*
 * The functions that free a frame which is not in the driver, by the names that the
 * kernel gives to the places they do it at (net/sched/sch_generic.c,
 * net/core/rtnetlink.c, net/core/skbuff.c of 6.1). One that inlines kfree_skb() is
 * itself that place.
 */
#define NAME 24

static const struct {
	char name[NAME];
	__u64 origin;
} freers[] = {
	{"qdisc_reset", ORIGIN_REQUEUED}, /* its gso_skb and skb_bad_txq lists */
	{"pfifo_fast_reset", ORIGIN_QUEUED},
	{"__rtnl_unlock", ORIGIN_QUEUED}, /* all that used rtnl_kfree_skbs(), fq_codel for one */
	{"kfree_skb_list_reason", ORIGIN_REFUSED}, /* __dev_xmit_skb() */
	{"kfree_skb_list", ORIGIN_REFUSED},        /* the same before 5.19 */
	{"__fq_codel_dequeue", ORIGIN_REFUSED}, /* what has waited too long, in Debian 12's */
	{"fq_codel_dequeue", ORIGIN_REFUSED},   /* and in upstream's */
	{"drop_func", ORIGIN_REFUSED},          /* where it is not inlined in those */
};

#define FREERS (sizeof(freers) / sizeof(freers[0]))

enum part {
	PART_DEVICE, /* the interface whose driver goes */
	PART_PROXY,  /* the one above it */
	PART_PORT,   /* the one that the proxy's frames are released to */
};

/* What an interface is to a role. */
struct aim {
	__u8 role;
	__u8 part;
	__u8 alive; /* the device works: what it frees while it runs was sent */
	__u8 unused;
};

#define ROLES 64

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4 * ROLES);
	__type(key, __u32); /* ifindex */
	__type(value, struct aim);
} aims SEC(".maps");

/* An interface that nothing is harvested of now: see Field.Watch. */
struct watch {
	__u64 since;
	__u32 taken; /* since then */
	__u16 sent;  /* since then */
	__u8 role;
	__u8 mixes; /* the driver frees what it sent as it frees what it gives up */
	__u64 trouble; /* when it began last */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ROLES);
	__type(key, __u32); /* ifindex */
	__type(value, struct watch);
} watched SEC(".maps");

/* Unsent frames that were freed. Those that do not reach user space are lost. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ROLES);
	__type(key, __u32); /* role */
	__type(value, __u64);
} seen SEC(".maps");

#define SAMPLE_VLAN (1 << 0)   /* a tag is in vlan_proto and vlan_tci */
#define SAMPLE_CRC (1 << 1)    /* the checksum is a CRC32c */
#define SAMPLE_BEHIND (1 << 2) /* freed on proxy or port: left after all others */
#define SAMPLE_EARLY (1 << 3)  /* freed while nothing was harvested; number is the time, in ns */
#define SAMPLE_SENT (1 << 4)   /* with EARLY: no loss, the driver frees what it sent so */
#define SAMPLE_TROUBLE (1 << 5) /* with EARLY: no frame, the device may be reset now */

struct sample {
	__u64 number; /* of the role's freed frame, in order over all CPUs; see SAMPLE_EARLY */
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
	__u8 role;
};

const struct sample *sample_layout; /* keeps the type in the object, for a test */

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} samples SEC(".maps");

/*
 * The kernel names the place itself: to read the addresses of all its functions
 * takes longer than all else that makes a harvest ready.
 */
static __always_inline enum origin origin_of(void *location)
{
	union {
		char text[NAME];
		__u64 words[NAME / 8];
	} name = {};
	__u64 args[] = {(__u64)location};
	static const char fmt[] = "%ps";
	bool suffix = false; /* a compiler's, such as ".isra.0" */
	int i;

	if (!location)
		return ORIGIN_DRIVER;
	bpf_snprintf(name.text, sizeof(name), fmt, args, sizeof(args));
#pragma unroll
	for (i = 0; i < NAME; i++) {
		suffix |= name.text[i] == '.';
		if (suffix)
			name.text[i] = 0;
	}
#pragma unroll
	for (i = 0; i < FREERS; i++) {
		const __u64 *want = (const void *)freers[i].name;

		if (name.words[0] == want[0] && name.words[1] == want[1] && name.words[2] == want[2])
			return freers[i].origin;
	}
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
		return skb->sk != 0 && skb->data != skb->head + skb->network_header;
	return skb->data <= skb->head + mac;
}

static __always_inline struct netdev_queue *queue_of(struct net_device *dev, __u16 queue)
{
	char *queues = (char *)BPF_CORE_READ(dev, _tx);

	return (void *)(queues + queue * bpf_core_type_size(struct netdev_queue));
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
	struct Qdisc *qdisc = BPF_CORE_READ(queue_of(dev, queue), qdisc);

	return (BPF_CORE_READ(qdisc, flags) & TCQ_F_BUILTIN) ||
	       BPF_CORE_READ(qdisc, qstats.drops) == 0;
}

static __always_inline void copy(struct sk_buff *skb, __u8 role, __u64 number, __u8 flags, enum origin origin)
{
	struct sample s = {};
	struct skb_shared_info *shared;
	__u16 mac = skb->mac_header;
	__u64 len;

	s.number = number;
	s.role = role;
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
	if (len <= MAX_SAMPLE - sizeof(s))
		bpf_skb_output(skb, &samples, (len << 32) | BPF_F_CURRENT_CPU, &s, sizeof(s));
}

static __always_inline void take(struct sk_buff *skb, struct aim *aim, enum origin origin)
{
	__u32 role = aim->role;
	__u64 *count = bpf_map_lookup_elem(&seen, &role);

	if (count)
		copy(skb, role, __sync_fetch_and_add(count, 1),
		     aim->part == PART_DEVICE ? 0 : SAMPLE_BEHIND, origin);
}

/* location is where the frame was freed, 0 if it was consumed. */
static __always_inline int freed(struct sk_buff *skb, void *location)
{
	struct net_device *dev = skb->dev;
	__u32 ifindex = BPF_CORE_READ(dev, ifindex);
	struct aim *aim = bpf_map_lookup_elem(&aims, &ifindex);
	enum origin origin;

	if (!aim || (aim->part == PART_DEVICE && !outgoing(skb, ifindex)))
		return 0;
	origin = origin_of(location);
	switch (aim->part) {
	case PART_DEVICE:
		if (aim->alive && origin == ORIGIN_DRIVER && (BPF_CORE_READ(dev, state) & LINK_STATE_START))
			return 0;
		break;
	case PART_PROXY:
		if (origin != ORIGIN_REQUEUED && origin != ORIGIN_QUEUED &&
		    !(origin == ORIGIN_REFUSED && in_exchange(dev, skb->queue_mapping)))
			return 0;
		break;
	case PART_PORT:
		if (origin != ORIGIN_REFUSED)
			return 0;
		break;
	}
	take(skb, aim, origin);
	return 0;
}

/*
 * What is lost before anything is harvested: a driver that watches its link takes
 * dead hardware for a pulled cable, and without a carrier the kernel empties the
 * interface's queue and refuses what comes (net/sched/sch_generic.c,
 * dev_deactivate_many()). And the kernel watches the queue: if nothing has been sent
 * for seconds it has the driver reset the device, which empties its ring. The
 * programs on these functions run then, and else never; nobody pays for them.
 */

#define EARLY_WINDOW 2000000000ULL /* ns: of a cable that stays out, the first ... */
#define EARLY_FRAMES 1024	   /* ... frames in that time are copied */
#define EARLY_SENT 16 /* dropped frames in that time, of a device that works, are no accident */

/* Whether dropped() is attached. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} listening SEC(".maps");

/* The entry of the interface that the frame was to leave by, its window the present one. */
static __always_inline struct watch *watch_of(struct sk_buff *skb)
{
	struct net_device *dev = skb->dev;
	__u32 ifindex = BPF_CORE_READ(dev, ifindex);
	struct watch *w = bpf_map_lookup_elem(&watched, &ifindex);
	__u64 now;

	if (!w || !outgoing(skb, ifindex))
		return 0;
	now = bpf_ktime_get_ns();
	if (now - w->since > EARLY_WINDOW) {
		w->since = now;
		w->taken = 0;
		w->sent = 0;
	}
	return w;
}

static __always_inline void early(struct sk_buff *skb, struct watch *w, enum origin origin)
{
	if (!w || w->taken >= EARLY_FRAMES)
		return;
	w->taken++;
	copy(skb, w->role, bpf_ktime_get_ns(), SAMPLE_EARLY, origin);
}

SEC("fentry/noop_enqueue")
int BPF_PROG(refused, struct sk_buff *skb)
{
	early(skb, watch_of(skb), ORIGIN_REFUSED);
	return 0;
}

#define TROUBLE 30000000000ULL /* ns: how long after a sign of it a reset may begin */

static __always_inline bool in_trouble(struct watch *w)
{
	return w->trouble && bpf_ktime_get_ns() - w->trouble < TROUBLE;
}

/*
 * Does dropped() look at the frames of this interface? It sees them later than the
 * functions that take them off a queue, and it may be for the harvest by then: one of
 * the two has to have them.
 */
static __always_inline bool seen_when_freed(struct watch *w)
{
	__u32 zero = 0;
	__u32 *on = bpf_map_lookup_elem(&listening, &zero);

	return on && *on && (!w->mixes || in_trouble(w));
}

struct purge {
	struct sk_buff *next;
	struct sk_buff *tail;
	enum origin origin;
};

static long purge_one(__u32 i, struct purge *p)
{
	struct sk_buff *skb = p->next;
	struct watch *w;

	if (!skb)
		return 1;
	w = watch_of(skb);
	if (w && !seen_when_freed(w))
		early(skb, w, p->origin);
	p->next = skb->next;
	return skb == p->tail;
}

/* All that fq_codel had, flow by flow. */
SEC("fentry/rtnl_kfree_skbs")
int BPF_PROG(purged, struct sk_buff *head, struct sk_buff *tail)
{
	struct purge p = {head, tail, ORIGIN_QUEUED};

	bpf_loop(EARLY_FRAMES, purge_one, &p, 0);
	return 0;
}

/* What had been taken off the queue, and refused by the driver. */
SEC("fentry/qdisc_reset")
int BPF_PROG(reset, struct Qdisc *qdisc)
{
	struct purge requeued = {qdisc->gso_skb.next, 0, ORIGIN_REQUEUED};
	struct purge bad = {qdisc->skb_bad_txq.next, 0, ORIGIN_REQUEUED};

	bpf_loop(qdisc->gso_skb.qlen, purge_one, &requeued, 0);
	bpf_loop(qdisc->skb_bad_txq.qlen, purge_one, &bad, 0);
	return 0;
}

/*
 * Has the queue come to a standstill? A driver that resets its device takes the carrier
 * away first, or stops its queues. One that does it at once when the kernel says so
 * (ndo_tx_timeout) may have started them again by the time its frames are freed: then
 * nothing has been sent for as long as dev_watchdog() waits. Where the driver does the
 * locking, nobody keeps that time for it (txq_trans_update()).
 */
static __always_inline bool at_rest(struct net_device *dev, __u16 queue)
{
	struct netdev_queue *q = queue_of(dev, queue);
	int patience = BPF_CORE_READ(dev, watchdog_timeo);
	bool own_lock;

	if ((BPF_CORE_READ(dev, state) & LINK_STATE_NOCARRIER) ||
	    (BPF_CORE_READ(q, state) & QUEUE_STATE_ANY_XOFF))
		return true;
	own_lock = bpf_core_field_exists(dev->lltx) ? BPF_CORE_READ_BITFIELD_PROBED(dev, lltx)
						    : BPF_CORE_READ(dev, features) & FEATURE_LLTX;
	return !own_lock && patience > 0 &&
	       bpf_jiffies64() - BPF_CORE_READ(q, trans_start) > (__u64)patience / 2;
}

/*
 * What a driver gives up when it resets its device, of an interface that nothing is
 * harvested of yet. If the driver frees as dropped only what it gives up, a packet that
 * is sent never comes by here, and pays nothing. One that does not tell the two apart is
 * found out by its first packets, for they are freed here while all is well.
 */
static __always_inline void given_up(struct sk_buff *skb, struct watch *w, void *location)
{
	enum origin origin;

	if (w->mixes && !in_trouble(w))
		return;
	origin = origin_of(location);
	if (origin == ORIGIN_REFUSED)
		return; /* see refused() */
	if (origin != ORIGIN_DRIVER || at_rest(skb->dev, skb->queue_mapping)) {
		early(skb, w, origin);
	} else if (!w->mixes && ++w->sent >= EARLY_SENT) {
		w->mixes = 1;
		copy(skb, w->role, 0, SAMPLE_EARLY | SAMPLE_SENT, ORIGIN_DRIVER);
	}
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(dropped, struct sk_buff *skb, void *location)
{
	struct watch *w = watch_of(skb);

	if (!w)
		return freed(skb, location);
	given_up(skb, w, location);
	return 0;
}

SEC("tp_btf/consume_skb")
int BPF_PROG(consumed, struct sk_buff *skb)
{
	struct watch *w = watch_of(skb);

	if (!w)
		return freed(skb, 0);
	if (in_trouble(w) && at_rest(skb->dev, skb->queue_mapping))
		early(skb, w, ORIGIN_DRIVER);
	return 0;
}

/* A sign of a reset to come: user space is told. */
static __always_inline void warn(void *ctx, struct net_device *dev)
{
	__u32 ifindex = BPF_CORE_READ(dev, ifindex);
	struct watch *w = bpf_map_lookup_elem(&watched, &ifindex);
	struct sample s = {.flags = SAMPLE_EARLY | SAMPLE_TROUBLE};

	if (!w)
		return;
	s.number = w->trouble = bpf_ktime_get_ns();
	s.role = w->role;
	bpf_perf_event_output(ctx, &samples, BPF_F_CURRENT_CPU, &s, sizeof(s));
}

SEC("tp_btf/net_dev_xmit_timeout")
int BPF_PROG(timed_out, struct net_device *dev)
{
	warn(ctx, dev);
	return 0;
}

SEC("fentry/netif_carrier_off")
int BPF_PROG(carrier_off, struct net_device *dev)
{
	if (!(BPF_CORE_READ(dev, state) & LINK_STATE_NOCARRIER))
		warn(ctx, dev);
	return 0;
}
