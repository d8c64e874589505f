// SPDX-License-Identifier: Apache-2.0
import { getField, type Halves } from '../../smmu/bits.ts'
import { commandBytes, namesStream, WITH_ASID, WITH_LEAF, WITH_VMID } from '../../smmu/commandFields.ts'
import {
  CMDQ_0_OP,
  CMDQ_CFGI_1_LEAF,
  CMDQ_ENT_WORDS,
  CMDQ_OP_CMD_SYNC,
  CMDQ_OP_PREFETCH_CFG,
  CMDQ_TLBI_0_ASID,
  CMDQ_TLBI_0_VMID,
  commandPage,
  describeCommand,
} from '../../smmu/commands.ts'
import { CMDQ_ENTRY_SIZE } from '../../smmu/queue.ts'
import { ARM_SMMU_CMDQ_PROD, GERROR_CMDQ_ERR } from '../../smmu/registers.ts'
import type { ArmedRule } from '../armed.ts'
import type { ArmedMachine } from '../armedMachine.ts'
import { changed, wordsOf } from '../change.ts'
import type { FreeActions } from '../freeActions.ts'
import { CERROR } from '../hostView.ts'
import { FREE_ACTIONS, type WhatOf } from '../rule.ts'
import type { SmmuFaults } from '../smmuFaults.ts'

/** An opcode that the architecture leaves reserved. */
const ILLEGAL = 0xff

interface Deferred {
  readonly words: Uint32Array
  /** CMD_SYNCs to pass over first. */
  syncs: number
}

/** Commands on their way: out of the guest's queue, or into the shadow queue. They are recognised by their address. */
export class CommandPoint {
  readonly #machine: ArmedMachine
  readonly #armed: boolean
  /** By SMMU. */
  readonly #host: readonly FaultyQueue[]
  readonly #shadow: readonly FaultyQueue[]

  constructor(machine: ArmedMachine, actions: FreeActions, rules: readonly ArmedRule<'command'>[]) {
    const queues = (queue: 'host' | 'shadow') => {
      const its = rules.filter(({ rule: { where } }) => (where.queue ?? 'host') === queue)
      return machine.smmus.map(smmu => {
        const concerning = its.filter(armed => armed.concerns(smmu.index))
        return new FaultyQueue(machine, actions, smmu, queue === 'host', concerning)
      })
    }
    this.#machine = machine
    this.#armed = rules.length > 0
    this.#host = queues('host')
    this.#shadow = queues('shadow')
  }

