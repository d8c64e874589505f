// SPDX-License-Identifier: Apache-2.0
import { addressOf, hex } from '../../smmu/bits.ts'
import {
  ARM_LPAE_PTE_AF,
  ARM_LPAE_PTE_HAP_READ,
  ARM_LPAE_PTE_HAP_WRITE,
  ARM_LPAE_PTE_TYPE_PAGE,
} from '../../smmu/pagetable.ts'
import { STRTAB_STE_SIZE } from '../../smmu/ste.ts'
import { STRTAB_L1_DESC_SIZE } from '../../smmu/strtab.ts'
import type { ArmedRule } from '../armed.ts'
import type { ArmedMachine } from '../armedMachine.ts'
import { changeBytes, wordsOf } from '../change.ts'
import type { FreeActions } from '../freeActions.ts'
import type { Table } from '../rule.ts'
import type { SmmuFaults } from '../smmuFaults.ts'
import { stage2Descriptors } from '../stage2.ts'

/** Page, accessed, readable and writable. */
const LEAF_ATTRIBUTES = ARM_LPAE_PTE_TYPE_PAGE | ARM_LPAE_PTE_AF | ARM_LPAE_PTE_HAP_READ | ARM_LPAE_PTE_HAP_WRITE

/** Entries of stream tables, CDs and stage-2 descriptors that the hypervisor copies or writes: recognised by address. */
export class TablePoint {
  readonly #machine: ArmedMachine
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'table'>[]
  /** The entry's update that is being dropped. */
  #dropping = ''

  constructor(machine: ArmedMachine, actions: FreeActions, rules: readonly ArmedRule<'table'>[]) {
    this.#machine = machine
    this.#actions = actions
    this.#rules = rules
  }

