// SPDX-License-Identifier: Apache-2.0
/** The translator's caches follow the commands that the hardware consumes, and lockstep tells findings from known differences. */
import { beforeEach, describe, expect, test } from 'vitest'
import { FrameReader, FrameWriter } from '../../../protocol/framing.ts'
import { Decoder, Id, type Translate, type Translated } from '../../../protocol/generated/messages.ts'
import { enums } from '../../../protocol/messages.ts'
import { EVT_ID_BAD_STREAMID_CONFIG } from '../../../server/smmu/events.ts'
import { STRTAB_STE_0_CFG_S1_TRANS } from '../../../server/smmu/ste.ts'
import { createRing, RingReader, RingWriter } from '../../../server/trace/ring.ts'
import { TracedMemory } from '../../../server/trace/tracedMemory.ts'
import { type Answer, newAnswer, setOutcome } from '../../../server/translate/answer.ts'
import { TrackedHardware } from '../../../server/translate/trackedHardware.ts'
import { type TranslateMode, Translator } from '../../../server/translate/translator.ts'
import { C, Driver, LOG2_CMDS, R } from '../smmu/driver.ts'
import { transaction } from '../smmu/support.ts'

const SID = 5
const NO_ENTRY = 20
const VA = 0x40_1000n
const OTHER_VA = 0x40_2000n
const OLD = 0x4001_0000
const NEW = 0x4002_0000
const ASID = 3
const WRITE = enums.access.write[0]

/** A SoftSmmu that caches nothing stands for the hardware; everything written to it goes through the translator's port. */
class Machine extends Driver {
  readonly tracked = new TrackedHardware(this.smmu, this.memory)
  readonly ring = createRing(1 << 16)
  readonly translator: Translator
  readonly s1 = this.stage(false, 39)
  readonly #out = new FrameWriter()
  readonly #decoder = new Decoder('qemu')

  constructor(mode: TranslateMode) {
    super({ caching: 'none' })
    const writer = new RingWriter(this.ring)
    const memory = { plain: this.memory, traced: new TracedMemory(this.memory, writer) }
    this.translator = new Translator(mode, memory, writer, [this.tracked])
    this.translator.reset()
    this.map(this.s1, VA, BigInt(OLD))
    this.map(this.s1, OTHER_VA, BigInt(OLD))
    this.ste({ config: STRTAB_STE_0_CFG_S1_TRANS, cd: this.cd({ t0: this.s1, asid: ASID }) }, this.strtab + 64 * SID)
    this.on()
  }

  override write(offset: number, value: number): void {
    if (!this.tracked.write(offset, 4, value, 0)) throw new Error('write aborted')
  }

  override write64(offset: number, value: number): void {
    if (!this.tracked.write(offset, 8, value % 2 ** 32, Math.floor(value / 2 ** 32))) throw new Error('write aborted')
  }

  /** What the tables say now, or a change of that. */
  hardware(sid: number, va: bigint, write = false): Answer {
    const answer = newAnswer()
    setOutcome(answer, this.smmu.translate(transaction(sid, va, { write })))
    return answer
  }