  /** Memory was read. @returns undefined when there are no commands of this SMMU */
  read(smmu: SmmuFaults, address: number, target: Uint8Array, offset: number, length: number): true | undefined {
    if (!this.#armed || length % CMDQ_ENTRY_SIZE !== 0 || !smmu.host.inQueue(address, length)) return undefined
    const words = wordsOf(target.subarray(offset, offset + length))
    if (this.#host[smmu.index]?.alter(words, address)) target.set(new Uint8Array(words.buffer), offset)
    return true
  }

  /** Memory is to be written. @returns whether it was; undefined when it is not this SMMU's queue */
  write(smmu: SmmuFaults, address: number, source: Uint8Array, offset: number, length: number): boolean | undefined {
    if (!smmu.shadow.inQueue(address, length)) return undefined
    const { memory } = this.#machine
    if (this.#armed && length % CMDQ_ENTRY_SIZE === 0) {
      const words = wordsOf(source.subarray(offset, offset + length))
      if (this.#shadow[smmu.index]?.alter(words, address)) {
        return memory.write(address, new Uint8Array(words.buffer), 0, length)
      }
    }
    return memory.write(address, source, offset, length)
  }
}

/** One queue: of the host or of the hardware, of one SMMU. */
class FaultyQueue {
  readonly #machine: ArmedMachine
  readonly #actions: FreeActions
  readonly #smmu: SmmuFaults
  readonly #host: boolean
  readonly #rules: readonly ArmedRule<'command'>[]
  readonly #deferred: Deferred[] = []

  /** @param host the guest's queue; else the shadow queue */
  constructor(
    machine: ArmedMachine,
    actions: FreeActions,
    smmu: SmmuFaults,
    host: boolean,
    rules: readonly ArmedRule<'command'>[],
  ) {
    this.#machine = machine
    this.#actions = actions
    this.#smmu = smmu
    this.#host = host
    this.#rules = rules
  }

  /** Alters commands that stand at `address`, in a copy as `words`. @returns whether anything was altered. */
  alter(words: Uint32Array, address: number): boolean {
    const count = words.length / CMDQ_ENT_WORDS
    let altered = false
    /** First command since the last CMD_SYNC. */
    let group = 0
    for (let i = 0; i < count; i++) {
      const at = i * CMDQ_ENT_WORDS
      if (getField(words, CMDQ_0_OP, at) === CMDQ_OP_CMD_SYNC && this.#takeSync(words, at)) {
        // What stands there now was decided about where it came from.
        altered = true
        group = i + 1
        continue
      }
      for (const armed of this.#rules) {
        if (!commandMatches(armed, words, at) || !armed.trigger.match(this.#machine.time)) continue
        const { what } = armed.rule
        if (!FREE_ACTIONS.has(what.do)) {
          const text = describeCommand(words.subarray(at, at + CMDQ_ENT_WORDS))
          const queue = this.#host ? 'host' : 'shadow'
          this.#machine.fired(armed, `${queue} command ${text}: ${what.do}`, words[at], words[at + 1])
        }
        if (this.#apply(armed, words, address, i, group)) altered = true
        if (what.do === 'reorder') i++
        // Of a command there is one place and one fate; changes and side effects go with each other and with that.
        if (what.do !== 'change' && !FREE_ACTIONS.has(what.do)) break
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

  /** @param i the command @param group the first one since the CMD_SYNC before */
  #apply(armed: ArmedRule, words: Uint32Array, address: number, i: number, group: number): boolean {
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
        if (at + CMDQ_ENT_WORDS >= words.length) {
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
        this.#stand(armed, address + CMDQ_ENTRY_SIZE * i)
        return false
      case 'hang':
        this.#stand(armed, address + CMDQ_ENTRY_SIZE * i)
        return false
      default:
        this.#actions.act(armed, this.#smmu.index)
        return false
    }
  }

  /** CONS stays at the command at an address. */
  #stand(armed: ArmedRule, address: number): void {
    const { what } = armed.rule
    const { time, prod } = this.#machine
    const smmu = this.#smmu
    const side = this.#host ? smmu.host : smmu.shadow
    const entry = (address - side.queueBase) / CMDQ_ENTRY_SIZE
    const size = 2 ** side.queueLog2size
    const until = what.do === 'hang' && what.ms !== undefined ? time + what.ms * 1e6 : Number.POSITIVE_INFINITY
    const error = what.do === 'cerror' ? CERROR[what.error] : 0
    if (this.#host) {
      const behind = (((prod & (size - 1)) - entry + size) % size || size) & (2 * size - 1)
      smmu.view.stand((prod - behind) & (2 * size - 1), error, until)
      if (error > 0) this.#actions.raise(smmu, GERROR_CMDQ_ERR)
      return
    }
    const value: Halves = { lo: 0, hi: 0 }
    smmu.hardware.read(ARM_SMMU_CMDQ_PROD, 4, value)
    const ahead = (entry - (value.lo & (size - 1)) + size) % size
    smmu.hang = { pointer: (value.lo + ahead) & (2 * size - 1), until }
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

function commandMatches(armed: ArmedRule<'command'>, words: Uint32Array, at: number): boolean {
  const { where } = armed.rule
  const opcode = getField(words, CMDQ_0_OP, at)
  if (armed.opcode !== undefined && armed.opcode !== opcode) return false
  if (armed.sid !== undefined && !namesStream(words, at, armed.sid)) return false
  const { asid, vmid, leaf } = where
  if (asid !== undefined && !(WITH_ASID.has(opcode) && getField(words, CMDQ_TLBI_0_ASID, at) === asid)) return false
  if (vmid !== undefined && !(WITH_VMID.has(opcode) && getField(words, CMDQ_TLBI_0_VMID, at) === vmid)) return false
  if (leaf !== undefined) {
    if (!WITH_LEAF.has(opcode) || (getField(words, CMDQ_CFGI_1_LEAF, at) === 1) !== leaf) return false
  }
  if (armed.range === undefined) return true
  const size = commandBytes(opcode, words, at)
  return size > 0 && armed.touches(commandPage(words, at) * 4096, size)
}
