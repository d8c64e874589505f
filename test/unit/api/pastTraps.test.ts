// SPDX-License-Identifier: Apache-2.0
/** Traps that have left the log in memory are found in the recording, and are what they were in the log. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test } from 'vitest'
import { KernelFunctions } from '../../../server/api/kernelFunctions.ts'
import { PastTraps } from '../../../server/api/pastTraps.ts'
import { RecordedRows } from '../../../server/api/recordedRows.ts'
import type { TrapFilter, TrapRow } from '../../../server/api/schemas/trace.ts'
import { TrapLog } from '../../../server/api/trapLog.ts'
import { Traps } from '../../../server/api/traps.ts'
import { HYP_WARNINGS } from '../../../server/hypervisor/pkvm/warnings.ts'
import { u32At } from '../../../server/trace/layout.ts'
import { Pump } from '../../../server/trace/pump.ts'
import { Recorder } from '../../../server/trace/recorder.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'
import { STE } from '../hypervisor/pkvm/support.ts'
import { SYNC } from '../smmu/fields.ts'
import { benchMachine, folder, header, RecordedBench, scriptedBoot } from '../trace/synthetic.ts'

const EPOCH = 1_767_323_045_000

interface Scene {
  readonly log: TrapLog
  readonly traps: Traps
  readonly past: PastTraps
  readonly path: string
  /** Rows of the first machine: those of the second one follow. */
  readonly first: number
}

/** Two machines after another, each in the log and in a recording of its own. */
async function scene(rounds = 300, limit?: number): Promise<Scene> {
  const log = new TrapLog()
  const past = new PastTraps((_, pc) => `function_${pc & 0xfffn}`)
  onTestFinished(() => past.close())
  log.onGroup = ({ id, layout, words, at }) => {
    if (layout.name === 'trap') past.trap(id, words[at + u32At.trap.seq] ?? 0)
  }
  const base = folder()
  const paths = [join(base, 'a'), join(base, 'b')]
  let first = 0
  for (const path of paths) {
    const ring = createRing(1 << 24)
    const pump = new Pump(ring)
    const { machine: _, warnings: _w, ...rest } = { ...header, policy: 'pkvm', warnings: HYP_WARNINGS }
    const recorder = await Recorder.open({ path, header: rest, ...(limit !== undefined && { limit }) })
    recorder.describe(benchMachine, () => HYP_WARNINGS)
    past.machine(log.next, EPOCH, () => ({ path, sync: () => recorder.sync() }))
    pump.add(recorder)
    pump.add(log)
    const bench = new RecordedBench(new RingWriter(ring))
    scriptedBoot(bench, rounds)
    for (let part = 0; part < 10; part++) {
      bench.host.boot().attach(10 + part, STE.s1)
      bench.host.commands([0x10, 0, 0, 0], SYNC)
      pump.drain()
      await recorder.sync()
    }
    pump.close()
    await recorder.close()
    if (first === 0) first = log.next - 1
  }
  const functions = Object.assign(new KernelFunctions(), { name: (_: number, pc: bigint) => `function_${pc & 0xfffn}` })
  return {
    log,
    past,
    traps: new Traps(
      log,
      functions,
      () => HYP_WARNINGS,
      () => EPOCH,
    ),
    path: paths[0] ?? '',
    first,
  }
}

