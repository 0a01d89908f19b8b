# Nothing is forwarded before the rules are in force, and nothing if they are wrong.
set -eu
/usr/sbin/nft -f /etc/nftables.conf
echo 1 >/proc/sys/net/ipv4/ip_forward
echo "rules are in force, forwarding"
