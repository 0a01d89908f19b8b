// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
/* Tell user space which hardware address somebody gives to an interface. */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
enum bpf_map_type { BPF_MAP_TYPE_RINGBUF = 27 };

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define ARPHRD_ETHER 1 /* linux/if_arp.h */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net_device {
	int ifindex;
};
struct sockaddr {
	__u16 sa_family;
};
#pragma clang attribute pop
struct netlink_ext_ack;

struct asked {
	__u32 ifindex;
	__u8 mac[8]; /* the last two are padding */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} addresses SEC(".maps");

SEC("fexit/dev_set_mac_address")
int BPF_PROG(asked, struct net_device *dev, struct sockaddr *sa, struct netlink_ext_ack *extack, int ret)
{
	struct asked a = {};

	if (ret || sa->sa_family != ARPHRD_ETHER)
		return 0;
	a.ifindex = dev->ifindex;
	/* sa_data follows sa_family; its length is the address's, not that of the array. */
	if (bpf_probe_read_kernel(a.mac, 6, (void *)sa + sizeof(__u16)))
		return 0;
	bpf_ringbuf_output(&addresses, &a, sizeof(a), 0);
	return 0;
}
