// SPDX-License-Identifier: Apache-2.0
/** Walks of recorded machines: as the live walk has it, or "not in the recording", never a guess. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeEach, describe, expect, test } from 'vitest'
import { decodeFeatures, QEMU_NESTED_ID_REGISTERS } from '../../../server/smmu/features.ts'
import { POWER_STATES, type SmmuHardware } from '../../../server/smmu/hardware.ts'
import * as R from '../../../server/smmu/registers.ts'
import { STRTAB_STE_0_CFG_NESTED } from '../../../server/smmu/ste.ts'
import { walkAnswer, walkText } from '../../../server/smmu/walkAnswer.ts'
import { Walker } from '../../../server/smmu/walker.ts'
import type { WalkStep } from '../../../server/smmu/walkSteps.ts'
import { NO_MACHINE } from '../../../server/trace/format.ts'
import { groups, isGroup } from '../../../server/trace/groups.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { RecordedMachine, recordedMachine } from '../../../server/trace/recordedMachine.ts'
import { type RecordOf, request, type TraceRecord } from '../../../server/trace/records.ts'
import { createRing, RingReader, RingWriter } from '../../../server/trace/ring.ts'
import { Shown } from '../../../server/trace/shown.ts'
import { TracedMemory } from '../../../server/trace/tracedMemory.ts'
import { Driver } from '../smmu/driver.ts'
import { linearRegisters, RAM_BASE, S2_RW, transaction } from '../smmu/support.ts'
import { folder, recording, trap } from './synthetic.ts'

const fixture = (name: string) => fileURLToPath(new URL(`recordings/${name}.gz`, import.meta.url))
const asked = { smmu: 0, sid: 8, iova: 0xffff_0000n, write: false }

describe('boots', () => {
  test.each(['6.1-nested', '6.12-nested'])(
    '%s: tables of the hypervisor are there, written long or short',
    async name => {
      const { machine } = await recordedMachine(fixture(name))
      const { outcome, steps, text } = machine.walk(asked)
      expect(steps.map(({ what, level }) => `${what}${level ?? ''}`)).toEqual([
        'L1STD',
        'STE',
        'S20',
        'S21',
        'S22',
        'S23',
        'CD',
      ])
      const [cd] = steps.slice(-1)
      expect(steps[1]?.text).toContain(`V nested S1ContextPtr=${cd?.ipa} `)
      expect(outcome).toBe('unknown')
      expect(text).toBe(`not in the recording: 64 bytes at ${cd?.address}`)
      expect(cd?.text).toBe('not in the recording')
    },
  )

  test('before the SMMU is on; a StreamID that has no entry', async () => {
    const at = async (trap: number, sid = 8) =>
      (await recordedMachine(fixture('6.12-nested'), trap)).machine.walk({ ...asked, sid })
    expect((await at(1)).text).toBe('aborted without an event')
    expect((await at(500, 0xff00)).outcome).toBe('fault')
  })

  test("until mmio the host's stream table is the hardware's, and nobody read it", async () => {
    const { machine } = await recordedMachine(fixture('6.12-mmio'))
    const { outcome, steps, text } = machine.walk(asked)
    expect(outcome).toBe('unknown')
    expect(steps.map(({ what }) => what)).toEqual(['L1STD'])
    expect(text).toBe(`not in the recording: 8 bytes at ${steps[0]?.address}`)
  })

  test('which moment it is', async () => {
    const moment = async (trap?: number) => (await recordedMachine(fixture('6.12-nested'), trap)).moment
    expect(await moment(7)).toBe('as it stood after trap 7')
    expect(await moment()).toBe('as it stood at the end of the recording, after trap 500')
  })

  test.each([
    [[0, 1, 1, 0, 0], 3, 'as it stood after trap 3, the last one with SMMU 0 on'],
    [[0, 1, 0, 1, 0], 4, 'as it stood after trap 4, the last one with SMMU 0 on'],
    [[0, 0, 1], 3, 'as it stood at the end of the recording, after trap 3'],
    [[0, 0], 2, 'as it stood at the end of the recording, in which SMMU 0 is never on'],
  ])('a guest that switches its SMMU off before it ends is walked before that: CR0 %j', async (values, last, said) => {
    const path = join(folder(), 'trace')
    await recording(path, writer => {
      writer.reset(0, 0, 1, 1)
      for (const [i, cr0] of values.entries()) {
        writer.hardware(0, true, 10 * i + 2, 1, R.ARM_SMMU_CR0, 4, cr0, 0, true)
        writer.trap({ ...trap, seq: i + 1, offset: R.ARM_SMMU_CR0, lo: cr0 }, 10 * i + 1, 5, 0, 0)
      }
    })
    const { machine, moment } = await recordedMachine(path)
    expect([machine.trap, moment]).toEqual([last, said])
    expect((await recordedMachine(path, undefined, undefined, { smmu: 1 })).moment).toMatch(/SMMU 1 is never on$/)
  })

  test('there is no such trap', async () => {
    await expect(recordedMachine(fixture('6.12-nested'), 501)).rejects.toThrow('no trap 501; its last is 500')
  })
})

const SID = 5
const VA = 0x40_1000n
const UNREAD = 0x80_0000_0000n - 0x1000n
const PA = 0x4001_0000n
const RESET: RecordOf<'reset'> = { kind: 'reset', cause: 0, time: 0, start: 1, duration: 1 }

describe('all that a walk reads was recorded', () => {
  let driver: Driver
  let records: TraceRecord[]
  let live: Walker

  beforeEach(() => {
    driver = new Driver({ caching: 'none' })
    const s1 = driver.stage(false, 39)
    const s2 = driver.stage(true, 44)
    driver.map(s1, VA, PA)
    driver.map(s2, BigInt(RAM_BASE), BigInt(RAM_BASE), S2_RW, 1)
    const cd = driver.cd({ t0: s1, asid: 1 })
    driver.ste({ config: STRTAB_STE_0_CFG_NESTED, cd, stage2: s2, vmid: 1 }, driver.strtab + 64 * SID)
    driver.on()

    // What a server does that translates: it reads and writes registers, and walks.
    const buffer = createRing(1 << 16)
    const ring = new RingWriter(buffer)
    const hardware: SmmuHardware = driver.smmu
    const into = { lo: 0, hi: 0 }
    for (const offset of [R.ARM_SMMU_IDR0, R.ARM_SMMU_IDR1, R.ARM_SMMU_IDR3, R.ARM_SMMU_IDR5]) {
      hardware.read(offset, 4, into)
      ring.hardware(0, false, 1, 1, offset, 4, into.lo, into.hi, true)
    }
    const registers = linearRegisters(driver.strtab, 4)
    ring.hardware(0, true, 1, 1, R.ARM_SMMU_STRTAB_BASE, 8, registers.strtabBaseLo, registers.strtabBaseHi, true)
    ring.hardware(0, true, 1, 1, R.ARM_SMMU_STRTAB_BASE_CFG, 4, registers.strtabBaseCfg, 0, true)
    ring.hardware(0, true, 1, 1, R.ARM_SMMU_CR2, 4, registers.cr2, 0, true)
    ring.hardware(0, true, 1, 1, R.ARM_SMMU_CR0, 4, registers.cr0, 0, true)
    const features = decodeFeatures(QEMU_NESTED_ID_REGISTERS)
    const walker = new Walker(features, new TracedMemory(driver.memory, ring))
    live = new Walker(features, driver.memory)
    for (const each of [walker, live]) each.setRegisters(registers)
    walker.translate(transaction(SID, VA))

    const reader = new RingReader(buffer)
    records = []
    reader.drain((layout, at) => records.push(reader.decode(layout, at)))
    records.push(RESET)
  })

  const state = (...more: TraceRecord[]) =>
    new RecordedMachine({ ...NO_MACHINE, ram: driver.memory.ram }).through(groups([...records, ...more]))
  const asked = (iova: bigint) => ({ smmu: 0, sid: SID, iova, write: true })

  test('it comes to the same, in the same words', () => {
    const steps: WalkStep[] = []
    const outcome = live.translate(transaction(SID, VA, { write: true }), step => steps.push(step))
    const answer = state().walk(asked(VA))
    expect(answer.outcome).toBe('translated')
    expect(walkText(answer)).toBe(walkText(walkAnswer(outcome, steps)))
  })

  test('another address: up to the first descriptor that nobody read, which is not taken for 0', () => {
    const { steps, outcome, text } = state().walk(asked(UNREAD))
    const last = steps.at(-1)
    expect(last).toMatchObject({ what: 'S1', level: 1, text: 'not in the recording', words: [] })
    expect([outcome, text]).toEqual(['unknown', `not in the recording: 8 bytes at ${last?.address}`])
  })

  test('what is not RAM is an abort, not a gap', () => {
    const { sid, ...rest } = asked(VA)
    driver.ste({ config: 5, cd: 0x1000 }, driver.strtab + 64 * sid)
    const bytes = driver.memory.bytes.slice(driver.strtab - RAM_BASE + 64 * sid).subarray(0, 64)
    const ste: TraceRecord = memory({ address: driver.strtab + 64 * sid, length: 64, bytes })
    const { outcome, text } = state(ste, NOTHING).walk({ sid, ...rest })
    expect(outcome).toBe('fault')
    expect(text).toContain('F_CD_FETCH')
  })

  test.each<[string, TraceRecord[]]>([
    ['records were lost', [{ kind: 'lost', count: 3 }]],
    ['the machine was reset', [RESET]],
  ])('%s: nothing is known any more', (_name, more) => {
    expect(state(...more).walk(asked(VA))).toMatchObject({ outcome: 'unknown', steps: [] })
  })

  test('a long write of which there is only a digest hides what was there; zeros are known', () => {
    const page = Math.floor(driver.strtab / 4096) * 4096
    const write = { write: 1, address: page, length: 4096, bytes: new Uint8Array() }
    expect(state(memory({ ...write, digest: 7 }), NOTHING).walk(asked(VA))).toMatchObject({
      outcome: 'unknown',
      steps: [{ what: 'STE', text: 'not in the recording' }],
    })
    expect(state(memory({ ...write, digest: 0 }), NOTHING).walk(asked(VA)).text).toContain('C_BAD_STE')
  })
})

/** A root that changes nothing. */
const NOTHING: RecordOf<'request'> = {
  ...{ kind: 'request', request: 0, result: 0, start: 2, duration: 1 },
  ...{ v0: 0, v1: 0, v2: 0, v3: 0 },
}

