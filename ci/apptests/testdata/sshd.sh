# What Debian's init script and postinst do for sshd.
set -eu
mkdir -p /run/sshd
key=/etc/ssh/ssh_host_ed25519_key
[ -e $key ] || ssh-keygen -q -t ed25519 -N '' -f $key
exec /usr/sbin/sshd -D -e
