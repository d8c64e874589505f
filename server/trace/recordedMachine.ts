// SPDX-License-Identifier: Apache-2.0
/** A recorded machine as it stood after a trap, and walks of its tables. */
import type { PolicyFactory, PolicyOptions } from '../policy/policy.ts'
import { NO_WARNINGS } from '../policy/warnings.ts'
import { decodeFeatures } from '../smmu/features.ts'
import * as R from '../smmu/registers.ts'
import { NO_SSID } from '../smmu/transaction.ts'
import { shownAnswer, type UnknownAnswer, unknownAnswer, type WalkAnswer } from '../smmu/walkAnswer.ts'
import { Walker, type WalkRegisters } from '../smmu/walker.ts'
import type { WalkStep } from '../smmu/walkSteps.ts'
import type { MachineDescription } from './format.ts'
import { type Group, groups, type Item, isGroup } from './groups.ts'
import { type Problem, TraceReader } from './reader.ts'
import { recordedPolicy } from './recordedPolicy.ts'
import { Replay } from './replay.ts'
import { type LongWrites, Shown, type View } from './shown.ts'

export interface RecordedWalkRequest {
  readonly smmu: number
  readonly sid: number
  readonly ssid?: number
  /** Input address. */
  readonly iova: bigint
  readonly write: boolean
  readonly table?: View
}

/** A register that the recording does not show. */
class NotShown extends Error {}

/**
 * A recorded machine as it stood after a decision. Memory is what the recording shows of it: what was read, and what the
 * hypervisor wrote. Of its long writes the recording has digests only: the policy makes them again, and they count if the
 * digest is the same.
 */
export class RecordedMachine {
  readonly #shown: Shown
  readonly #replay: Replay | undefined
  /** Number of the last trap that was taken in, 0: none. */
  trap = 0
  /** Why the policy does not make long writes again, if it does not. */
  problem: string | undefined

  constructor(machine: MachineDescription, factory?: PolicyFactory, options: PolicyOptions = {}) {
    this.#shown = new Shown(machine)
    this.#replay = factory && new Replay(machine, factory, options, { warnings: NO_WARNINGS })
  }

  /** Takes in the recording up to and with trap `at`, or all of it. */
  through(items: Iterable<Item>, at = Number.POSITIVE_INFINITY): this {
    for (const item of items) {
      if (!isGroup(item)) {
        this.#shown.record(item)
        continue
      }
      this.#shown.group(item, this.#again(item))
      if (item.root.kind !== 'trap') continue
      this.trap = item.root.seq
      if (this.trap >= at) break
    }
    return this
  }

  #again(group: Group): LongWrites {
    const replay = this.#replay
    if (replay === undefined || this.problem !== undefined) return new Map()
    try {
      for (const _ of replay.run([group]));
      return replay.longWrites
    } catch (error) {
      this.problem = (error as Error).message
      return new Map()
    }
  }

  /** @throws RangeError for an SMMU that the walker does not model */
  walk({
    smmu,
    sid,
    ssid = NO_SSID,
    iova,
    write,
    table = 'hardware',
  }: RecordedWalkRequest): WalkAnswer | UnknownAnswer {
    const { memory } = this.#shown
    const steps: WalkStep[] = []
    try {
      const id = (offset: number) => this.#register('hardware', smmu, offset)
      const idr0 = id(R.ARM_SMMU_IDR0)
      const features = { idr0, idr1: id(R.ARM_SMMU_IDR1), idr3: id(R.ARM_SMMU_IDR3), idr5: id(R.ARM_SMMU_IDR5) }
      const walker = new Walker(decodeFeatures(features), memory)
      walker.setRegisters(this.#registers(table, smmu))
      memory.missing = undefined
      const [lo, hi] = [Number(iova & 0xffff_ffffn), Number((iova >> 32n) & 0xffff_ffffn)]
      const outcome = walker.translate({ sid, ssid, lo, hi, write, privileged: false, instruction: false }, step =>
        steps.push(step),
      )
      return shownAnswer(outcome, steps, (memory as { missing: Shown['memory']['missing'] }).missing)
    } catch (error) {
      if (error instanceof NotShown) return unknownAnswer(error.message, [])
      throw error
    }
  }

  #register(view: View, smmu: number, offset: number): number {
    const value = this.#shown.register(view, smmu, offset)
    if (value === undefined) throw new NotShown(`register ${R.registerName(offset)} of SMMU ${smmu}`)
    return value
  }

  /** Those that the walk needs. */
  #registers(view: View, smmu: number): WalkRegisters {
    const cr0 = this.#register(view, smmu, R.ARM_SMMU_CR0)
    if ((cr0 & R.CR0_SMMUEN) === 0) {
      const gbpa = this.#register(view, smmu, R.ARM_SMMU_GBPA)
      return { cr0, cr2: 0, gbpa, strtabBaseLo: 0, strtabBaseHi: 0, strtabBaseCfg: 0 }
    }
    return {
      cr0,
      cr2: this.#register(view, smmu, R.ARM_SMMU_CR2),
      gbpa: 0,
      strtabBaseLo: this.#register(view, smmu, R.ARM_SMMU_STRTAB_BASE),
      strtabBaseHi: this.#register(view, smmu, R.ARM_SMMU_STRTAB_BASE + 4),
      strtabBaseCfg: this.#register(view, smmu, R.ARM_SMMU_STRTAB_BASE_CFG),
    }
  }
}

