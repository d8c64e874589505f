# SPDX-License-Identifier: Apache-2.0
# How the guest reports: one JSON object a line, written as a kernel message, which no other output can cut into.

echo on >/proc/sys/kernel/printk_devkmsg # no rate limit
SEQUENCE=0
ALL_OK=true

# emit EVENT OK FIELDS: FIELDS is the inside of a JSON object.
emit() {
	[ "$2" = true ] || ALL_OK=false
	echo "<0>@cosim {\"seq\":$SEQUENCE,\"event\":\"$1\",\"ok\":$2${3:+,$3}}" >/dev/kmsg
	SEQUENCE=$((SEQUENCE + 1))
}

# fail EVENT NAME ERROR
fail() {
	emit "$1" false "\"name\":$(quote "$2"),\"error\":$(quote "$3")"
}

# quote TEXT: as a JSON string; short, because a kernel message is.
quote() {
	printf '"%s"' "$(printf %.300s "$1" | tr '\001-\037\177-\377"\\' ' ')"
}

# now: sets NOW to the microseconds since boot, without starting a process.
now() {
	{ read -r _ && read -r _ && read -r _ _ nanoseconds _; } </proc/timer_list
	NOW=$((nanoseconds / 1000))
}

# parameter NAME DEFAULT: from the kernel command line, or what the agent was told last.
TOLD=
parameter() {
	value=$2
	for word in $(cat /proc/cmdline) $TOLD; do
		case $word in "$1="*) value=${word#*=} ;; esac
	done
	echo "$value"
}
