// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
/* Tell user space that the hypervisor changed the VM generation id. */
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} times SEC(".maps");

SEC("fentry/vmgenid_notify")
int BPF_PROG(notified)
{
	__u64 now = bpf_ktime_get_ns(); /* CLOCK_MONOTONIC */

	bpf_ringbuf_output(&times, &now, sizeof(now), 0);
	return 0;
}