function memory(fields: Partial<RecordOf<'memory'>>): RecordOf<'memory'> {
  return {
    kind: 'memory',
    write: 0,
    address: 0,
    length: 0,
    done: 0,
    digest: 0,
    ok: 1,
    bytes: new Uint8Array(),
    ...fields,
  }
}

test('a long write into hypervisor memory whose content nobody has is not taken for 0', async () => {
  const path = join(folder(), 'trace')
  const base = 0x7c10_0000
  await recording(path, writer => {
    writer.reset(0, 0, 1, 1)
    writer.memory(true, base, 1024, 0, 0x1234_5678, true, new Uint8Array(), 0, 0)
    writer.trap({ ...trap, seq: 1 }, 10, 3, 5, 0)
  })
  const shown = new Shown(TraceReader.open(path).header.machine)
  for (const item of groups(TraceReader.open(path).records())) if (isGroup(item)) shown.group(item, new Map())
  const target = new Uint8Array(8)
  expect(shown.memory.read(base, target, 0, 8)).toBe(false)
  expect(shown.memory.missing).toEqual({ address: base, length: 8 })
  expect(shown.memory.read(base + 1024, target, 0, 8)).toBe(true)
  // A copy goes its own way.
  const copy = shown.memory.copy()
  copy.set(base, 8, new Uint8Array(8).fill(7))
  expect(copy.read(base, target, 0, 8)).toBe(true)
  expect(shown.memory.read(base, target, 0, 8)).toBe(false)
  shown.memory.set(base + 8, 8, new Uint8Array(8).fill(9))
  expect(copy.read(base + 8, target, 0, 8)).toBe(false)
})

