// SPDX-License-Identifier: Apache-2.0
/** QEMU, the walker and SoftSmmu, given the same tables and accesses. */

import { hex } from '../../server/smmu/bits.ts'
import { cfgiAll, tlbiNsnhAll } from '../../server/smmu/commands.ts'
import { decodeFeatures, QEMU_NESTED_ID_REGISTERS } from '../../server/smmu/features.ts'
import * as R from '../../server/smmu/registers.ts'
import { SoftSmmu } from '../../server/smmu/soft/softSmmu.ts'
import type { Transaction } from '../../server/smmu/transaction.ts'
import { describeStep } from '../../server/smmu/walkSteps.ts'
import { type Answer, describeAnswer, newAnswer, sameAnswer, setOutcome } from '../../server/translate/answer.ts'
import { type Case, Examiner, explain } from '../../server/translate/differences.ts'
import { FlatMemory, linearRegisters, RAM_BASE, transaction } from '../unit/smmu/support.ts'
import { type Configuration, STRTAB } from './cases.ts'
import { type Access, LOCKSTEP_SID, LockstepMachine } from './lockstep.ts'

const MEMORY_MIB = 8
/** SoftSmmu's queues; nothing else is there. */
const CMDQ = RAM_BASE + 0x60_0000
const EVTQ = RAM_BASE + 0x61_0000
const LOG2_STREAMS = 6

/** A case that nothing explains. */
export class Unexplained extends Error {}

