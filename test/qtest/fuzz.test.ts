// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { Mark } from '../boot/marked.ts'
import { corpus, fuzzTarget } from '../fuzz/run.ts'

const given = process.env.SMMU_COSIM_QEMU
beforeAll(async () => {
  // Not the one with sanitizers, which takes long to build.
  process.env.SMMU_COSIM_QEMU = await ensureQemu()
})
afterAll(() => {
  if (given === undefined) delete process.env.SMMU_COSIM_QEMU
  else process.env.SMMU_COSIM_QEMU = given
})

test.each([
  ['the socket', 'qemu'],
  ['a ring', 'qemuRing'],
] as const)(
  'a hostile server over %s: what was found once, and the first inputs, find nothing and come to many things',
  async (_how, target) => {
    const module = new URL(`../fuzz/targets/${target}.ts`, import.meta.url).href
    const found = corpus(target)
    const { inputs, outcomes, findings } = await fuzzTarget(
      { module, seed: 7, corpus: found, ms: 100_000, inputs: found.length + 100 },
      new AbortController().signal,
    )
    expect(findings).toEqual([])
    expect(inputs).toBe(found.length + 100)
    expect(outcomes).toBeGreaterThan(30)
  },
)

test('told to end while QEMU runs, it leaves no process within 2 s', async () => {
  const mark = new Mark()
  const main = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
  const fuzzer = spawn(process.execPath, [main, 'fuzz', '--only', 'qemu', '--seconds', '600'], {
    env: { ...process.env, ...mark.env },
    stdio: 'ignore',
  })
  const ended = once(fuzzer, 'exit')
  try {
    const running = () => [...mark.processes.values()].some(line => line.includes('-qtest'))
    await expect.poll(running).toBe(true)
    await sleep(500)
    const begin = performance.now()
    fuzzer.kill('SIGTERM')
    expect(await ended).toEqual([130, null])
    while (performance.now() - begin < 2_000 && mark.processes.size > 0) await sleep(20)
    expect([...mark.processes.values()]).toEqual([])
  } finally {
    mark.kill()
  }
})