test('an SMMU that lost its power has lost its registers; one that kept them has not', async () => {
  const registers = async (state: (typeof POWER_STATES)[number]) => {
    const path = join(folder(), 'trace')
    await recording(path, writer => {
      writer.reset(0, 0, 1, 1)
      for (const smmu of [0, 1]) {
        writer.hardware(smmu, true, 2, 1, R.ARM_SMMU_CR2, 4, 7, 0, true)
        writer.hardware(smmu, true, 2, 1, R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN, 0, true)
      }
      writer.trap({ ...trap, seq: 1 }, 10, 3, 5, 0)
      writer.request(request.power, 0, 20, 1, 0, POWER_STATES.indexOf(state), 0, 0)
    })
    const shown = new Shown(TraceReader.open(path).header.machine)
    for (const item of groups(TraceReader.open(path).records())) if (isGroup(item)) shown.group(item, new Map())
    return [0, 1].map(smmu => [R.ARM_SMMU_CR0, R.ARM_SMMU_CR2].map(at => shown.register('hardware', smmu, at)))
  }
  expect(await registers('off')).toEqual([
    [0, undefined],
    [R.CR0_SMMUEN, 7],
  ])
  expect(await registers('retained')).toEqual([
    [R.CR0_SMMUEN, 7],
    [R.CR0_SMMUEN, 7],
  ])
})
