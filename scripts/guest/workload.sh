# SPDX-License-Identifier: Apache-2.0
# What the guest does with its devices. Every step reports by itself, and the next one runs even if it failed.

set -o pipefail
BLOCK=4096
MIB=1048576
READ_PART=128 # blocks of a disk that cosim.load reads in one go: starting programs takes time, too
WRITE_PART=32 # writes, twice, and reads back
VIRTIO_BLK_SERIAL=cosim-vblk
NVME_SERIAL=cosim-nvme
MORE_DISKS='usb-storage virtio-scsi ahci virtio-blk-mq' # the serial of each is cosim-NAME
STDERR=/tmp/stderr
PATIENCE_S=30
STUCK_S=30

workload() {
	report_iommu
	report_table IORT
	[ ! -e /proc/vmcore ] || emit vmcore true "\"bytes\":$(stat -c %s /proc/vmcore)"
	exercise
}

exercise() {
	! used virtio-blk || read_disk virtio-blk $VIRTIO_BLK_SERIAL
	! used nvme || read_disk nvme $NVME_SERIAL
	! used virtio-blk || write_disk virtio-blk $VIRTIO_BLK_SERIAL
	for disk in $MORE_DISKS; do
		! used "$disk" || read_disk "$disk" "cosim-$disk"
		! used "$disk" || write_disk "$disk" "cosim-$disk"
	done
	! used virtio-net || use_network virtio-net virtio_net
	! used e1000e || use_network e1000e e1000e
	! used e1000 || use_network e1000 e1000
	! used igb || use_network igb igb
	! used igb || use_functions igb igbvf 2
	reads=$(parameter cosim.bench 0)
	if [ "$reads" -gt 0 ]; then
		bench_disk virtio-blk $VIRTIO_BLK_SERIAL "$reads"
		bench_disk nvme $NVME_SERIAL "$reads"
	fi
	reads=$(parameter cosim.parallel 0)
	[ "$reads" -eq 0 ] || bench_parallel "$reads"
	rounds=$(parameter cosim.compute 0)
	[ "$rounds" -eq 0 ] || bench_compute "$rounds"
	seconds=$(parameter cosim.load 0)
	[ "$seconds" -eq 0 ] || load "$seconds"
}

# used DEVICE: whether it is part of the workload.
used() {
	case ,$(parameter cosim.devices virtio-blk,nvme,virtio-net,e1000e), in *,"$1",*) ;; *) return 1 ;; esac
}

# agent: once the devices are there, a workload for each line `workload PARAMETER…` on the console, for `attack PARAMETER…`
# after the attacks on a protected VM, until `end`.
agent() {
	stty -echo
	! used virtio-blk || find_disk $VIRTIO_BLK_SERIAL || fail agent virtio-blk 'no disk'
	! used nvme || find_disk $NVME_SERIAL || fail agent nvme 'no disk'
	emit ready true ''
	while read -r command TOLD; do
		case $command in
		workload)
			ALL_OK=true
			emit told true ''
			watched exercise
			emit worked $ALL_OK ''
			;;
		attack)
			ALL_OK=true
			emit told true ''
			attack_vm "$(parameter cosim.storm 0)"
			watched exercise
			emit worked $ALL_OK ''
			;;
		end) return ;;
		*) emit agent false "\"error\":$(quote "unknown command $command")" ;;
		esac
	done
}

# watched FUNCTION: runs it, and reports where its processes are in the kernel when it takes long: a guest that hangs does not say so itself.
watched() {
	report_waits &
	reporter=$!
	"$@"
	kill $reporter 2>/dev/null
}

# report_waits: after a while, the innermost kernel functions of each process that waits there, but for shells that wait for others.
report_waits() {
	sleep $STUCK_S &
	trap "kill $!; exit" TERM
	wait
	for process in /proc/[0-9]*; do
		words=$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null)
		[ -n "$words" ] || continue
		calls=$(awk '{ sub(/\+.*/, "", $2); printf "%s%s", (NR > 1 ? " < " : ""), $2 } NR == 4 { exit }' "$process/stack" 2>/dev/null)
		case $calls in '' | do_wait* | pipe_read* | do_notify_resume*) continue ;; esac
		emit waits true "\"name\":$(quote "$words"),\"calls\":$(quote "$calls")"
	done
}

