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
	printf '"%s"' "$(printf %s "$1" | tr -c '[:print:]' ' ' | sed 's/[\\"]/\\&/g' | cut -c 1-300)"
}

# now: sets NOW to the milliseconds since boot, without starting a process.
now() {
	read -r uptime _ </proc/uptime
	NOW=$((${uptime%.*} * 1000 + (1${uptime#*.} - 100) * 10))
}

# parameter NAME DEFAULT: from the kernel command line.
parameter() {
	value=$2
	for word in $(cat /proc/cmdline); do
		case $word in "$1="*) value=${word#*=} ;; esac
	done
	echo "$value"
}