  ask(va: bigint, sid = SID, { write = false, hardware = this.hardware(sid, va, write) } = {}): Translated {
    const [record0Lo = 0, record0Hi = 0, record1Lo = 0, record1Hi = 0] = hardware.words
    const [, , , , record2Lo = 0, record2Hi = 0, record3Lo = 0, record3Hi = 0] = hardware.words
    const { status, pa, addressMask, permissions } = hardware
    const records = { record0Lo, record0Hi, record1Lo, record1Hi, record2Lo, record2Hi, record3Lo, record3Hi }
    const input = { sid, ssid: 0, iovaHi: Number(va >> 32n), iovaLo: Number(va & 0xffff_ffffn), time: 0 }
    const request: Translate = {
      ...{ type: Id.translate, seq: 1, smmu: 0, ...input, access: write ? WRITE : 0 },
      ...{ status, pa, addressMask, permissions, ...records },
    }
    this.translator.request(this.#out, request)
    const reader = new FrameReader()
    reader.push(Buffer.from(this.#out.buffer.subarray(0, this.#out.length)))
    this.#out.reset()
    reader.next()
    return { ...(this.#decoder.decode(reader.buffer, reader.start, reader.end) as Translated) }
  }

  remap(va: bigint, pa: number): this {
    this.map(this.s1, va, BigInt(pa))
    return this
  }
}

const byAsid = [C.CMDQ_TLBI_0_ASID, ASID] as const

describe('caches', () => {
  let machine: Machine
  beforeEach(() => {
    machine = new Machine('server')
  })
  const pa = (va = VA) => machine.ask(va).pa

  test('nothing is read again that no command removed', () => {
    expect(pa()).toBe(OLD)
    machine.memory.reads = 0
    expect(machine.ask(VA, SID, { hardware: newAnswer() }).pa).toBe(OLD)
    expect(machine.memory.reads).toBe(0)
  })

  test('an invalidation that was swallowed shows as a translation by the old tables', () => {
    expect(pa()).toBe(OLD)
    machine.remap(VA, NEW)
    expect(pa()).toBe(OLD)
    machine.command(C.CMDQ_OP_TLBI_NH_ASID, [...byAsid])
    expect(pa()).toBe(NEW)
  })

  test('an invalidation that is too narrow as well', () => {
    pa()
    pa(OTHER_VA)
    machine.remap(VA, NEW).remap(OTHER_VA, NEW)
    machine.postRaw(C.CMDQ_OP_TLBI_NH_VA, Number(VA), [...byAsid]).go()
    expect([pa(), pa(OTHER_VA)]).toEqual([NEW, OLD])
  })

  test('all commands of a batch, around the end of the queue', () => {
    const size = 1 << LOG2_CMDS
    for (let round = 0; round < 5; round++) {
      machine.remap(VA, round % 2 ? OLD : NEW)
      for (let i = 0; i < size - 1; i++) machine.post(C.CMDQ_OP_CMD_SYNC)
      machine.command(C.CMDQ_OP_TLBI_NH_ASID, [...byAsid])
      machine.post(C.CMDQ_OP_CMD_SYNC).post(C.CMDQ_OP_CMD_SYNC).post(C.CMDQ_OP_CMD_SYNC).go()
      expect(pa()).toBe(round % 2 ? OLD : NEW)
    }
  })

  test('commands that were posted while the queue was off count when it is on', () => {
    pa()
    machine.remap(VA, NEW)
    machine.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN)
    machine.command(C.CMDQ_OP_TLBI_NH_ASID, [...byAsid])
    expect(pa()).toBe(OLD)
    machine.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN)
    expect(pa()).toBe(NEW)
  })

  test('after an error in the queue nothing is kept that a command behind it might have removed', () => {
    machine.post(0xff).command(C.CMDQ_OP_TLBI_NH_ASID, [...byAsid])
    pa()
    machine.remap(VA, NEW)
    machine.memory.write(machine.cmdq, new Uint8Array([C.CMDQ_OP_CMD_SYNC]), 0, 1)
    machine.write(R.ARM_SMMU_GERRORN, R.GERROR_CMDQ_ERR)
    expect(pa()).toBe(NEW)
  })

  test('PROD far beyond the queue, and a queue that is not RAM, forget everything', () => {
    for (const break_ of [
      () => machine.write(R.ARM_SMMU_CMDQ_CONS, 1),
      () => {
        machine.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN)
        machine.write64(R.ARM_SMMU_CMDQ_BASE, 0x1000_0000 + LOG2_CMDS)
        machine.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN)
        machine.write(R.ARM_SMMU_CMDQ_PROD, 3)
      },
    ]) {
      machine = new Machine('server')
      pa()
      machine.remap(VA, NEW)
      machine.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN)
      break_()
      machine.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN)
      expect(pa()).toBe(NEW)
    }
  })