# remote: what the host asks for on the second serial port (agent/README.md), once the devices are there.
remote() {
	[ -x /bin/agent ] || { emit error false '"error":"this initramfs has no agent"'; return; }
	! used virtio-blk || find_disk $VIRTIO_BLK_SERIAL || fail agent virtio-blk 'no disk'
	! used nvme || find_disk $NVME_SERIAL || fail agent nvme 'no disk'
	emit ready true ''
	/bin/agent /dev/ttyAMA1 2>$STDERR || fail agent remote "$(cat $STDERR)"
}

# mount_share HOW: the host's folder at /share, `ro` or `rw`.
mount_share() {
	grep -qw 9p /proc/filesystems || {
		fail share 9p 'this kernel has no 9p: NET_9P_VIRTIO and 9P_FS, built in or as modules'
		return 1
	}
	mkdir -p /share
	mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,$1" share /share 2>$STDERR || {
		fail share 9p "$(cat $STDERR)"
		return 1
	}
	emit share true "\"how\":\"$1\""
}

# attack_vm STORM: the protected VM and the attacks on it, and as many VMs more under attack; reported line by line.
attack_vm() {
	el2_attack table
	[ "$1" -eq 0 ] || el2_attack storm "$1"
}

el2_attack() {
	[ -x /bin/attack ] || { emit attack false '"error":"this initramfs has no attack program"'; return; }
	rm -f /tmp/attacks
	mkfifo /tmp/attacks
	/bin/attack "$@" >/tmp/attacks 2>$STDERR &
	told=false
	while read -r event ok fields; do
		told=true
		emit "$event" "$ok" "$fields"
	done </tmp/attacks
	wait $! || $told || emit attack false "\"error\":$(quote "$(cat $STDERR)")"
}

load_modules() {
	while read -r module; do
		# shellcheck disable=SC2046 # a parameter is a word
		insmod "/lib/modules/$module" $(module_parameters "$module") 2>$STDERR || fail module "$module" "$(cat $STDERR)"
	done </lib/modules/order
}

# module_parameters FILE: those of the kernel command line, `nvme_core.io_timeout=10`, as modprobe passes them on.
module_parameters() {
	tr ' ' '\n' </proc/cmdline | sed -n "s/^$(basename "$1" .ko | tr - _)\.//p"
}

# Which IOMMU group each PCI device is in, and how its DMA is translated.
report_iommu() {
	for device in /sys/bus/pci/devices/*; do
		driver='' group='' type=''
		[ ! -e "$device/driver" ] || driver=$(readlink "$device/driver")
		[ ! -e "$device/iommu_group" ] || group=$(readlink "$device/iommu_group")
		[ ! -e "$device/iommu_group" ] || read -r type <"$device/iommu_group/type"
		emit iommu true "\"device\":\"${device##*/}\",\"driver\":\"${driver##*/}\",\"group\":\"${group##*/}\",\"type\":\"$type\""
	done
}

# report_table NAME: an ACPI table, if the machine has it, in parts that fit into a kernel message.
report_table() {
	table=/sys/firmware/acpi/tables/$1
	[ -e "$table" ] || return 0
	size=$(stat -c %s "$table")
	offset=0
	while [ $offset -lt "$size" ]; do
		part=$(dd if="$table" bs=256 skip=$((offset / 256)) count=1 2>/dev/null | hexdump -v -e '1/1 "%02x"')
		emit acpi true "\"name\":\"$1\",\"bytes\":$size,\"offset\":$offset,\"hex\":\"$part\""
		offset=$((offset + 256))
	done
}

