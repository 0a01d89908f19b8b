/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0 */
/*
 * The few kernel structures that the programs beside this file look into, with
 * the few members they use. The loader moves every access to where the running
 * kernel has that member (CO-RE); neither order nor size matters here.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum { false, true };
typedef _Bool bool;

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
};
#define BPF_F_CURRENT_CPU 0xffffffffULL

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct gnet_stats_queue {
	__u32 drops;
};

struct sk_buff;

struct sk_buff_head {
	struct sk_buff *next;
	__u32 qlen;
};

struct Qdisc {
	unsigned int flags;
	struct sk_buff_head gso_skb;
	struct sk_buff_head skb_bad_txq;
	struct gnet_stats_queue qstats;
};

struct netdev_queue {
	struct Qdisc *qdisc;
	unsigned long trans_start; /* jiffies */
	unsigned long state;
};

struct net_device {
	struct netdev_queue *_tx;
	int ifindex;
	int watchdog_timeo; /* jiffies */
	unsigned long state;
	__u64 features;
	unsigned long lltx : 1; /* since 6.12 */
};

struct sock;

struct sk_buff {
	struct sk_buff *next;
	struct net_device *dev;
	struct sock *sk;
	unsigned int len;
	unsigned int end;
	unsigned char *head;
	unsigned char *data;
	int skb_iif;
	__u32 priority;
	__u16 queue_mapping;
	__u16 network_header;
	__u16 mac_header;
	__u16 csum_start;
	__u16 csum_offset;
	__u16 vlan_proto;
	__u16 vlan_tci;
	__u32 vlan_all;        /* since 6.2 */
	__u8 vlan_present : 1; /* until 6.1 */
	__u8 pkt_type : 3;
	__u8 ip_summed : 2;
	__u8 csum_not_inet : 1; /* with SCTP only */
};

struct skb_shared_info {
	unsigned short gso_size;
	unsigned int gso_type;
};

#pragma clang attribute pop