describe('a recording', () => {
  test('has each row, with all that was done for it', async () => {
    const { traps, past, first } = await scene(40)
    const ids = [1, 2, 3, first - 1, first, first + 1, first + 2, traps.next - 1]
    for (let id = 5; id < traps.next; id += 17) ids.push(id)
    for (const id of ids) {
      const { previous: _p, following: _f, ...kept } = traps.detail(id) ?? {}
      const { previous: _pp, following: _ff, ...read } = (await past.detail(id)) ?? {}
      expect(read).toEqual(kept)
    }
    expect(await past.detail(traps.next)).toBeUndefined()
    expect(await past.detail(0)).toBeUndefined()
  })

  test('has the accesses of the same register next to one', async () => {
    const { traps, past } = await scene(10)
    const { items } = traps.read(1, 1000, { registers: ['CMDQ_CONS'] })
    const [, second, third, fourth] = items
    expect(await past.detail(third?.id ?? 0)).toMatchObject({ previous: second, following: fourth })
  })

  test('has traps by their number, of the newest machine that had one', async () => {
    const { traps, past, first } = await scene(30)
    for (const seq of [1, 2, 50, 100]) {
      const row = await past.numbered(seq)
      expect(row).toMatchObject({ seq, kind: 'trap' })
      expect(row?.id).toBeGreaterThan(first)
      expect(row).toEqual(traps.numbered(seq))
    }
    expect(await past.numbered(1_000_000)).toBeUndefined()
  })

  test('is filtered as the log is', async () => {
    const { traps, past } = await scene(120)
    const filter: fc.Arbitrary<TrapFilter> = fc.record(
      {
        kinds: fc.subarray(['trap', 'reset', 'translate', 'request'] as const, { minLength: 1 }),
        registers: fc.subarray(['CMDQ_PROD', 'cmdq_cons', '0x20', 'GBPA'], { minLength: 1 }),
        access: fc.constantFrom('read' as const, 'write' as const),
        commands: fc.subarray(['CFGI_STE', 'TLBI_NH_VA', 'SYNC', 'TLBI_NH_ALL'], { minLength: 1 }),
        smmu: fc.constantFrom(0, 1),
        cpu: fc.constantFrom(0, 3),
        warnings: fc.boolean(),
        minUs: fc.constantFrom(0, 20),
        from: fc.constantFrom(0, 100_000),
        to: fc.constantFrom(150_000, 1e9),
        text: fc.constantFrom('', 'tlbi', 'function_564', 'cr0', '0x40'),
      },
      { requiredKeys: [] },
    )
    const all = (filter: TrapFilter) => traps.read(1, 100_000, filter).items
    await fc.assert(
      fc.asyncProperty(filter, fc.integer({ min: 1, max: 200 }), async (filter, max) => {
        const wanted = all(filter)
        const forward: TrapRow[] = []
        for (let next = 1; next < traps.next; ) {
          const found = await past.read(next, traps.next, max, filter)
          forward.push(...found.items)
          expect(found.next).toBeGreaterThan(next)
          next = found.next
        }
        expect(forward).toEqual(wanted)
        const back: TrapRow[] = []
        for (let before = traps.next; before > 1; ) {
          const found = await past.last(max, filter, before)
          back.unshift(...found.items)
          if (found.from === before) break
          before = found.from
        }
        expect(back).toEqual(wanted)
      }),
      { numRuns: 25 },
    )
  })

  test('that is gone, or of which the middle was left out, says so', async () => {
    const { past, path, first, traps } = await scene(5, 1 << 14)
    const gone = { status: 404, message: expect.stringMatching(/not in memory any more/) }
    let found = 0
    let lost = 0
    for (let id = 1; id < first; id += 7) {
      try {
        expect((await past.detail(id))?.row).toEqual(traps.detail(id)?.row)
        found++
      } catch (error) {
        expect(error).toMatchObject(gone)
        lost++
      }
    }
    expect(found).toBeGreaterThan(0)
    expect(lost).toBeGreaterThan(0)
    rmSync(path)
    await expect(past.detail(1)).rejects.toMatchObject(gone)
    // What is not there is no part of a list.
    expect(await past.last(10, {}, 60)).toEqual({ items: [], from: 1, missing: 59 })
    const { items } = await past.read(1, traps.next, 5, {})
    expect(items).toHaveLength(5)
    for (const row of items) {
      expect(row.id).toBeGreaterThan(first)
      expect(row).toEqual(traps.detail(row.id)?.row)
    }
  })

  test('in which rows are not where the log had them is not believed', async () => {
    const { path } = await scene(300)
    const rows = new RecordedRows()
    const window = (id: number) => ({ path, epoch: EPOCH, from: { id: 100, seq: 90 }, to: { id, seq: 200 } })
    expect(rows.find(window(210), { what: 'rows', first: 0, last: 1000, filter: {} }).rows[0]).toMatchObject({
      seq: 90,
    })
    for (const id of [209, 211]) {
      expect(() => rows.find(window(id), { what: 'detail', id: 150 })).toThrow(
        'the recording does not have them any more',
      )
    }
  })
})

test('more requests than can wait are refused', async () => {
  const { past } = await scene(20)
  const answers = await Promise.allSettled(Array.from({ length: 40 }, async () => past.detail(5)))
  const refused = answers.filter(({ status }) => status === 'rejected')
  expect(refused.length).toBeGreaterThan(10)
  expect(refused[0]).toMatchObject({ reason: { status: 409 } })
  expect(answers[0]?.status).toBe('fulfilled')
  expect(await past.detail(5)).toBeDefined()
})
