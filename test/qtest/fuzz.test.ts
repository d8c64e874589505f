// SPDX-License-Identifier: Apache-2.0
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { corpus, fuzzTarget } from '../fuzz/run.ts'

const given = process.env.SMMU_COSIM_QEMU
beforeAll(async () => {
  // Not the one with sanitizers, which takes long to build.
  process.env.SMMU_COSIM_QEMU ??= await ensureQemu()
})
afterAll(() => {
  if (given === undefined) delete process.env.SMMU_COSIM_QEMU
})

test('a hostile server: what was found once, and the first inputs, find nothing and come to many things', async () => {
  const module = new URL('../fuzz/targets/qemu.ts', import.meta.url).href
  const found = corpus('qemu')
  const { inputs, outcomes, findings } = await fuzzTarget(
    { module, seed: 7, corpus: found, ms: 100_000, inputs: found.length + 100 },
    new AbortController().signal,
  )
  expect(findings).toEqual([])
  expect(inputs).toBe(found.length + 100)
  expect(outcomes).toBeGreaterThan(30)
})
