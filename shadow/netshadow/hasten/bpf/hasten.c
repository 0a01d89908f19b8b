// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
/* Tell user space where each TCP connection stands. */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
enum bpf_map_type { BPF_MAP_TYPE_UNSPEC };

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define AF_INET 2 /* linux/socket.h */
#define AF_INET6 10

/* States in which the other side may send (net/tcp_states.h). */
#define TCP_ESTABLISHED 1
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct in6_addr {
	__u8 any[16];
};
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	__u16 skc_family;
	volatile __u8 skc_state;
	int skc_bound_dev_if;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct tcp_sock {
	__u32 rcv_nxt;
};
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};
#pragma clang attribute pop

struct connection {
	__u32 next;
	__u32 bound;
	__u16 family;
	__u16 local_port;
	__u16 peer_port;
	__u16 padding;
	__u8 local[16]; /* of AF_INET the first four */
	__u8 peer[16];
};

const struct connection *connection_layout; /* keeps the type in the object, for a test */

SEC("iter/tcp")
int connections(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct connection c = {};
	struct tcp_sock *tp;
	__u8 state;

	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk); /* none of one that waits or is being opened */
	if (!tp)
		return 0;
	state = sk->skc_state;
	if (state != TCP_ESTABLISHED && state != TCP_FIN_WAIT1 && state != TCP_FIN_WAIT2)
		return 0;
	c.next = tp->rcv_nxt;
	c.bound = sk->skc_bound_dev_if;
	c.family = sk->skc_family;
	c.local_port = sk->skc_num;
	c.peer_port = bpf_ntohs(sk->skc_dport);
	if (c.family == AF_INET) {
		__be32 local = sk->skc_rcv_saddr, peer = sk->skc_daddr;

		__builtin_memcpy(c.local, &local, sizeof(local));
		__builtin_memcpy(c.peer, &peer, sizeof(peer));
	} else if (c.family == AF_INET6) {
		bpf_core_read(c.local, sizeof(c.local), &sk->skc_v6_rcv_saddr);
		bpf_core_read(c.peer, sizeof(c.peer), &sk->skc_v6_daddr);
	} else {
		return 0;
	}
	/* What does not fit is asked for again by the kernel. */
	bpf_seq_write(ctx->meta->seq, &c, sizeof(c));
	return 0;
}