# find_disk SERIAL: sets DISK to the device name and BLOCKS to its size; waits for a driver that is still probing.
find_disk() {
	now
	deadline=$((NOW + $(parameter cosim.patience $PATIENCE_S) * 1000000))
	while [ "$NOW" -lt $deadline ]; do
		for file in /sys/block/*/serial /sys/block/*/device/serial; do
			serial=$(cat "$file" 2>/dev/null) # nvme pads it with spaces
			[ "${serial%% *}" = "$1" ] || continue
			DISK=${file#/sys/block/}
			DISK=${DISK%%/*}
			BLOCKS=$(($(cat "/sys/block/$DISK/size") * 512 / BLOCK))
			return 0
		done
		for file in /sys/block/sd*; do
			[ "$(scsi_serial "$file")" = "$1" ] || continue
			DISK=${file##*/}
			BLOCKS=$(($(cat "$file/size") * 512 / BLOCK))
			return 0
		done
		sleep 0.1
		now
	done
	return 1
}

# scsi_serial FOLDER: of the disk in this folder of /sys/block, as it says, or the USB device that it is in.
scsi_serial() {
	above=$(readlink -f "$1/device") || return
	if [ -e "$above/vpd_pg80" ]; then
		tail -c +5 "$above/vpd_pg80" | tr -d '\0 '
		return
	fi
	while [ -n "$above" ]; do
		above=${above%/*}
		[ ! -e "$above/serial" ] || { cat "$above/serial"; return; }
	done
}

# limit BLOCKS: the number of blocks that cosim.bytes allows of so many.
limit() {
	limit=$(($(parameter cosim.bytes $(($1 * BLOCK))) / BLOCK))
	echo $((limit < $1 ? limit : $1))
}

# checksum FIRST_BLOCK COUNT: of DISK, read block by block past the page cache.
checksum() {
	dd if="/dev/$DISK" bs=$BLOCK skip="$1" count="$2" iflag=direct 2>$STDERR | sha256sum | cut -d ' ' -f 1
}

# read_disk NAME SERIAL
read_disk() {
	find_disk "$2" || { fail device "$1" "no disk with serial $2"; return; }
	count=$(limit "$BLOCKS")
	now
	started=$NOW
	sum=$(checksum 0 "$count") || { fail device "$1" "$(cat $STDERR)"; return; }
	now
	emit device true "\"name\":\"$1\",\"bytes\":$((count * BLOCK)),\"sha256\":\"$sum\",\"readMs\":$(((NOW - started) / 1000))"
}

# pattern SEED COUNT: so many blocks in lines of 512 bytes, each different from all others.
pattern() {
	awk -v seed="$1" -v lines="$(($2 * BLOCK / 512))" \
		'BEGIN { for (i = 0; i < lines; i++) printf "%-511s\n", seed " " i }'
}

# write_disk NAME SERIAL: the pattern into the disk's second half, then back.
write_disk() {
	find_disk "$2" || { fail write "$1" "no disk with serial $2"; return; }
	seed=$(parameter cosim.seed cosim)
	[ "$1" = virtio-blk ] || seed=$seed-$1 # what one disk holds is right on no other
	first=$((BLOCKS / 2))
	count=$(limit $((BLOCKS - first)))
	pattern "$seed" "$count" >/tmp/pattern
	wanted=$(sha256sum </tmp/pattern)
	now
	started=$NOW
	dd if=/tmp/pattern of="/dev/$DISK" bs=$BLOCK seek=$first oflag=direct conv=fsync 2>$STDERR ||
		{ fail write "$1" "$(cat $STDERR)"; return; }
	now
	written=$NOW
	sum=$(checksum $first "$count") || { fail write "$1" "$(cat $STDERR)"; return; }
	rm /tmp/pattern
	[ "$sum" = "${wanted%% *}" ] || { fail write "$1" "read back $sum, wrote ${wanted%% *}"; return; }
	emit write true "\"name\":\"$1\",\"seed\":$(quote "$seed"),\"offset\":$((first * BLOCK)),\"bytes\":$((count * BLOCK)),\"sha256\":\"$sum\",\"writeMs\":$(((written - started) / 1000))"
}

# bench_disk NAME SERIAL READS: in as many passes over the disk as it takes.
bench_disk() {
	find_disk "$2" || { fail bench "$1" "no disk with serial $2"; return; }
	left=$3
	now
	started=$NOW
	while [ "$left" -gt 0 ]; do
		count=$((left < BLOCKS ? left : BLOCKS))
		dd if="/dev/$DISK" of=/dev/null bs=$BLOCK count=$count iflag=direct 2>$STDERR ||
			{ fail bench "$1" "$(cat $STDERR)"; return; }
		left=$((left - count))
	done
	now
	us=$((NOW - started))
	emit bench true "\"name\":\"$1\",\"reads\":$3,\"blockBytes\":$BLOCK,\"ms\":$((us / 1000)).$(printf %03d $((us % 1000)))"
}

# timed NAME COUNT: reports the time since STARTED.
timed() {
	now
	us=$((NOW - STARTED))
	emit timed true "\"name\":\"$1\",\"count\":$2,\"ms\":$((us / 1000)).$(printf %03d $((us % 1000)))"
}

# bench_parallel READS: four readers on each disk at a time, each of so many blocks, in as many passes over its quarter as it takes.
bench_parallel() {
	find_disk $VIRTIO_BLK_SERIAL || { fail timed parallel 'no virtio-blk'; return; }
	disks=$DISK
	find_disk $NVME_SERIAL || { fail timed parallel 'no nvme'; return; }
	disks="$disks $DISK"
	quarter=$((BLOCKS / 4))
	readers=
	now
	STARTED=$NOW
	for disk in $disks; do
		for part in 0 1 2 3; do
			read_blocks "$disk" $((part * quarter)) $quarter "$1" &
			readers="$readers $!"
		done
	done
	for reader in $readers; do
		wait "$reader" || { fail timed parallel 'a reader failed'; return; }
	done
	timed parallel $((8 * $1))
}

# read_blocks DISK FIRST BLOCKS COUNT: blocks from FIRST on, again and again.
read_blocks() {
	left=$4
	while [ "$left" -gt 0 ]; do
		count=$((left < $3 ? left : $3))
		dd if="/dev/$1" of=/dev/null bs=$BLOCK skip="$2" count=$count iflag=direct 2>/dev/null || return
		left=$((left - count))
	done
}

# load SECONDS: all disks and cards at a time for so long, each again and again, part by part: it ends within a part. Of a disk the
# first half is read and the second one written, but of nvme, which is read whole.
load() {
	rm -rf /tmp/load
	mkdir /tmp/load
	cards=
	for name in virtio-net e1000e e1000 igb; do
		! used $name || load_card $name "$(echo $name | tr - _)" || return
	done
	now
	LOAD_END=$((NOW + $1 * 1000000))
	for name in virtio-blk nvme $MORE_DISKS; do
		! used "$name" || load_disk "$name" || return
	done
	for card in $cards; do
		again "${card%/*}" fetch "$(parameter cosim.parts 1)" fetch_part "$(parameter "cosim.url.${card%/*}" '')" &
	done
	wait
	for card in $cards; do
		ip addr flush dev "${card#*/}"
		ip link set "${card#*/}" down
	done
	for result in /tmp/load/*.result; do
		name=${result##*/}
		name=${name%.result}
		read -r ok fields <"$result"
		emit load "$ok" "\"name\":\"${name%.*}\",\"operation\":\"${name##*.}\",$fields"
	done
	rm -r /tmp/load
}

