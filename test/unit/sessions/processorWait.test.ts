// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { processorWaitMs } from '../../../server/sessions/processorWait.ts'

test('threads that want more processors than there are wait for them', async () => {
  // All on one processor: while one runs, the others wait.
  const spin = () => spawn('taskset', ['-c', '0', 'sh', '-c', 'while :; do :; done'], { stdio: 'ignore' })
  const busy = Array.from({ length: availableParallelism() + 1 }, spin)
  try {
    await Promise.all(busy.map(child => once(child, 'spawn')))
    const pids = busy.map(({ pid }) => pid ?? 0)
    let waited = processorWaitMs(pids)
    for (let n = 0; n < 200 && waited < 100; n++) {
      await sleep(50)
      waited = processorWaitMs(pids)
    }
    expect(waited).toBeGreaterThanOrEqual(100)
  } finally {
    for (const child of busy) child.kill('SIGKILL')
  }
})

test('a process that has ended has not waited', () => {
  expect(processorWaitMs([2 ** 22 + 1])).toBe(0)
})
