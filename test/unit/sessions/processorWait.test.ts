// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { ProcessorWait } from '../../../server/sessions/processorWait.ts'

test('a thread whose processor others want waits for it', async () => {
  // All on one processor: while one runs, the others wait.
  const spin = () => spawn('taskset', ['-c', '0', 'sh', '-c', 'while :; do :; done'], { stdio: 'ignore' })
  const busy = [spin(), spin(), spin()]
  try {
    await Promise.all(busy.map(child => once(child, 'spawn')))
    const wait = new ProcessorWait([busy[0]?.pid ?? 0])
    for (let n = 0; n < 200 && wait.ms() < 100; n++) await sleep(50)
    expect(wait.ms()).toBeGreaterThanOrEqual(100)
  } finally {
    for (const child of busy) child.kill('SIGKILL')
  }
})

describe('what the kernel says', () => {
  let proc: string
  beforeEach(() => {
    proc = privateFolder(tmpdir(), 'proc-test-')
  })
  afterEach(() => rmSync(proc, { recursive: true }))

  /** Times of a thread, and of all processors, ms. */
  const thread = (pid: number, tid: number, ran: number, waited: number) => {
    mkdirSync(join(proc, `${pid}/task/${tid}`), { recursive: true })
    writeFileSync(join(proc, `${pid}/task/${tid}/schedstat`), `${ran * 1e6} ${waited * 1e6} 7\n`)
  }
  const processors = (ms: number) => {
    // Idle time is none, and that of guests is counted as user time already.
    writeFileSync(join(proc, 'stat'), `cpu  ${ms / 10 - 6} 1 1 900 800 1 1 2 50 60\ncpu0 0\n`)
  }

  test('of each process the longest wait counts, since then', () => {
    processors(10_000)
    thread(1, 1, 100, 5000)
    thread(1, 2, 100, 10)
    thread(2, 3, 100, 10)
    const wait = new ProcessorWait([1, 2, 3], proc)
    expect(wait.ms()).toBe(0)
    processors(20_000)
    thread(1, 1, 200, 5050)
    thread(1, 2, 200, 310)
    thread(2, 3, 200, 110)
    thread(2, 4, 5, 150)
    expect(wait.ms()).toBe(300 + 150)
  })

  test('threads that only keep each other waiting do not wait for others', () => {
    processors(10_000)
    for (const tid of [1, 2]) thread(1, tid, 1000, 1000)
    const wait = new ProcessorWait([1], proc)
    processors(12_000)
    for (const tid of [1, 2]) thread(1, tid, 2000, 2000)
    expect(wait.ms()).toBe(0)
    // Others had 40 ms.
    processors(12_040)
    expect(wait.ms()).toBe(40)
  })

  test('nothing of it: nobody waited', () => {
    expect(new ProcessorWait([1], proc).ms()).toBe(0)
    thread(1, 1, 0, 0)
    const wait = new ProcessorWait([1], proc)
    thread(1, 1, 0, 1000)
    expect(wait.ms()).toBe(0)
  })
})
