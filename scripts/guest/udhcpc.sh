#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Called by udhcpc with what the DHCP server said.

case $1 in
bound | renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/$mask" dev "$interface"
	[ -z "$router" ] || ip route add default via "${router%% *}" dev "$interface"
	;;
esac
