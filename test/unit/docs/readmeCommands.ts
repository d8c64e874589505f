// SPDX-License-Identifier: Apache-2.0
/** What runs each command line that the README shows: what is cheap runs as it stands; what has a guest is run by a test that has one. */

export type Run =
  /** By readme.test.ts beside this; `more`: words that end what would not end by itself; `code`: with which it ends, default 0. */
  | { readonly here: true; readonly more?: readonly string[]; readonly code?: number }
  /** By another test with these words, some of them with others. */
  | { readonly by: string; readonly words: readonly string[] }
  /** By none. */
  | { readonly not: string }

export const README_COMMANDS: Readonly<Record<string, Run>> = {
  boot: { by: 'test/boot/pkvm.test.ts', words: ['boot', '--require-isolation'] },
  'boot --help': { here: true },
  'boot --until cmdq': { by: 'test/boot/pkvm.test.ts', words: ['boot', '--until', 'cmdq'] },
  'boot --blocks': { by: 'test/boot/oracle.test.ts', words: ['boot', '--blocks'] },
  'boot --policy passthrough': { by: 'test/boot/boot.test.ts', words: ['boot', '--policy', 'passthrough'] },
  'boot --policy full': { by: 'test/boot/full.test.ts', words: ['boot', '--policy', 'full'] },
  'boot --policy partition': { by: 'test/boot/partition.test.ts', words: ['boot', '--policy', 'partition'] },
  'boot --policy narrow.ts': { by: 'test/boot/pkvm.test.ts', words: ['boot', '--policy'] },
  'boot --el2 pkvm': { by: 'test/boot/el2.test.ts', words: ['boot', '--el2', 'pkvm'] },
  'boot --el2 kernel --kernel FILE': { by: 'test/boot/el2.test.ts', words: ['boot', '--el2', 'kernel'] },
  'boot --baseline': { by: 'test/boot/boot.test.ts', words: ['boot', '--baseline'] },
  'boot --interactive': { by: 'test/boot/terminal.test.ts', words: ['boot', '--interactive'] },
  'boot --exec uname -r': { by: 'test/boot/exec.test.ts', words: ['boot', '--exec'] },
  'boot --share . --exec ./run.sh': { by: 'test/boot/exec.test.ts', words: ['boot', '--exec', '--share'] },
  // Which test/boot/power.test.ts starts.
  'boot --power keep': { by: 'test/bench/powerCycles.ts', words: ['--power', 'keep'] },
  'boot --device igb --device ahci': { by: 'test/boot/machine.test.ts', words: ['boot', '--device', 'igb'] },
  'boot --firmware': { by: 'test/boot/machine.test.ts', words: ['boot', '--firmware'] },
  'boot --smmus 2': { by: 'test/boot/machine.test.ts', words: ['boot', '--smmus'] },
  'boot --call-stacks': { by: 'test/boot/gdb.test.ts', words: ['--call-stacks'] },
  'boot --gdb --dashboard': { by: 'test/boot/gdb.test.ts', words: ['--gdb'] },
  'boot --kernel 6.1 --smp 2 --memory 2G --reboots 2': {
    by: 'test/boot/boot.test.ts',
    words: ['--smp', '2', '--memory', '2G'],
  },
  'boot --kernel ~/linux': { by: 'test/boot/ownKernel.test.ts', words: ['boot', '--kernel'] },
  'boot --panic-on-warn': { by: 'test/boot/pkvm.test.ts', words: ['boot', '--panic-on-warn'] },
  'boot --quirk queues-unshared': { by: 'test/boot/oracle.test.ts', words: ['boot', '--quirk'] },
  'boot --oracle': { by: 'test/boot/oracle.test.ts', words: ['boot', '--oracle'] },
  'boot --interactive --dashboard': {
    by: 'test/boot/terminal.test.ts',
    words: ['boot', '--interactive', '--dashboard'],
  },
  'boot --translate lockstep': { by: 'test/boot/translate.test.ts', words: ['boot', '--translate', 'lockstep'] },
  'boot --faults sync-hangs': { by: 'test/boot/faults.test.ts', words: ['boot', '--faults', 'sync-hangs'] },
  // Every boot of the tests writes one.
  'boot --report run.json': { by: 'test/boot/cli.ts', words: ['boot', '--report'] },
  'boot --server /tmp/trap --reconnect 60': { by: 'test/boot/ending.test.ts', words: ['--server', '--reconnect'] },
  serve: { by: 'test/boot/ending.test.ts', words: ['serve', '--port'] },
  'ctl --help': { here: true },
  'trace show latest': { here: true },
  'trace open latest': { by: 'test/web/recording.test.ts', words: ['trace', 'open'] },
  'trace export latest --html -o run.html': { here: true },
  'replay latest': { here: true },
  'replay FILE --policy policy.ts --bisect v1..HEAD': { here: true },
  // The recording has no tables of the host.
  'walk --sid 8 --iova 0xfffff000 --recording FILE': { here: true, code: 1 },
  dev: { by: 'test/boot/terminal.test.ts', words: ['dev', '--interactive'] },
  'dev --interactive --dashboard': { by: 'test/boot/terminal.test.ts', words: ['dev', '--interactive'] },
  'faults run donate-tlbi-swallowed': { by: 'test/boot/sessions.test.ts', words: ['faults', 'run'] },
  'faults campaign --html faults.html': { by: 'test/boot/sessions.test.ts', words: ['faults', 'campaign'] },
  'matrix --kernel ~/linux --against 6.12 --html matrix.html': {
    by: 'test/boot/matrix.test.ts',
    words: ['matrix', '--kernel'],
  },
  'faults campaign --queue redis://queue.example/': {
    by: 'test/boot/fleet.test.ts',
    words: ['faults', 'campaign', '--queue'],
  },
  'worker --queue redis://queue.example/ --jobs 4': {
    by: 'test/boot/fleet.test.ts',
    words: ['worker', '--queue', '--jobs'],
  },
  'test my.test.ts': { by: 'test/boot/testing.test.ts', words: ['test', 'my.test.ts'] },
  'attack --hardware all': { here: true, more: ['--ops', '5000'] },
  setup: { not: 'every boot of the tests sets up by the same code' },
  'completion bash': { here: true },
  'bench --quick': { by: 'test/docker/compose.test.ts', words: ['bench', '--quick'] },
  'fuzz --seconds 600': { here: true, more: ['--seconds', '2'] },
  'fuzz --only qemu': { not: 'it builds QEMU with sanitizers first, which takes as long as QEMU' },
}