# load_card NAME DRIVER: an address for it, by which it is added to `cards`. Each is in a network of its own.
load_card() {
	find_interface "$2" || { fail load "$1" "no network card with driver $2"; return 1; }
	ip link set "$INTERFACE" up
	await_carrier
	lease 10 || { fail load "$1" "no DHCP lease: $(tail -n 1 $STDERR); $(card_state)"; return 1; }
	cards="$cards $1/$INTERFACE"
}

# load_disk NAME: starts what reads it and what writes to it.
load_disk() {
	serial=cosim-$1
	[ "$1" != virtio-blk ] || serial=$VIRTIO_BLK_SERIAL
	find_disk "$serial" || { fail load "$1" "no disk with serial $serial"; return 1; }
	[ "$1" = nvme ] || BLOCKS=$((BLOCKS / 2))
	again "$1" read $(((BLOCKS + READ_PART - 1) / READ_PART)) read_part $BLOCKS &
	[ "$1" = nvme ] || again "$1" write $(((BLOCKS + WRITE_PART - 1) / WRITE_PART)) write_part "/tmp/load/$1" $BLOCKS $BLOCKS &
}

# again NAME OPERATION PARTS COMMAND…: the command with the number of each part, pass after pass until LOAD_END, one part at least. It
# prints the checksum of its part. The checksum of these lines is that of the pass, and has to be the same each time.
again() {
	into=/tmp/load/$1.$2
	STDERR=$into.stderr
	parts=$3
	shift 3
	first=
	passes=0
	part=0
	now
	started=$NOW
	while [ "$passes $part" = '0 0' ] || [ "$NOW" -lt "$LOAD_END" ]; do
		"$@" $part >>"$into.sums" || {
			echo "false \"error\":$(quote "pass $passes, part $part: $(cat "$STDERR")")" >"$into.result"
			return
		}
		part=$((part + 1))
		if [ $part -eq "$parts" ]; then
			sum=$(sha256sum <"$into.sums")
			[ "${first:=$sum}" = "$sum" ] || {
				echo "false \"error\":\"pass $passes: ${sum%% *}, before ${first%% *}\"" >"$into.result"
				return
			}
			passes=$((passes + 1))
			part=0
			rm "$into.sums"
		fi
		now
	done
	touch "$into.sums"
	rest=$(sha256sum <"$into.sums")
	echo "true \"passes\":$passes,\"sha256\":\"${first%% *}\",\"parts\":$part,\"partsSha256\":\"${rest%% *}\",\"ms\":$(((NOW - started) / 1000))" >"$into.result"
}

