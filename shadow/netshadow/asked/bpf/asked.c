// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
/* Tell user space what is asked of interfaces and announced to nobody. */
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

/* linux/ethtool.h */
#define ETHTOOL_SRXFH 0x2a
#define ETHTOOL_SRXCLSRLDEL 0x31
#define ETHTOOL_SRXCLSRLINS 0x32
#define ETHTOOL_SRXFHINDIR 0x39
#define ETHTOOL_SRSSH 0x47

#define SIOCSHWTSTAMP 0x89b0 /* linux/sockios.h */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net_device {
	int ifindex;
};
struct sockaddr {
	__u16 sa_family;
};
#pragma clang attribute pop
struct netlink_ext_ack;
struct net;
struct ifreq;

enum { ADDRESS, CALL };

struct request {
	__u32 kind;
	__u32 ifindex; /* of ADDRESS */
	__u8 mac[8];   /* of ADDRESS; the last two are padding */
};

const struct request *request_layout; /* keeps the type in the object, for a test */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} requests SEC(".maps");

SEC("fexit/dev_set_mac_address")
int BPF_PROG(address, struct net_device *dev, struct sockaddr *sa, struct netlink_ext_ack *extack, int ret)
{
	struct request r = { .kind = ADDRESS };

	if (ret || sa->sa_family != ARPHRD_ETHER)
		return 0;
	r.ifindex = dev->ifindex;
	/* sa_data follows sa_family; its length is the address's, not that of the array. */
	if (bpf_probe_read_kernel(r.mac, 6, (void *)sa + sizeof(__u16)))
		return 0;
	bpf_ringbuf_output(&requests, &r, sizeof(r), 0);
	return 0;
}

static void called(void)
{
	struct request r = { .kind = CALL };

	bpf_ringbuf_output(&requests, &r, sizeof(r), 0);
}

SEC("fexit/dev_ethtool")
int BPF_PROG(ethtool, struct net *net, struct ifreq *ifr, void *data, int ret)
{
	__u32 command;

	if (ret)
		return 0;
	/* A command that can no longer be read may have been any. */
	if (bpf_probe_read_user(&command, sizeof(command), data))
		command = ETHTOOL_SRSSH;
	switch (command) {
	case ETHTOOL_SRXFH:
	case ETHTOOL_SRXCLSRLDEL:
	case ETHTOOL_SRXCLSRLINS:
	case ETHTOOL_SRXFHINDIR:
	case ETHTOOL_SRSSH:
		called();
	}
	return 0;
}

SEC("fexit/dev_ioctl")
int BPF_PROG(ioctl, struct net *net, unsigned int command, struct ifreq *ifr, void *data, _Bool *copyout, int ret)
{
	if (!ret && command == SIOCSHWTSTAMP)
		called();
	return 0;
}
