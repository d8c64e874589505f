// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { Choices } from '../../fuzz/choices.ts'
import { TARGETS } from '../../fuzz/names.ts'
import { corpus, fuzzTarget } from '../../fuzz/run.ts'
import type { Target } from '../../fuzz/target.ts'
import { isBug, kindOf } from '../../fuzz/target.ts'
import { Qtest } from '../../qtest/qtest.ts'

const never = new AbortController().signal
const module = (name: string) => new URL(`./${name}.ts`, import.meta.url).href
const run = (name: string, inputs: number, hangMs = 30_000, corpus: readonly Uint8Array[] = []) =>
  fuzzTarget({ module: module(name), seed: 1, corpus, ms: Number.POSITIVE_INFINITY, inputs }, never, hangMs)

describe('the fuzzer', () => {
  test('finds what is hidden behind five right bytes, once each, and makes the input short', async () => {
    const { findings, outcomes } = await run('planted', 400_000)
    expect(outcomes).toBe(6)
    const kinds = findings.map(({ message }) => message.split('\n')[0]).map(kindOf)
    expect(kinds.sort()).toEqual(['Finding: number 0 is wrong', 'TypeError: number 0 is undefined'])
    for (const { input } of findings) expect(Buffer.from(input).toString('latin1')).toMatch(/^fault[\s\S]{0,2}$/)
  })

  test('tries the same inputs again with the same seed', async () => {
    const [a, b] = [await run('planted', 2_000), await run('planted', 2_000)]
    expect(a).toEqual(b)
  })

  test('an input that never comes to an end is a finding', async () => {
    const { findings } = await run('loops', 10, 2_000)
    // With less than a tenth of a processor the clock is first.
    expect(findings.map(({ message }) => message)).toEqual([
      expect.stringMatching(/^nothing came of it within (2 s of processor time|20 s)$/),
    ])
    expect(findings[0]?.input.length).toBeGreaterThan(0)
  })

  test('one that gets no processor for a while is none, and goes on', async () => {
    expect(await run('waits', 1, 500, [new Uint8Array([0])])).toEqual({ inputs: 1, outcomes: 1, findings: [] })
  })

  test('one that waits for ever is one', async () => {
    const { findings } = await run('waits', 1, 200, [new Uint8Array([1])])
    expect(findings).toMatchObject([{ message: 'nothing came of it within 2 s' }])
  })

  test('so is one that takes all memory', async () => {
    const { findings } = await run('eats', 10_000)
    expect(findings).toHaveLength(1)
    expect(findings[0]?.message).toMatch(/memory|grew/)
  })

  test('what was found before it was interrupted is kept, and no outcomes are made up', async () => {
    const controller = new AbortController()
    const found = fuzzTarget(
      { module: module('planted'), seed: 1, corpus: [Buffer.from('fault\0\0')], ms: 60_000, inputs: 1e9 },
      controller.signal,
    )
    setTimeout(() => controller.abort(), 4_000)
    const { inputs, outcomes, findings } = await found
    expect(inputs).toBeGreaterThan(0)
    expect(outcomes).toBeUndefined()
    expect(findings.map(({ message }) => message.split('\n')[0])).toContain('Finding: number 0 is wrong')
  })

  test('a target that does not load is no finding', async () => {
    await expect(run('nowhere', 1)).rejects.toThrow(/nowhere/)
  })

  test('what code says on purpose is no bug, what the engine says is', () => {
    class Refused extends Error {}
    expect(isBug(new Refused('no'))).toBe(false)
    expect(isBug(new RangeError('IDR0.TTF 0 is not modelled'))).toBe(false)
    const engine = [
      () => new Array(-1),
      () => Buffer.alloc(8).readUInt32LE(6),
      () => new Uint8Array(2 ** 60),
      () => 'x'.repeat(2 ** 40),
      () => JSON.parse('{'),
      () => (null as unknown as { a: { b: 1 } }).a.b,
      () => BigInt(0.5),
    ]
    for (const mistake of engine) {
      let thrown: unknown
      try {
        mistake()
      } catch (error) {
        thrown = error
      }
      expect(isBug(thrown), String(thrown)).toBe(true)
    }
  })
})

describe.each(TARGETS)('%s', name => {
  test('what was found once is found no more', async () => {
    const { default: target } = (await import(`../../fuzz/targets/${name}.ts`)) as { default: Target }
    for (const input of corpus(name)) await target.run(new Choices(input))
    await target.close?.()
  })

  test('the first inputs find nothing, come to many things, and to the same ones again', async () => {
    const { default: target } = (await import(`../../fuzz/targets/${name}.ts`)) as { default: Target }
    expect(target.name).toBe(name)
    const url = new URL(`../../fuzz/targets/${name}.ts`, import.meta.url).href
    const first = () =>
      fuzzTarget({ module: url, seed: 7, corpus: [], ms: Number.POSITIVE_INFINITY, inputs: 100 }, never)
    const { inputs, outcomes, findings } = await first()
    expect(findings).toEqual([])
    expect(inputs).toBe(100)
    expect(outcomes).toBeGreaterThan(5)
    expect((await first()).outcomes).toBe(outcomes)
  })
})

test('a QEMU that has ended is not asked: nobody would answer', async () => {
  const folder = privateFolder(tmpdir(), 'fuzz-')
  const path = join(folder, 'qtest')
  const server = createServer(socket => socket.end()).listen(path)
  await once(server, 'listening')
  const qtest = await Qtest.connect(path, AbortSignal.timeout(10_000))
  await expect(qtest.read(0, 4)).rejects.toThrow('closed')
  await expect(qtest.read(0, 4)).rejects.toThrow('closed')
  server.close()
  rmSync(folder, { recursive: true })
})