  /** Memory was read. @returns whether it could be; undefined when no entry of this SMMU stands there */
  read(smmu: SmmuFaults, address: number, target: Uint8Array, offset: number, length: number): boolean | undefined {
    if (length > STRTAB_STE_SIZE) return undefined
    const bytes = target.subarray(offset, offset + length)
    for (const side of [smmu.host, smmu.shadow]) {
      const sid = length === STRTAB_L1_DESC_SIZE ? side.l1Sid(address) : undefined
      if (sid === undefined) continue
      if (side === smmu.host) this.#readEntry('host-l1', smmu, sid, 2 ** (side.table?.split ?? 0), bytes)
      const [lo = 0, hi = 0] = wordsOf(bytes)
      side.descriptor(address, lo, hi)
      return true
    }
    const ste = length === STRTAB_STE_SIZE ? smmu.host.ste(address) : undefined
    if (ste?.at !== 0) return undefined
    if (!this.#readEntry('host-ste', smmu, ste.sid, 1, bytes)) return false
    this.#contextDescriptor(smmu, ste.sid, wordsOf(bytes))
    return true
  }

  /** Memory is to be written. @returns whether it was; undefined when no entry of this SMMU stands there */
  write(smmu: SmmuFaults, address: number, source: Uint8Array, offset: number, length: number): boolean | undefined {
    if (length > STRTAB_STE_SIZE) return undefined
    const bytes = source.subarray(offset, offset + length)
    const { shadow } = smmu
    const first = length === STRTAB_L1_DESC_SIZE ? shadow.l1Sid(address) : undefined
    if (first !== undefined) {
      const [lo = 0, hi = 0] = wordsOf(bytes)
      shadow.descriptor(address, lo, hi)
      return this.#writeEntry('l1', smmu, first, 2 ** (shadow.table?.split ?? 0), 0, address, bytes)
    }
    const ste = shadow.ste(address)
    return ste && this.#writeEntry('ste', smmu, ste.sid, 1, ste.at, address, bytes)
  }

  /** Memory is to be written that is no SMMU's: descriptors of the stage-2 idmap may be among it. */
  writeStage2(address: number, source: Uint8Array, offset: number, length: number): boolean {
    const { context, memory } = this.#machine
    const { carveout } = context.machine
    const inside = carveout && address >= carveout.base && address < carveout.base + carveout.size
    if (!inside || length % 8 !== 0) return memory.write(address, source, offset, length)
    const bytes = source.subarray(offset, offset + length)
    let altered: Uint8Array | undefined
    for (const armed of this.#rules) {
      const { where, what } = armed.rule
      // What waits for something yet looks at nothing.
      if (where.table !== 'stage2' || !armed.trigger.ready(this.#machine.time)) continue
      const places = this.#stage2Places(armed, address, bytes)
      if (places.length === 0 || !armed.trigger.match(this.#machine.time)) continue
      if (what.do === 'abort') {
        this.#machine.fired(armed, `write of stage-2 descriptors at ${hex(address)} refused`, address)
        return false
      }
      if (what.do !== 'change' && what.do !== 'drop') {
        this.#actions.act(armed, 0)
        continue
      }
      altered ??= bytes.slice()
      let text = 'lost'
      for (const at of places) {
        if (what.do === 'change') text = changeBytes(altered.subarray(at, at + 8), { ...what, word: 0 })
        else memory.read(address + at, altered, at, 8)
      }
      this.#machine.fired(armed, `stage-2 descriptor at ${hex(address + (places[0] ?? 0))}: ${text}`, address)
    }
    return memory.write(address, altered ?? bytes, 0, length)
  }

  /**
   * An entry of the host's stream table as it was copied: it changes in the copy.
   * @param sid @param span StreamIDs of the entry
   * @returns false when the copy is refused
   */
  #readEntry(table: 'host-ste' | 'host-l1', smmu: SmmuFaults, sid: number, span: number, bytes: Uint8Array): boolean {
    for (const armed of this.#concerning(table, smmu)) {
      if (!among(armed, sid, span) || !armed.trigger.match(this.#machine.time)) continue
      const { what } = armed.rule
      if (what.do === 'abort') {
        this.#machine.fired(armed, `copy of ${table} of sid ${hex(sid)} refused`, sid)
        return false
      }
      if (what.do === 'change') {
        const text = changeBytes(bytes, what)
        this.#machine.fired(armed, `${table} of sid ${hex(sid)}, word ${what.word ?? 0}: ${text}`, sid, what.word)
      } else this.#actions.act(armed, smmu.index)
    }
    return true
  }

  /** The host's CD of a stream that is being configured: the hardware reads it where it stands, so there it changes. */
  #contextDescriptor(smmu: SmmuFaults, sid: number, ste: Uint32Array): void {
    const { memory } = this.#machine
    const [lo = 0, hi = 0] = ste
    // V, and Config with stage 1.
    if ((lo & 1) === 0 || (lo & 0xa) !== 0xa) return
    const address = addressOf((lo & 0xffff_ffc0) >>> 0, hi & 0x00ff_ffff)
    for (const armed of this.#concerning('cd', smmu)) {
      if (!among(armed, sid, 1) || !armed.trigger.match(this.#machine.time)) continue
      const { what } = armed.rule
      if (what.do !== 'change') {
        this.#actions.act(armed, smmu.index)
        continue
      }
      const bytes = new Uint8Array(8)
      const at = address + 8 * (what.word ?? 0)
      if (!memory.read(at, bytes, 0, 8)) continue
      const text = changeBytes(bytes, { ...what, word: 0 })
      memory.write(at, bytes, 0, 8)
      this.#machine.fired(armed, `cd of sid ${hex(sid)} at ${hex(address)}, word ${what.word ?? 0}: ${text}`, sid, at)
    }
  }

  /**
   * An entry of the shadow stream table, or a part of it.
   * @param sid @param span StreamIDs of the entry
   * @param at bytes into the entry
   */
  #writeEntry(
    table: 'ste' | 'l1',
    smmu: SmmuFaults,
    sid: number,
    span: number,
    at: number,
    address: number,
    bytes: Uint8Array,
  ): boolean {
    const { length } = bytes
    let altered: Uint8Array | undefined
    for (const armed of this.#concerning(table, smmu)) {
      if (!among(armed, sid, span)) continue
      const { what } = armed.rule
      const update = `${armed.number} ${this.#machine.trap} ${sid}`
      if (what.do === 'drop' && this.#dropping === update) return true
      const word = what.do === 'change' ? 8 * (what.word ?? 0) : at
      if (word < at || word >= at + length || !armed.trigger.match(this.#machine.time)) continue
      if (what.do === 'drop') {
        this.#dropping = update
        this.#machine.fired(armed, `write of ${table} of sid ${hex(sid)} lost`, sid)
        return true
      }
      if (what.do === 'abort') {
        this.#machine.fired(armed, `write of ${table} of sid ${hex(sid)} refused`, sid)
        return false
      }
      if (what.do === 'change') {
        altered ??= bytes.slice()
        const text = changeBytes(altered, { ...what, word: (word - at) / 8 })
        this.#machine.fired(armed, `${table} of sid ${hex(sid)}, word ${word / 8}: ${text}`, sid, word / 8)
      } else this.#actions.act(armed, smmu.index)
    }
    return this.#machine.memory.write(address, altered ?? bytes, 0, length)
  }

  /** Offsets into what is written at which descriptors for the rule's input addresses stand. */
  #stage2Places(armed: ArmedRule, address: number, bytes: Uint8Array): number[] {
    const { range } = armed
    const { context } = this.#machine
    const tables = context.policy.inspect?.faults.stage2() ?? []
    const places: number[] = []
    if (range === undefined) return places
    for (const table of tables) {
      for (const run of stage2Descriptors(context.memory, table, range.from, range.end)) {
        const first = Math.max(address, run.address)
        const end = Math.min(address + bytes.length, run.address + 8 * run.count)
        for (let at = first; at + 8 <= end; at += 8) places.push(at - address)
      }
    }
    if (tables.length > 0) return [...new Set(places)]
    // While it is built, a page descriptor of an identity map says itself where it belongs.
    const words = wordsOf(bytes)
    for (let i = 0; i + 1 < words.length; i += 2) {
      const [lo = 0, hi = 0] = [words[i], words[i + 1]]
      const page = addressOf((lo & 0xffff_f000) >>> 0, hi & 0xffff)
      if ((lo & LEAF_ATTRIBUTES) === LEAF_ATTRIBUTES && page >= range.from && page < range.end) places.push(4 * i)
    }
    return places
  }

  *#concerning(table: Table, smmu: SmmuFaults): Generator<ArmedRule<'table'>> {
    for (const armed of this.#rules) if (armed.rule.where.table === table && armed.concerns(smmu.index)) yield armed
  }
}

/** Whether a rule means any of the StreamIDs from `sid` on. */
function among({ sid: wanted }: ArmedRule, sid: number, span: number): boolean {
  return wanted === undefined || (wanted >= sid && wanted < sid + span)
}
