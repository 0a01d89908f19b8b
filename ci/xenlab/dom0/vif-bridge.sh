#!/bin/sh
# What xl runs for a paravirtual network card: it comes on the one bridge that dom0 has,
# and the back end, which waits for this, goes on. The kernel takes it off again.
exec >>/var/log/xen/vif.log 2>&1
set -e
[ "$1" = online ] || exit 0
brctl addif xenbr0 "$vif"
ip link set "$vif" up
xenstore-write "$XENBUS_PATH/hotplug-status" connected