# part_of BLOCKS SIZE NUMBER: sets FIRST and COUNT to the blocks of this part of so many.
part_of() {
	FIRST=$(($3 * $2))
	COUNT=$(($1 - FIRST < $2 ? $1 - FIRST : $2))
}

# read_part BLOCKS NUMBER: of the beginning of DISK.
read_part() {
	part_of "$1" $READ_PART "$2"
	checksum $FIRST $COUNT
}

# write_part FILE BLOCK BLOCKS NUMBER: of what is on DISK from BLOCK on, other bytes, and those that were there; each is read back.
write_part() {
	part_of "$3" $WRITE_PART "$4"
	at=$(($2 + FIRST))
	dd if="/dev/$DISK" of="$1.mine" bs=$BLOCK skip=$at count=$COUNT iflag=direct 2>"$STDERR" || return
	tr ' 0123456789' '.abcdefghij' <"$1.mine" >"$1.other"
	for bytes in other mine; do
		wanted=$(sha256sum <"$1.$bytes")
		dd if="$1.$bytes" of="/dev/$DISK" bs=$BLOCK seek=$at oflag=direct conv=fsync 2>"$STDERR" || return
		sum=$(checksum $at $COUNT) || return
		[ "$sum" = "${wanted%% *}" ] || { echo "read back $sum, wrote ${wanted%% *}" >"$STDERR"; return 1; }
	done
	echo "$sum"
}

# fetch_part URL NUMBER
fetch_part() {
	wget -q -T "$(parameter cosim.patience $PATIENCE_S)" -O - "$1/$2" 2>"$STDERR" | sha256sum | cut -d ' ' -f 1
}

# bench_compute ROUNDS: on each processor at a time so many thousand rounds of arithmetic, without I/O.
bench_compute() {
	workers=
	processors=$(nproc)
	now
	STARTED=$NOW
	for _ in $(seq "$processors"); do
		awk -v n="$1" 'BEGIN { for (i = 0; i < n * 1000; i++) x = (x * 5 + i) % 65521 }' &
		workers="$workers $!"
	done
	for worker in $workers; do
		wait "$worker" || { fail timed compute 'a worker failed'; return; }
	done
	timed compute $(($1 * processors))
}

# find_interface DRIVER [FOLDER]: sets INTERFACE, to the first one in this folder of /sys.
find_interface() {
	for device in "${2:-/sys/class/net}"/*; do
		[ "$(basename "$(readlink "$device/device/driver")")" = "$1" ] || continue
		INTERFACE=${device##*/}
		return 0
	done
	return 1
}

