// SPDX-License-Identifier: Apache-2.0
/** What is known of a machine that was never there, and of a guest that says more than is kept. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Prepared } from '../../../server/sessions/agentMachine.ts'
import { neverRan } from '../../../server/sessions/matrix.ts'
import { type Job, runSession, Watch } from '../../../server/sessions/session.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-session-`))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const job: Job = {
  entry: {
    ...{ name: 'a', summary: 'a', expect: [], why: 'a' },
    rules: [{ name: 'wait', where: { at: 'machine' }, what: { do: 'pause', ms: 1 } }],
  },
  ...{ seed: 1, kernel: '6.12', until: 'nested' },
}

/** @param qemu lines of a program in its place */
function prepared(qemu: string, ramDir: string): Prepared {
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text, { mode: 0o755 })
    return join(folder, name)
  }
  return {
    description: {
      ...{ kernel: '6.12', until: 'nested', smp: 1, memory: '128M', carveout: '64M' },
      ...{ devices: ['virtio-blk'], append: '' },
    },
    files: {
      qemu: file('qemu', `#!/bin/sh\n${qemu}\n`),
      kernel: { version: '6.12', image: file('image', 'a kernel') },
      initrd: file('initrd', 'an initramfs'),
    },
    ...{ ramDir, transport: 'socket', el2: 'none', sandbox: false },
  }
}

test.each([
  [
    'whose QEMU lacks a library',
    'echo "cannot open shared object file" >&2; exit 127',
    '',
    /exit code 127: cannot open/,
  ],
  ['that has no room', 'exit 1', 'file', /ENOTDIR|not a directory/],
])('a machine %s was not started', async (_, qemu, ram, why) => {
  mkdirSync(join(folder, 'ram'))
  writeFileSync(join(folder, 'ram', 'file'), '')
  const of = prepared(qemu, join(folder, 'ram', ram))
  const { verdict, evidence } = await runSession(job, of, undefined, join(folder, 'run'), new AbortController().signal)
  expect([verdict, evidence.unstarted]).toEqual(['harness-error', true])
  expect(evidence.problem).toMatch(why)
})

test.each([
  ['harness-error', null, true],
  ['qemu-died', null, true],
  ['qemu-died', 0, true],
  ['qemu-died', 5, false],
  ['guest-hung', 0, false],
] as const)('a cell that ended as %s after %s traps: never ran is %s', (verdict, traps, never) => {
  expect(neverRan({ verdict, traps })).toBe(never)
})

test('however much a guest says, what is said of that is on the time line', () => {
  const watch = new Watch()
  for (let i = 0; i < 10_001; i++) watch.wait({ seq: i, event: 'waits', ok: true, name: 'dd', calls: 'x'.repeat(5000) })
  watch.note('more than 10000 events')
  expect(watch.entries.at(-1)?.text).toBe('more than 10000 events')
  // A result has room for so many, and so long ones.
  expect(watch.entries.length).toBeLessThan(1000)
  expect(Math.max(...watch.entries.map(({ text }) => text.length))).toBeLessThan(4096)
})