  test.each([
    ['aborts', R.GBPA_ABORT, enums.translation.silent[0]],
    ['lets all pass', 0, enums.translation.bypass[0]],
  ])('an SMMU that is off %s, as GBPA says', (_, gbpa, status) => {
    machine.write(R.ARM_SMMU_CR0, 0)
    machine.write(R.ARM_SMMU_GBPA, (gbpa | R.GBPA_UPDATE) >>> 0)
    expect(machine.ask(VA).status).toBe(status)
  })

  test('a stream table above 4 GiB is not the one below', () => {
    expect(pa()).toBe(OLD)
    machine.write(R.ARM_SMMU_CR0, 0)
    machine.write64(R.ARM_SMMU_STRTAB_BASE, 2 ** 32 + machine.strtab)
    machine.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN)
    machine.command(C.CMDQ_OP_CFGI_ALL, [C.CMDQ_CFGI_1_RANGE, 31])
    expect(machine.ask(VA).status).toBe(enums.translation.fault[0])
  })

  test('a reset of the machine', () => {
    pa()
    machine.remap(VA, NEW)
    machine.translator.reset()
    expect(pa()).toBe(NEW)
  })

  test('what a walk read is on the trace, before the walk', () => {
    machine.ask(VA)
    const reader = new RingReader(machine.ring)
    const kinds: string[] = []
    reader.drain(({ name }) => kinds.push(name))
    expect(kinds).toEqual(['memory', 'memory', 'memory', 'memory', 'memory', 'translate'])
  })
})

describe('lockstep', () => {
  let machine: Machine
  beforeEach(() => {
    machine = new Machine('lockstep')
  })

  test('the same: nothing to tell', () => {
    machine.ask(VA)
    machine.ask(0x50_0000n)
    const { misses, faults, mismatches, findings, explained } = machine.translator.report()
    expect({ misses, faults, mismatches, findings, explained }).toEqual({
      ...{ misses: 2, faults: 1, mismatches: 0, findings: [], explained: [] },
    })
  })

  test('a difference that nobody knows is a finding with both answers and the tables', () => {
    machine.ask(VA, SID, { hardware: { ...machine.hardware(SID, VA), pa: NEW } })
    const { mismatches, findings, explained } = machine.translator.report()
    expect(mismatches).toBe(1)
    expect(explained).toEqual([])
    expect(findings).toEqual([
      expect.objectContaining({
        sid: SID,
        iova: '0x401000',
        access: 'read',
        hardware: expect.stringContaining('40020000'),
      }),
    ])
    expect(findings[0]?.walker).toContain('40010000')
    expect(findings[0]?.tables).toBeUndefined()
    expect(findings[0]?.steps.map(step => step.split(' ')[0])).toEqual(['STE', 'CD', 'S1', 'S1', 'S1'])
  })

  test('a missing invalidation is a finding that says so, whatever else QEMU does differently', () => {
    machine.ask(VA)
    machine.remap(VA, NEW)
    machine.ask(VA)
    const [finding] = machine.translator.report().findings
    expect(finding).toMatchObject({
      hardware: expect.stringContaining('40020000'),
      walker: expect.stringContaining('40010000'),
      tables: expect.stringContaining('40020000'),
    })
  })

  test('a known difference is counted apart, with its name and section', () => {
    machine.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    machine.write(R.ARM_SMMU_CR2, 0)
    machine.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN | R.CR0_SMMUEN)
    const recorded = newAnswer()
    recorded.status = enums.translation.fault[0]
    recorded.words[0] = EVT_ID_BAD_STREAMID_CONFIG
    recorded.words[1] = NO_ENTRY
    machine.ask(VA, NO_ENTRY, { hardware: recorded })
    machine.ask(VA, NO_ENTRY, { hardware: recorded })
    const { mismatches, findings, explained } = machine.translator.report()
    expect({ mismatches, findings }).toEqual({ mismatches: 0, findings: [] })
    expect(explained).toEqual([
      { difference: 'C_BAD_STREAMID is recorded whatever RECINVSID says', section: '7.3.3', count: 2 },
    ])
  })
})