# use_network NAME DRIVER: an address by DHCP, and a file. Only this card is up then, so the traffic is its own.
use_network() {
	find_interface "$2" || { fail net "$1" "no network card with driver $2"; return; }
	use_card "$1" "$(parameter "cosim.url.$1" '')"
}

# use_card NAME URL: of INTERFACE.
use_card() {
	ip link set "$INTERFACE" up
	await_carrier
	fetch "$1" "$2"
	ip addr flush dev "$INTERFACE"
	ip link set "$INTERFACE" down
}

# use_functions NAME DRIVER COUNT: a file over each of so many virtual functions of the card NAME, which has the driver of that name.
# The card is up without an address meanwhile: it answers what the functions ask of it.
use_functions() {
	find_interface "$1" || { fail net "$1.vf0" "no network card with driver $1"; return; }
	parent=$INTERFACE
	pf=$(readlink -f "/sys/class/net/$parent/device")
	ip link set "$parent" up
	await_carrier
	echo "$3" >"$pf/sriov_numvfs" 2>$STDERR || { fail net "$1.vf0" "no virtual functions: $(cat $STDERR)"; return; }
	url=$(parameter "cosim.url.$1" '')
	for vf in $(seq 0 $(($3 - 1))); do
		use_function "$1.vf$vf" "$2" "$pf/virtfn$vf" "$url"
	done
	echo 0 >"$pf/sriov_numvfs"
	ip link set "$parent" down
}

# use_function NAME DRIVER DEVICE URL: waits for a driver that is still probing.
use_function() {
	now
	deadline=$((NOW + $(parameter cosim.patience $PATIENCE_S) * 1000000))
	until find_interface "$2" "$3/net"; do
		[ "$NOW" -lt $deadline ] || { fail net "$1" "no network card with driver $2 at $(readlink "$3")"; return; }
		sleep 0.1
		now
	done
	use_card "$1" "$4"
}

# await_carrier: a card takes a while until it has a link, and udhcpc sends its next request after 2 s. Without one it is tried all
# the same.
await_carrier() {
	now
	deadline=$((NOW + 2000000))
	until [ "$(cat "/sys/class/net/$INTERFACE/carrier")" = 1 ] || [ "$NOW" -ge $deadline ]; do
		sleep 0.05
		now
	done
}

# card_state: link, packets and interrupts of INTERFACE, to tell a link that is down from DMA or interrupts that do not arrive.
card_state() {
	card=/sys/class/net/$INTERFACE
	printf 'carrier %s, sent %s, received %s, interrupts' "$(cat "$card/carrier")" "$(cat "$card/statistics/tx_packets")" \
		"$(cat "$card/statistics/rx_packets")"
	for vector in "$card"/device/msi_irqs/*; do
		awk -v "vector=${vector##*/}:" '$1 == vector { n = 0; for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i; printf " %d", n }' /proc/interrupts
	done
}

# lease TRIES: an address for INTERFACE. A try takes 3 s.
lease() {
	udhcpc -i "$INTERFACE" -f -n -q -t "$1" -T 2 -s /lib/cosim/udhcpc.sh >$STDERR 2>&1
}

# fetch NAME URL
fetch() {
	patience=$(parameter cosim.patience $PATIENCE_S)
	note=
	lease $(((patience + 2) / 3)) || {
		# As network managers do: the link may have come up without a word.
		note="no lease before the card was reset: $(card_state)"
		ip link set "$INTERFACE" down
		ip link set "$INTERFACE" up
		lease $(((patience + 2) / 3)) || { fail net "$1" "no DHCP lease: $(tail -n 1 $STDERR); $(card_state)"; return; }
	}
	address=$(ip -4 -o addr show dev "$INTERFACE" | awk '{ sub("/.*", "", $4); print $4 }')
	[ -n "$2" ] || { emit net true "\"name\":\"$1\",\"address\":\"$address\",\"skipped\":true"; return; }
	now
	started=$NOW
	wget -q -T "$patience" -O /tmp/fetched "$2" 2>$STDERR || { fail net "$1" "$2: $(cat $STDERR)"; return; }
	now
	sum=$(sha256sum </tmp/fetched | cut -d ' ' -f 1)
	emit net true "\"name\":\"$1\",\"address\":\"$address\",\"bytes\":$(stat -c %s /tmp/fetched),\"sha256\":\"$sum\",\"fetchMs\":$(((NOW - started) / 1000))${note:+,\"note\":$(quote "$note")}"
	rm /tmp/fetched
}