export class Differential {
  readonly #machine: LockstepMachine
  readonly #memory = new FlatMemory(MEMORY_MIB << 20)
  readonly #examiner = new Examiner(decodeFeatures(QEMU_NESTED_ID_REGISTERS), this.#memory)
  /** Without nT (IDR3.BBML), of whose blocks SoftSmmu keeps single granules: the walker keeps nothing and tells the whole block. */
  readonly #soft = new SoftSmmu(this.#memory, {
    id: { ...QEMU_NESTED_ID_REGISTERS, idr3: (QEMU_NESTED_ID_REGISTERS.idr3 & ~R.IDR3_BBML) >>> 0 },
  })
  #softProd = 0
  cases = 0
  same = 0
  /** Cases by the names of their differences. */
  readonly counts = new Map<string, number>()
  readonly #explain: typeof explain

  private constructor(machine: LockstepMachine, explainWith: typeof explain) {
    this.#machine = machine
    this.#explain = explainWith
    this.#examiner.setRegisters(linearRegisters(STRTAB, LOG2_STREAMS))
    const write = (offset: number, size: number, value: number) => this.#soft.write(offset, size, value, 0)
    write(R.ARM_SMMU_STRTAB_BASE, 8, STRTAB)
    write(R.ARM_SMMU_STRTAB_BASE_CFG, 4, LOG2_STREAMS)
    write(R.ARM_SMMU_CMDQ_BASE, 8, CMDQ + 1)
    write(R.ARM_SMMU_EVTQ_BASE, 8, EVTQ + 1)
    write(R.ARM_SMMU_CR2, 4, R.CR2_RECINVSID)
    write(R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN)
    const commands = new Uint32Array(8)
    cfgiAll(commands.subarray(0, 4))
    tlbiNsnhAll(commands.subarray(4))
    this.#memory.write(CMDQ, new Uint8Array(commands.buffer), 0, 32)
  }

  static async start(explainWith = explain): Promise<Differential> {
    const machine = await LockstepMachine.start(
      [
        [R.ARM_SMMU_STRTAB_BASE, 8, STRTAB],
        [R.ARM_SMMU_STRTAB_BASE_CFG, 4, LOG2_STREAMS],
        [R.ARM_SMMU_CR2, 4, R.CR2_RECINVSID],
        [R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN | R.CR0_EVTQEN],
      ],
      MEMORY_MIB,
    )
    return new Differential(machine, explainWith)
  }

  /**
   * Installs the tables and makes the accesses.
   * @throws Unexplained with the case as it was, and shrunken
   */
  async run({ name, bytes, accesses }: Configuration): Promise<void> {
    this.#install(bytes)
    const answers = await this.#machine.run(accesses)
    for (const [i, access] of accesses.entries()) {
      const hardware = answers[i] ?? newAnswer()
      const found = this.#judge(access, hardware)
      const names = this.#explain(found)
      this.cases++
      if (names === undefined) {
        const tables = this.#memory.bytes.slice(0, bytes.length)
        const small = await this.#shrink(tables, access)
        throw new Unexplained(
          `${name}, access ${i}\n${text(found)}\n\nshrunken:\n${text(small.found)}\n${dump(small.bytes)}`,
        )
      }
      if (names.length === 0) this.same++
      for (const each of names) this.counts.set(each, (this.counts.get(each) ?? 0) + 1)
      if (access.write) this.#wrote(access, hardware)
    }
  }

  #install(bytes: Uint8Array): void {
    this.#memory.bytes.set(bytes)
    this.#machine.write(0, bytes)
  }

  /** What the device wrote to QEMU's memory. */
  #wrote({ address }: Access, { status, pa }: Answer): void {
    if (status === 0) this.#memory.write(pa, new Uint8Array(1), 0, 1)
    else if (status === 3 && address < 1n << 44n) this.#memory.write(Number(address), new Uint8Array(1), 0, 1)
  }

  #judge({ address, write }: Access, hardware: Answer): Case {
    const t = transaction(LOCKSTEP_SID, address, { write })
    const found = this.#examiner.examine(t, hardware)
    this.#compareSoft(t, found.walker)
    return found
  }

  /** SoftSmmu with its queues and caches says what the walker says: the event is the one in its queue. */
  #compareSoft(t: Transaction, walker: Answer): void {
    this.#softProd = (this.#softProd + 2) & 3
    this.#soft.write(R.ARM_SMMU_CMDQ_PROD, 4, this.#softProd, 0)
    const answer = newAnswer()
    setOutcome(answer, this.#soft.translate(t))
    const prod = { lo: 0, hi: 0 }
    const cons = { lo: 0, hi: 0 }
    this.#soft.read(R.ARM_SMMU_EVTQ_PROD, 4, prod)
    this.#soft.read(R.ARM_SMMU_EVTQ_CONS, 4, cons)
    answer.words.fill(0)
    if (prod.lo !== cons.lo) {
      this.#memory.read(EVTQ + 32 * (cons.lo & 1), answer.record, 0, 32)
      this.#soft.write(R.ARM_SMMU_EVTQ_CONS, 4, prod.lo, 0)
    }
    if (!sameAnswer(answer, walker)) {
      throw new Error(`SoftSmmu: ${describeAnswer(answer)}\nwalker: ${describeAnswer(walker)}`)
    }
  }

  async #once(bytes: Uint8Array, access: Access): Promise<Case> {
    this.#install(bytes)
    const [hardware = newAnswer()] = await this.#machine.run([access])
    return this.#judge(access, hardware)
  }

  /** The same difference with as few bits as possible: clears what was read bit by bit, as long as it stays unexplained. */
  async #shrink(start: Uint8Array, access: Access): Promise<{ found: Case; bytes: Uint8Array }> {
    let bytes = start
    let found = await this.#once(bytes, access)
    const unexplained = (c: Case) => this.#explain(c) === undefined
    if (!unexplained(found)) return { found, bytes }
    const attempt = async (change: (view: DataView) => void) => {
      const next = bytes.slice()
      change(new DataView(next.buffer))
      const c = await this.#once(next, access)
      if (unexplained(c)) [bytes, found] = [next, c]
    }
    const words = (c: Case) =>
      c.steps.flatMap(({ address, words: read }) => (read ?? []).map((_, i) => address - RAM_BASE + 8 * i))
    await attempt(view => {
      const kept = words(found).map(at => [at, view.getBigUint64(at, true)] as const)
      new Uint8Array(view.buffer).fill(0)
      for (const [at, word] of kept) view.setBigUint64(at, word, true)
    })
    for (const at of new Set(words(found))) {
      if (at < 0 || at + 8 > bytes.length) continue
      await attempt(view => view.setBigUint64(at, 0n, true))
      for (let bit = 0n; bit < 64n; bit++) {
        const word = new DataView(bytes.buffer).getBigUint64(at, true)
        if (word & (1n << bit)) await attempt(view => view.setBigUint64(at, word & ~(1n << bit), true))
      }
    }
    return { found, bytes }
  }

  dispose(): Promise<void> {
    return this.#machine.dispose()
  }
}

function text({ address, write, steps, walker, hardware }: Case): string {
  return [
    `${write ? 'write' : 'read'} of ${hex(address)}`,
    `  walker: ${describeAnswer(walker)}`,
    `  QEMU:   ${describeAnswer(hardware)}`,
    ...steps.map(step => `    ${describeStep(step)}`),
  ].join('\n')
}

/** Words that are not 0, a few. */
function dump(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer)
  const lines: string[] = []
  for (let at = 0; at < bytes.length && lines.length < 64; at += 8) {
    const word = view.getBigUint64(at, true)
    if (word !== 0n) lines.push(`  ${hex(RAM_BASE + at)}: ${hex(word)}`)
  }
  return lines.join('\n')
}
