// SPDX-License-Identifier: Apache-2.0
/** Faults of commands while they are copied: out of the host's queue, or into the shadow queue. */
import { commandBytes, WITH_RANGE, WITH_STREAM } from '../cosim/breakpoints.ts'
import { getField } from '../smmu/bits.ts'
import {
  CMDQ_0_OP,
  CMDQ_CFGI_0_SID,
  CMDQ_CFGI_1_LEAF,
  CMDQ_ENT_WORDS,
  CMDQ_OP_CFGI_STE,
  CMDQ_OP_CMD_SYNC,
  CMDQ_OP_PREFETCH_CFG,
  CMDQ_OP_TLBI_NH_ALL,
  CMDQ_OP_TLBI_NH_ASID,
  CMDQ_OP_TLBI_NH_VA,
  CMDQ_OP_TLBI_S2_IPA,
  CMDQ_OP_TLBI_S12_VMALL,
  CMDQ_TLBI_0_ASID,
  CMDQ_TLBI_0_VMID,
  commandPage,
} from '../smmu/commands.ts'
import type { ArmedRule } from './armed.ts'
import { changed } from './armed.ts'
import { FREE_ACTIONS, type WhatOf } from './rule.ts'

const WITH_ASID: ReadonlySet<number> = new Set([CMDQ_OP_TLBI_NH_ASID, CMDQ_OP_TLBI_NH_VA])
const WITH_VMID: ReadonlySet<number> = new Set([
  ...WITH_ASID,
  ...WITH_RANGE,
  CMDQ_OP_TLBI_NH_ALL,
  CMDQ_OP_TLBI_S12_VMALL,
  CMDQ_OP_TLBI_S2_IPA,
])
/** An opcode that the architecture leaves reserved. */
const ILLEGAL = 0xff

/** What a queue's faults do outside of it. */
export interface QueueEffects {
  /** A rule alters a command. */
  fired(armed: ArmedRule, words: Uint32Array, at: number): void
  /** CONS is to stand at the command with this index in the batch. */
  stand(armed: ArmedRule, index: number): void
  /** A free action. */
  act(armed: ArmedRule): void
}

interface Deferred {
  readonly words: Uint32Array
  /** CMD_SYNCs to pass over first. */
  syncs: number
}

/** One queue: of the host or of the hardware, of one SMMU. */
export class FaultyQueue {
  readonly #host: boolean
  readonly #deferred: Deferred[] = []

  /** @param host the guest's queue; else the shadow queue */
  constructor(host: boolean) {
    this.#host = host
  }

  /** Alters `count` commands, a copy of which stands in `words`. @returns whether anything was altered. */
  alter(words: Uint32Array, count: number, rules: readonly ArmedRule[], time: number, effects: QueueEffects): boolean {
    let altered = false
    /** First command since the last CMD_SYNC. */
    let group = 0
    for (let i = 0; i < count; i++) {
      const at = i * CMDQ_ENT_WORDS
      if (getField(words, CMDQ_0_OP, at) === CMDQ_OP_CMD_SYNC && this.#takeSync(words, at)) altered = true
      for (const armed of rules) {
        if (!commandMatches(armed, words, at) || !armed.trigger.match(time)) continue
        if (!FREE_ACTIONS.has(armed.rule.what.do)) effects.fired(armed, words, at)
        if (this.#apply(armed, words, i, count, group, effects)) altered = true
        if (armed.rule.what.do === 'reorder') i++
        break
      }
      if (getField(words, CMDQ_0_OP, at) === CMDQ_OP_CMD_SYNC) group = i + 1
    }
    return altered
  }

  /** A CMD_SYNC gives its place to a command that waits for one. */
  #takeSync(words: Uint32Array, at: number): boolean {
    const due = this.#deferred.findIndex(({ syncs }) => syncs <= 1)
    for (const deferred of this.#deferred) deferred.syncs--
    if (due < 0) return false
    const [deferred] = this.#deferred.splice(due, 1)
    if (deferred !== undefined) words.set(deferred.words, at)
    return true
  }

  #apply(
    armed: ArmedRule,
    words: Uint32Array,
    i: number,
    count: number,
    group: number,
    effects: QueueEffects,
  ): boolean {
    const at = i * CMDQ_ENT_WORDS
    const { what } = armed.rule
    switch (what.do) {
      case 'drop':
        harmless(words, at)
        return true
      case 'change':
        changeWord(words, at, what)
        return true
      case 'duplicate':
        this.#defer(words, at, 1)
        return false
      case 'defer':
        this.#defer(words, at, what.syncs ?? 1)
        harmless(words, at)
        return true
      case 'reorder': {
        if (i + 1 >= count) {
          this.#defer(words, at, 1)
          harmless(words, at)
          return true
        }
        const first = words.slice(at, at + CMDQ_ENT_WORDS)
        words.copyWithin(at, at + CMDQ_ENT_WORDS, at + 2 * CMDQ_ENT_WORDS)
        words.set(first, at + CMDQ_ENT_WORDS)
        return true
      }
      case 'early':
        for (let j = group; j < i; j++) {
          // The next CMD_SYNCs that come are other batches'.
          this.#defer(words, j * CMDQ_ENT_WORDS, 1)
          harmless(words, j * CMDQ_ENT_WORDS)
        }
        return i > group
      case 'cerror':
        if (!this.#host) {
          words[at] = ILLEGAL
          return true
        }
        effects.stand(armed, i)
        return false
      case 'hang':
        effects.stand(armed, i)
        return false
      default:
        effects.act(armed)
        return false
    }
  }

  #defer(words: Uint32Array, at: number, syncs: number): void {
    this.#deferred.push({ words: words.slice(at, at + CMDQ_ENT_WORDS), syncs })
  }
}

/** PREFETCH_CONFIG is a hint: it changes nothing. */
function harmless(words: Uint32Array, at: number): void {
  words[at] = CMDQ_OP_PREFETCH_CFG
  words[at + 1] = 0
  words[at + 2] = 0
  words[at + 3] = 0
}

function changeWord(words: Uint32Array, at: number, what: WhatOf['change']): void {
  const lo = at + 2 * ((what.word ?? 0) & 1)
  const after = changed((BigInt(words[lo + 1] ?? 0) << 32n) | BigInt(words[lo] ?? 0), what)
  words[lo] = Number(after & 0xffff_ffffn)
  words[lo + 1] = Number(after >> 32n)
}

function commandMatches(armed: ArmedRule, words: Uint32Array, at: number): boolean {
  const { where } = armed.rule
  if (where.at !== 'command') return false
  const opcode = getField(words, CMDQ_0_OP, at)
  if (armed.opcode !== undefined && armed.opcode !== opcode) return false
  if (armed.sid !== undefined && !(WITH_STREAM.has(opcode) && getField(words, CMDQ_CFGI_0_SID, at) === armed.sid)) {
    return false
  }
  const { asid, vmid, leaf } = where
  if (asid !== undefined && !(WITH_ASID.has(opcode) && getField(words, CMDQ_TLBI_0_ASID, at) === asid)) return false
  if (vmid !== undefined && !(WITH_VMID.has(opcode) && getField(words, CMDQ_TLBI_0_VMID, at) === vmid)) return false
  if (leaf !== undefined) {
    const has = opcode === CMDQ_OP_CFGI_STE || WITH_RANGE.has(opcode)
    if (!has || (getField(words, CMDQ_CFGI_1_LEAF, at) === 1) !== leaf) return false
  }
  if (armed.range === undefined) return true
  const size = commandBytes(opcode, words, at)
  return size > 0 && armed.touches(commandPage(words, at) * 4096, size)
}