# successor HOW: starts the kernel and the initramfs of the disk `cosim-kexec` by kexec, or by a panic (kdump) while the disks are
# read: the next kernel finds an SMMU that is on, and devices in the middle of their DMA. It is told to do the workload, with `-1`
# behind the seed.
successor() {
	find_disk cosim-kexec || { fail successor "$1" 'no disk with serial cosim-kexec'; return; }
	sizes=$(parameter cosim.kexec 0:0)
	kernel=${sizes%:*}
	part 0 "$kernel" >/tmp/kernel && part $(((kernel + MIB - 1) / MIB)) "${sizes#*:}" >/tmp/initramfs ||
		{ fail successor "$1" "$(cat $STDERR)"; return; }
	sum=$(cat /tmp/kernel /tmp/initramfs | sha256sum)
	line=$(sed 's/ cosim.run=[^ ]*/ cosim.run=workload/; s/ cosim.seed=[^ ]*/&-1/; s/ crashkernel=[^ ]*//' /proc/cmdline)
	# The GIC still has this kernel's table of LPIs. The next one takes it for reserved if its own image lies over it, and writes to it
	# (gic_check_reserved_range; by UEFI it would be reserved). Tables are allocated from the start of RAM on: keep away from there.
	load="--load --mem-min=0x50000000"
	# As Documentation/admin-guide/kdump/kdump.rst has it.
	[ "$1" = kexec ] || { load=--load-panic; line="$line nr_cpus=1 reset_devices"; }
	# shellcheck disable=SC2086 # several words
	kexec $load /tmp/kernel --initrd=/tmp/initramfs --command-line="$line" 2>$STDERR ||
		{ fail successor "$1" "$(tail -n 3 $STDERR)"; return; }
	emit successor true "\"name\":\"$1\",\"bytes\":$((kernel + ${sizes#*:})),\"sha256\":\"${sum%% *}\""
	sync
	if [ "$1" = kexec ]; then
		kexec --exec 2>$STDERR
		fail successor "$1" "$(tail -n 3 $STDERR)"
		return
	fi
	for serial in $VIRTIO_BLK_SERIAL $NVME_SERIAL; do
		! find_disk $serial || read_blocks "$DISK" 0 "$BLOCKS" 1000000 &
	done
	sleep 1
	echo c >/proc/sysrq-trigger
}

# part FIRST BYTES: of DISK, from so many MiB on.
part() {
	dd if="/dev/$DISK" bs=$MIB skip="$1" count=$((($2 + MIB - 1) / MIB)) iflag=direct 2>$STDERR |
		{ head -c "$2" && cat >/dev/null; } # what is left over is read as well: dd writes to nobody else
}

# reboot_until BOOTS: reboots until this is the BOOTS-th boot. The count is kept in the last block of the virtio disk,
# which is all zeros before and after.
reboot_until() {
	find_disk $VIRTIO_BLK_SERIAL || { fail reboot virtio-blk "no disk with serial $VIRTIO_BLK_SERIAL"; return 1; }
	boots=$(read_state | awk '/^cosim-boots / { n = $2 } END { print n + 1 }')
	emit reboot true "\"boot\":$boots,\"of\":$1"
	if [ "$boots" -ge "$1" ]; then
		write_state ''
		return
	fi
	write_state "cosim-boots $boots" && reboot -f
}

read_state() {
	dd if="/dev/$DISK" bs=$BLOCK skip=$((BLOCKS - 1)) iflag=direct 2>$STDERR | tr -d '\0'
}

write_state() {
	{ printf %s "$1"; head -c $BLOCK /dev/zero; } | head -c $BLOCK >/tmp/state
	dd if=/tmp/state of="/dev/$DISK" bs=$BLOCK seek=$((BLOCKS - 1)) oflag=direct conv=fsync 2>$STDERR ||
		{ fail reboot virtio-blk "$(cat $STDERR)"; return 1; }
}