/**
 * The last trap after which an SMMU was on: a guest that ends switches it off, and then there is nothing to walk.
 * @returns undefined: it is on at the end; 0: it never was
 */
function lastEnabled(reader: TraceReader, smmu: number, view: View): number | undefined {
  const shown = new Shown(reader.header.machine)
  const none: LongWrites = new Map()
  let [trap, last, on] = [0, 0, false]
  for (const item of groups(reader.records())) {
    if (isGroup(item)) {
      shown.group(item, none)
      if (item.root.kind === 'trap') trap = item.root.seq
    } else shown.record(item)
    on = ((shown.register(view, smmu, R.ARM_SMMU_CR0) ?? 0) & R.CR0_SMMUEN) !== 0
    if (on) last = trap
  }
  return on ? undefined : last
}

/**
 * The machine of a recording after trap `at`; default: after the last trap at which the SMMU was on.
 * @param policy name or file, from the command line; absent: the recorded one
 * @param of SMMU and registers that are asked for
 * @returns also which moment that is, what is wrong with the recording, and in a sentence what is not known
 * @throws Error when the file is no trace, or has no such trap
 */
export async function recordedMachine(
  path: string,
  at?: number,
  policy?: string,
  { smmu, table = 'hardware' }: { readonly smmu: number; readonly table?: View } = { smmu: 0 },
): Promise<{
  readonly machine: RecordedMachine
  readonly moment: string
  readonly problems: readonly Problem[]
  readonly unknown?: string
}> {
  const reader = TraceReader.open(path)
  const { header } = reader
  let problem: string | undefined
  const loaded = await recordedPolicy(header, policy).catch((error: Error) => {
    problem = error.message
    return undefined
  })
  const last = at === undefined ? lastEnabled(reader, smmu, table) : undefined
  const machine = new RecordedMachine(header.machine, loaded?.factory, loaded?.options).through(
    groups(reader.records()),
    at ?? (last || undefined),
  )
  if (at !== undefined && machine.trap !== at) throw new Error(`${path}: no trap ${at}; its last is ${machine.trap}`)
  problem ??= machine.problem
  const unknown = problem && `some of what the hypervisor wrote is not known: ${problem}`
  const moments = {
    asked: `as it stood after trap ${machine.trap}`,
    end: `as it stood at the end of the recording, after trap ${machine.trap}`,
    last: `as it stood after trap ${machine.trap}, the last one with SMMU ${smmu} on`,
    never: `as it stood at the end of the recording, in which SMMU ${smmu} is never on`,
  }
  const moment = at !== undefined ? 'asked' : last === undefined ? 'end' : last > 0 ? 'last' : 'never'
  return { machine, moment: moments[moment], problems: reader.problems, ...(unknown !== undefined && { unknown }) }
}
