// SPDX-License-Identifier: Apache-2.0
/**
 * What a case made happen that was worth noticing, as numbers: which warning at which register, which command got which verdict, which
 * entry became which, what a donation ended in, what devices met. A case that adds one is kept to go on from.
 */
import type { CommandVerdict, HypReport } from '../policy/report.ts'
import type { HypWarning } from '../policy/warnings.ts'

/** A warning of the hypervisor, and the step that it belongs to. */
export interface Warned {
  readonly step: number
  readonly code: string
  readonly expected: boolean
}

/** Kinds of features, by number: the top three bits of theirs. */
export const FEATURES = [
  'warning at a register',
  'verdict on a command',
  'command of its own',
  'entry from one to another',
  'transfer of pages and its result',
  'CR0 from one to another',
  'outcome of a device',
  'write of an SMMU',
] as const
const WARNING = 0
const COMMAND = 1
const OWN_COMMAND = 2
const STREAM = 3
const PAGES = 4
const CR0 = 5
const OUTCOME = 6
const WRITE = 7

const feature = (kind: number, a: number, b: number, c = 0): number => {
  let h = Math.imul(kind + 1, 0x9e3779b1) ^ a
  h = Math.imul(h ^ (h >>> 15), 0x85ebca6b) ^ b
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35) ^ c
  h = Math.imul(h ^ (h >>> 16), 0x27d4eb2f)
  return ((kind << 29) | ((h ^ (h >>> 15)) & 0x1fff_ffff)) >>> 0
}

/** Index in FEATURES of what a feature is about. */
export const kindOf = (feature: number): number => feature >>> 29

export class Feedback implements HypReport {
  /** Of the case at hand. */
  readonly features = new Set<number>()
  readonly warnings: Warned[] = []
  /** Why an SMMU cannot isolate, if one cannot. */
  refusal: string | null = null
  /** Result of the last transfer of pages that the hypervisor told. */
  lastTransfer: { operation: number; base: number; size: number; owner: number; result: number } | undefined
  /** The step that is performed, and a number for what it is: the offset of a register, or less than 0. */
  step = 0
  what = 0
  readonly #configs = new Map<number, number>()

  /** A new case begins. */
  begin(): void {
    this.features.clear()
    this.warnings.length = 0
    this.refusal = null
    this.lastTransfer = undefined
    this.#configs.clear()
  }

  warn(warning: HypWarning): void {
    this.features.add(feature(WARNING, warning.id, this.what))
    this.warnings.push({ step: this.step, code: warning.code, expected: warning.expected })
  }

  command(_smmu: number, opcode: number, verdict: CommandVerdict): void {
    this.features.add(feature(COMMAND, opcode, verdict))
  }

  hypCommand(_smmu: number, opcode: number): void {
    this.features.add(feature(OWN_COMMAND, opcode, this.what))
  }

  stream(smmu: number, sid: number, hostConfig: number, shadowConfig: number): void {
    const key = smmu * 2 ** 32 + sid
    this.features.add(feature(STREAM, this.#configs.get(key) ?? -2, hostConfig, shadowConfig))
    this.#configs.set(key, hostConfig)
  }

  pages(operation: number, base: number, size: number, owner: number, result: number): void {
    this.features.add(feature(PAGES, operation, result, this.what))
    this.lastTransfer = { operation, base, size, owner, result }
  }

  probe(_smmu: number, refusal: string | null): void {
    this.refusal ??= refusal
  }

  /** CR0 changed. */
  cr0(from: number, to: number): void {
    this.features.add(feature(CR0, from, to))
  }

  /** A device met something. `event`: id of the event, 0 for none. */
  outcome(how: number, kind: number, event: number, owner: number): void {
    this.features.add(feature(OUTCOME, how * 8 + kind, event, owner))
  }

  /** The SMMU wrote to a page of `owner`. */
  write(what: number, owner: number): void {
    this.features.add(feature(WRITE, what, owner))
  }
}
