// SPDX-License-Identifier: Apache-2.0
/**
 * What runs each command line that the README shows. What has no guest runs as it stands (readme.test.ts beside this). What has one runs as it
 * stands, too, to the point where QEMU is started (test/boot/readme.test.ts); with a guest it is run by a test that is named and has its words.
 */

/** `more`: words behind those of the line; `code`: with which it ends, default 0, or 1 with QEMU's stand-in. */
interface AsItStands {
  readonly more?: readonly string[]
  readonly code?: number
}

export type Run =
  /** By readme.test.ts beside this. `instead`: of the line, whose words are then only read (commands.test.ts). */
  | (AsItStands & { readonly here: true; readonly instead?: string })
  /** By another test with these words, some of them with others. `qemu`: what stands in the command line of QEMU; absent: it starts none, or one that it names. */
  | (AsItStands & {
      readonly by: string
      readonly words: readonly string[]
      readonly qemu?: readonly (string | RegExp)[]
    })
  /** By none. */
  | { readonly not: string }

export const README_COMMANDS: Readonly<Record<string, Run>> = {
  boot: {
    by: 'test/boot/pkvm.test.ts',
    words: ['boot', '--require-isolation'],
    qemu: [/^smmu-cosim,id=cosim,path=/, '-no-reboot'],
  },
  'boot --help': { here: true },
  'boot --until cmdq': { by: 'test/boot/pkvm.test.ts', words: ['boot', '--until', 'cmdq'], qemu: [/^smmu-cosim,/] },
  'boot --blocks': { by: 'test/boot/oracle.test.ts', words: ['boot', '--blocks'], qemu: [/^smmu-cosim,/] },
  'boot --policy passthrough': {
    by: 'test/boot/boot.test.ts',
    words: ['boot', '--policy', 'passthrough'],
    qemu: [/^smmu-cosim,/],
  },
  'boot --policy full': { by: 'test/boot/full.test.ts', words: ['boot', '--policy', 'full'], qemu: [/^smmu-cosim,/] },
  'boot --policy partition': {
    by: 'test/boot/partition.test.ts',
    words: ['boot', '--policy', 'partition'],
    qemu: [/^smmu-cosim,/],
  },
  'boot --policy narrow.ts': { by: 'test/boot/pkvm.test.ts', words: ['boot', '--policy'], qemu: [/^smmu-cosim,/] },
  'boot --el2 pkvm': {
    by: 'test/boot/el2.test.ts',
    words: ['boot', '--el2', 'pkvm'],
    qemu: ['virtualization=on', /kvm-arm.mode=protected cosim.storm=0/],
  },
  'boot --el2 pkvm --stage2 shared': {
    by: 'test/boot/el2.test.ts',
    words: ['boot', '--el2', '--stage2', 'shared'],
    qemu: ['virtualization=on', 'cortex-a76', /kvm-arm.mode=protected cosim.storm=0/],
  },
  'boot --el2 kernel --kernel FILE': {
    by: 'test/boot/el2.test.ts',
    words: ['boot', '--el2', 'kernel'],
    qemu: ['virtualization=on', /vmlinuz-6\.12/],
  },
  'boot --baseline': { by: 'test/boot/boot.test.ts', words: ['boot', '--baseline'], qemu: ['-no-reboot'] },
  'boot --interactive': {
    by: 'test/boot/terminal.test.ts',
    words: ['boot', '--interactive'],
    qemu: [/cosim.run=shell/],
  },
  'boot --exec uname -r': {
    by: 'test/boot/exec.test.ts',
    words: ['boot', '--exec'],
    qemu: [/cosim.run=remote/, 'chardev:agent'],
  },
  'boot --share . --exec ./run.sh': {
    by: 'test/boot/exec.test.ts',
    words: ['boot', '--exec', '--share'],
    qemu: [/^local,id=share,path=.*readonly=on$/, /cosim.share=ro/],
  },
  // Which test/boot/power.test.ts starts.
  'boot --power keep': { by: 'test/bench/powerCycles.ts', words: ['--power', 'keep'], qemu: [/^smmu-cosim,/] },
  'boot --device igb --device ahci': {
    by: 'test/boot/machine.test.ts',
    words: ['boot', '--device', 'igb'],
    qemu: [/^igb,/, /^ich9-ahci,/],
  },
  'boot --firmware': { by: 'test/boot/machine.test.ts', words: ['boot', '--firmware'], qemu: ['-bios'] },
  'boot --smmus 2': { by: 'test/boot/machine.test.ts', words: ['boot', '--smmus'], qemu: [/^arm-smmuv3,id=smmu1,/] },
  'boot --qemu 10.2': { by: 'test/boot/machine.test.ts', words: ['boot', '--qemu', '10.2'] },
  'boot --smmus 2 --smp 2 --load 300': {
    by: 'test/boot/machine.test.ts',
    words: ['boot', '--smmus', '--load'],
    qemu: [/^arm-smmuv3,id=smmu1,/, / cosim\.load=300( |$)/],
  },
  'boot --kexec': {
    by: 'test/boot/machine.test.ts',
    words: ['boot', '--kexec'],
    qemu: [/serial=cosim-kexec,/, / cosim\.run=kexec /],
  },
  'boot --call-stacks': { by: 'test/boot/gdb.test.ts', words: ['--call-stacks'], qemu: [/^smmu-cosim,/] },
  'boot --gdb --dashboard': {
    by: 'test/boot/gdb.test.ts',
    words: ['--gdb'],
    qemu: ['-gdb'],
    more: ['--dashboard', '0'],
  },
  'boot --kernel 6.1 --smp 2 --memory 2G --reboots 2': {
    by: 'test/boot/boot.test.ts',
    words: ['--smp', '2', '--memory', '2G'],
    qemu: [/vmlinuz-6\.1\./, '-smp', '2G', /cosim.run=reboot:3/],
  },
  'boot --kernel ~/linux': {
    by: 'test/boot/ownKernel.test.ts',
    words: ['boot', '--kernel'],
    qemu: [/linux\/arch\/arm64\/boot\/Image$/],
  },
  'boot --panic-on-warn': { by: 'test/boot/pkvm.test.ts', words: ['boot', '--panic-on-warn'], qemu: [/^smmu-cosim,/] },
  'boot --quirk queues-unshared': {
    by: 'test/boot/oracle.test.ts',
    words: ['boot', '--quirk'],
    qemu: [/^smmu-cosim,/],
  },
  'boot --oracle': { by: 'test/boot/oracle.test.ts', words: ['boot', '--oracle'], qemu: [/^smmu-cosim,/] },
  'boot --interactive --dashboard': {
    by: 'test/boot/terminal.test.ts',
    words: ['boot', '--interactive', '--dashboard'],
    qemu: [/cosim.run=shell/],
    more: ['--dashboard', '0'],
  },
  'boot --translate lockstep': {
    by: 'test/boot/translate.test.ts',
    words: ['boot', '--translate', 'lockstep'],
    qemu: [/^smmu-cosim,/],
  },
  'boot --faults sync-hangs': {
    by: 'test/boot/faults.test.ts',
    words: ['boot', '--faults', 'sync-hangs'],
    qemu: [/^smmu-cosim,/],
  },
  // Every boot of the tests writes one.
  'boot --report run.json': { by: 'test/boot/cli.ts', words: ['boot', '--report'], qemu: [/^smmu-cosim,/] },
  'boot --server /tmp/trap --reconnect 60': {
    by: 'test/boot/ending.test.ts',
    words: ['--server', '--reconnect'],
    qemu: [/^smmu-cosim,id=cosim,path=\/tmp\/trap,/, /reconnect-ms=60000/],
  },
  serve: { by: 'test/boot/ending.test.ts', words: ['serve', '--port'] },
  'ctl --help': { here: true },
  'trace show latest': { here: true },
  'trace open latest': { by: 'test/web/recording.test.ts', words: ['trace', 'open'] },
  'trace export latest --html -o run.html': { here: true },
  'replay latest': { here: true },
  'replay FILE --policy policy.ts --bisect v1..HEAD': { here: true },
  // The recording has no tables of the host.
  'walk --sid 8 --iova 0xfffff000 --recording FILE': { here: true, code: 1 },
  dev: { by: 'test/boot/terminal.test.ts', words: ['dev', '--interactive'], qemu: [/^smmu-cosim,/] },
  'dev --interactive --dashboard': {
    by: 'test/boot/terminal.test.ts',
    words: ['dev', '--interactive'],
    qemu: [/cosim.run=shell/],
    more: ['--dashboard', '0'],
  },
  'faults run donate-tlbi-swallowed': {
    by: 'test/boot/sessions.test.ts',
    words: ['faults', 'run'],
    qemu: [/cosim.run=agent/],
  },
  'faults campaign --html faults.html': {
    by: 'test/boot/sessions.test.ts',
    words: ['faults', 'campaign'],
    qemu: [/cosim.run=agent/],
    more: ['cr0ack-stuck'],
  },
  'matrix --kernel ~/linux --against 6.12 --html matrix.html': {
    by: 'test/boot/matrix.test.ts',
    words: ['matrix', '--kernel'],
    qemu: [/linux\/arch\/arm64\/boot\/Image$/],
    // Neither kernel is worse than the other.
    code: 0,
  },
  'faults campaign --queue redis://queue.example/': {
    by: 'test/boot/fleet.test.ts',
    words: ['faults', 'campaign', '--queue'],
  },
  'worker --queue redis://queue.example/ --jobs 4': {
    by: 'test/boot/fleet.test.ts',
    words: ['worker', '--queue', '--jobs'],
  },
  'queue list --queue redis://queue.example/': {
    by: 'test/fleet/fleet.test.ts',
    words: ['queue', 'list', '--queue'],
  },
  'test my.test.ts': { by: 'test/boot/testing.test.ts', words: ['test', 'my.test.ts'], qemu: [/cosim.run=remote/] },
  'attack --hardware all': { here: true, more: ['--ops', '5000'] },
  setup: { by: 'test/boot/readme.test.ts', words: ['setup'] },
  'completion bash': { here: true },
  'bench --quick': { here: true, more: ['--only', 'commands'] },
  // The same inputs on every machine, however long they take there; what they find is not put among those of the tests.
  'fuzz --seconds 600': { here: true, instead: 'fuzz --inputs 50 --save FOUND' },
  'fuzz --only qemu': { not: 'it builds QEMU with sanitizers first, which takes as long as QEMU' },
}
