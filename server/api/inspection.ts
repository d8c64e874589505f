// SPDX-License-Identifier: Apache-2.0
/**
 * Registers, queues and tables of a live machine. Registers are read by the trap thread; memory is read here, so that
 * inspection costs the guest nothing but the register reads.
 */
import type { Hello } from '../../protocol/generated/messages.ts'
import type { TrapThread } from '../control/trapThread.ts'
import { annotated, annotatedVm } from '../oracle/hostStage2.ts'
import { OperationError } from '../policy/operationError.ts'
import { addressOf, fieldGet, hex, hex64 } from '../smmu/bits.ts'
import { CTXDESC_CD_SIZE } from '../smmu/cd.ts'
import { describeCommand, opcodeName } from '../smmu/commands.ts'
import { decodeEvent, describeEvent, eventName } from '../smmu/events.ts'
import { decodeFeatures, type Features } from '../smmu/features.ts'
import type { PowerState } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import {
  CMDQ_ENTRY_SIZE,
  EVTQ_ENTRY_SIZE,
  MAX_QUEUE_LOG2SIZE,
  queueBase,
  queueIndex,
  queueLog2Size,
  queuePointer,
} from '../smmu/queue.ts'
import * as R from '../smmu/registers.ts'
import { STRTAB_STE_0_V, STRTAB_STE_DWORDS, STRTAB_STE_SIZE } from '../smmu/ste.ts'
import { decodeCd, decodeSte, type Ste } from '../smmu/streamConfig.ts'
import { decodeStreamTable, STE_ABSENT, type StreamTable, steAddress, steTables } from '../smmu/strtab.ts'
import { NO_SSID } from '../smmu/transaction.ts'
import { Walker, type WalkRegisters } from '../smmu/walker.ts'
import type { WalkStep } from '../smmu/walkSteps.ts'
import type { El2Report } from '../trap/el2Oracle.ts'
import type { OwnershipRange, RegisterValue } from '../trap/operations.ts'
import type { OracleReport } from '../trap/oracleReport.ts'
import { atMost } from '../trap/ownershipRanges.ts'
import { dwords, halves, words } from './hex.ts'
import { Problem } from './problem.ts'
import { cdView, steConfig, steView } from './steFields.ts'
import { type Leaf, type Table, tableEntries, tableLeaves } from './tables.ts'
import type { Verdicts } from './verdicts.ts'

export type View = 'host' | 'hardware'

/** The registers that Linux uses: a policy answers them without a warning (server/hypervisor/README.md, section 4.2). */
const SHOWN: readonly number[] = R.REGISTERS.filter(({ name }) =>
  /^(IDR[0135]|IIDR|CR0|CR0ACK|CR1|CR2|GBPA|IRQ_CTRL|IRQ_CTRLACK|GERRORN?|STRTAB_BASE|STRTAB_BASE_CFG|(CMDQ|EVTQ|PRIQ)_(BASE|PROD|CONS))$/.test(
    name,
  ),
).map(({ offset }) => offset)

/** Limit of StreamIDs in one listing. */
const MAX_STREAMS = 4096
/** Limit of queue entries in one listing. */
const MAX_ENTRIES = 256
/** Limit of leaves in one listing of stage 1 mappings. */
const MAX_LEAVES = 100_000

/** Memory that may be a recorded one: the last read that failed because the recording does not show it. */
type Memory = GuestMemory & { readonly missing?: { readonly address: number; readonly length: number } | undefined }

/** The machine as QEMU described it. */
interface Described extends Pick<Hello, 'devices'> {
  readonly ram: readonly Range[]
  readonly smmus: readonly Range[]
}

interface Range {
  readonly base: number
  readonly size: number
}

/** Of an entry that the recording does not show. */
const UNKNOWN = 'unknown'
const NOT_RECORDED = 'not in the recording'

interface Entry {
  readonly address: number
  readonly words: BigUint64Array
}

const configOf = (entry: Entry | typeof UNKNOWN | undefined): string =>
  entry === undefined ? 'none' : entry === UNKNOWN ? UNKNOWN : steConfig(entry.words)

/** @throws Problem when the recording does not show the register */
function shown(value: RegisterValue | undefined, smmu: number): { readonly lo: number; readonly hi: number } {
  if (value?.absent) throw new Problem(404, `${R.registerName(value.offset)} of SMMU ${smmu} is ${NOT_RECORDED}`)
  return value ?? { lo: 0, hi: 0 }
}

/** Between two looks at everything by the oracle, ms. */
const ORACLE_REST_MS = 1_000

export class Inspection {
  readonly #thread: Pick<TrapThread, 'call'>
  #hello: Described
  readonly #memory: Memory
  readonly #verdicts: Pick<Verdicts, 'host' | 'shadow'>
  readonly #catchUp: () => void
  readonly #features = new Map<number, Features>()
  /** The oracle's last look at everything, and until when it is the answer, of performance.now(). */
  #looked: { readonly report: Promise<OracleReport | null>; readonly until: number } | undefined

  /**
   * @param thread who decides traps, or what a recording shows
   * @param catchUp drains the trace ring, so that `verdicts` is up to date
   */
  constructor(
    thread: Pick<TrapThread, 'call'>,
    hello: Described,
    memory: Memory,
    verdicts: Pick<Verdicts, 'host' | 'shadow'>,
    catchUp: () => void,
  ) {
    this.#thread = thread
    this.#hello = hello
    this.#memory = memory
    this.#verdicts = verdicts
    this.#catchUp = catchUp
  }

  get hello(): Described {
    return this.#hello
  }

  /** The machine's devices have other StreamIDs, or there are others. */
  named(devices: Hello['devices']): void {
    this.#hello = { ...this.#hello, devices }
  }

  #check(smmu: number): void {
    if (this.#hello.smmus[smmu] === undefined) throw new Problem(404, `no SMMU ${smmu}`)
  }

  async #read(smmu: number, view: View, offsets: readonly number[]): Promise<Map<number, RegisterValue>> {
    this.#check(smmu)
    const values = await this.#thread.call('registers', smmu, view, offsets)
    return new Map(values.map(value => [value.offset, value]))
  }

  /** All registers, as host and hardware have them. */
  async registers(smmu: number) {
    const host = await this.#read(smmu, 'host', SHOWN)
    const hardware = await this.#read(smmu, 'hardware', SHOWN)
    const show = (value: RegisterValue | undefined) =>
      value?.ok
        ? { value: hex64(value.lo, value.hi), text: R.describeRegister(value.offset, value.lo, value.hi) }
        : { value: null, text: value?.absent ? NOT_RECORDED : 'the access is aborted' }
    return SHOWN.map(offset => {
      const register = R.registerAt(offset)
      return {
        offset: hex(offset),
        name: register?.name ?? hex(offset),
        bits: register?.bits ?? 32,
        meaning: register?.meaning ?? '',
        host: show(host.get(offset)),
        hardware: show(hardware.get(offset)),
      }
    })
  }

  bytes(address: number, length: number): Uint8Array {
    const bytes = this.tryBytes(address, length)
    if (bytes === undefined) throw new Problem(422, `${hex(address)}, ${length} bytes: not all of it is RAM`)
    return bytes
  }

  tryBytes(address: number, length: number): Uint8Array | undefined {
    const bytes = new Uint8Array(length)
    return this.#memory.read(address, bytes, 0, length) ? bytes : undefined
  }

  // Queues.

  /**
   * Command and event queues of host and hardware, with the last entries before PROD decoded.
   * @param ahead PROD of a held write: the host has written its entries, the hypervisor has not read them yet.
   */
  async queues(smmu: number, ahead?: number) {
    const command = [R.ARM_SMMU_CR0, R.ARM_SMMU_CMDQ_BASE, R.ARM_SMMU_CMDQ_PROD, R.ARM_SMMU_CMDQ_CONS]
    const event = [R.ARM_SMMU_CR0, R.ARM_SMMU_EVTQ_BASE, R.ARM_SMMU_EVTQ_PROD, R.ARM_SMMU_EVTQ_CONS]
    const host = await this.#read(smmu, 'host', command)
    const hardware = await this.#read(smmu, 'hardware', [...new Set([...command, ...event])])
    // Otherwise the newest entries would have no verdict, or that of an older entry at the same index.
    this.#catchUp()
    const own = this.#queue('cmdq', host, ahead)
    const shadow = this.#queue('cmdq', hardware)
    const events = this.#queue('evtq', hardware)
    // The hardware reads the host's queue itself.
    if (own.base === shadow.base) return { host: own, shadow: null, events }
    const ownShown = own.shown.map((entry, i) => {
      if (i >= own.shown.length - own.pending) return entry
      const known = this.#verdicts.host(smmu, entry.index)
      if (known === undefined) return entry
      return { ...entry, verdict: known.verdict, ...(known.shadow >= 0 && { shadow: known.shadow }) }
    })
    const shadowShown = shadow.shown.map(entry => {
      const known = this.#verdicts.shadow(smmu, entry.index)
      return known === undefined ? entry : { ...entry, verdict: known }
    })
    return { host: { ...own, shown: ownShown }, shadow: { ...shadow, shown: shadowShown }, events }
  }

  #queue(which: 'cmdq' | 'evtq', registers: Map<number, RegisterValue>, ahead?: number) {
    const command = which === 'cmdq'
    const get = (offset: number) => registers.get(offset) ?? { lo: 0, hi: 0 }
    const base = get(command ? R.ARM_SMMU_CMDQ_BASE : R.ARM_SMMU_EVTQ_BASE)
    const prodRegister = ahead ?? get(command ? R.ARM_SMMU_CMDQ_PROD : R.ARM_SMMU_EVTQ_PROD).lo
    const consRegister = get(command ? R.ARM_SMMU_CMDQ_CONS : R.ARM_SMMU_EVTQ_CONS).lo
    const enable = command ? R.CR0_CMDQEN : R.CR0_EVTQEN
    const log2size = queueLog2Size(base.lo, MAX_QUEUE_LOG2SIZE)
    const size = command ? CMDQ_ENTRY_SIZE : EVTQ_ENTRY_SIZE
    const address = queueBase(base.lo, base.hi, log2size, size)
    const prod = queuePointer(prodRegister, log2size)
    const cons = queuePointer(consRegister, log2size)
    return {
      enabled: (get(R.ARM_SMMU_CR0).lo & enable) !== 0,
      base: hex(address),
      entries: 2 ** log2size,
      prod: queueIndex(prod, log2size),
      cons: queueIndex(cons, log2size),
      prodWrap: prod >>> log2size,
      consWrap: cons >>> log2size,
      pending: (prod - cons) & (2 ** (log2size + 1) - 1),
      error: command ? fieldGet(R.CMDQ_CONS_ERR, consRegister) : 0,
      shown: address === 0 ? [] : this.#entries(command, address, log2size, prod),
    }
  }

  /** The entries before PROD, the newest last. */
  #entries(command: boolean, base: number, log2size: number, prod: number) {
    const size = command ? CMDQ_ENTRY_SIZE : EVTQ_ENTRY_SIZE
    const total = 2 ** log2size
    const produced = prod >>> log2size === 1 || prod >= total ? total : queueIndex(prod, log2size)
    const count = Math.min(MAX_ENTRIES, total, Math.max(produced, prod === 0 ? 0 : produced))
    const out = []
    for (let back = count; back > 0; back--) {
      const index = (queueIndex(prod, log2size) - back + total) % total
      const bytes = this.tryBytes(base + index * size, size)
      if (bytes === undefined) break
      const w = words(bytes)
      if (w.every(word => word === 0)) continue
      if (command) {
        const opcode = (w[0] ?? 0) & 0xff
        out.push({ index, name: opcodeName(opcode), text: describeCommand(w), words: [...w].map(hex) })
      } else {
        const decoded = decodeEvent(w)
        out.push({ index, name: eventName(decoded.id), text: describeEvent(decoded), words: [...w].map(hex) })
      }
    }
    return out
  }

  // Stream table.

  async #walkRegisters(smmu: number, view: View): Promise<WalkRegisters> {
    const offsets = [
      R.ARM_SMMU_CR0,
      R.ARM_SMMU_CR2,
      R.ARM_SMMU_GBPA,
      R.ARM_SMMU_STRTAB_BASE,
      R.ARM_SMMU_STRTAB_BASE_CFG,
    ]
    const values = await this.#read(smmu, view, offsets)
    const cr0 = shown(values.get(R.ARM_SMMU_CR0), smmu).lo
    const on = (cr0 & R.CR0_SMMUEN) !== 0
    const get = (offset: number, needed: boolean) =>
      needed ? shown(values.get(offset), smmu) : (values.get(offset) ?? { lo: 0, hi: 0 })
    const strtab = get(R.ARM_SMMU_STRTAB_BASE, on)
    return {
      cr0,
      cr2: get(R.ARM_SMMU_CR2, on).lo,
      gbpa: get(R.ARM_SMMU_GBPA, !on).lo,
      strtabBaseLo: strtab.lo,
      strtabBaseHi: strtab.hi,
      strtabBaseCfg: get(R.ARM_SMMU_STRTAB_BASE_CFG, on).lo,
    }
  }

  /** Of the hardware. @throws Problem when the walker does not model this hardware. */
  async features(smmu: number): Promise<Features> {
    const known = this.#features.get(smmu)
    if (known !== undefined) return known
    const offsets = [R.ARM_SMMU_IDR0, R.ARM_SMMU_IDR1, R.ARM_SMMU_IDR3, R.ARM_SMMU_IDR5]
    const values = await this.#read(smmu, 'hardware', offsets)
    const [idr0 = 0, idr1 = 0, idr3 = 0, idr5 = 0] = offsets.map(offset => shown(values.get(offset), smmu).lo)
    try {
      const features = decodeFeatures({ idr0, idr1, idr3, idr5 })
      this.#features.set(smmu, features)
      return features
    } catch (error) {
      throw new Problem(409, `this SMMU cannot be walked: ${(error as Error).message}`)
    }
  }

  async #table(smmu: number, view: View): Promise<StreamTable | undefined> {
    const features = await this.features(smmu)
    const r = await this.#walkRegisters(smmu, view)
    if (r.strtabBaseLo === 0 && r.strtabBaseHi === 0) return undefined
    const { sidSize, twoLevelStreamTable } = features
    return decodeStreamTable(r.strtabBaseLo, r.strtabBaseHi, r.strtabBaseCfg, sidSize, twoLevelStreamTable)
  }

  /** @returns undefined: there is none; UNKNOWN: the recording does not show it */
  #ste(table: StreamTable | undefined, sid: number): Entry | typeof UNKNOWN | undefined {
    const before = this.#memory.missing
    const address = table === undefined ? STE_ABSENT : steAddress(table, sid, this.#memory)
    const bytes = address < 0 ? undefined : this.tryBytes(address, STRTAB_STE_SIZE)
    if (bytes !== undefined) return { address, words: dwords(bytes) }
    return this.#memory.missing === before ? undefined : UNKNOWN
  }

  /** StreamIDs with a valid entry. */
  #used(table: StreamTable | undefined): number[] {
    const found: number[] = []
    for (const { address, sid, stes } of table === undefined ? [] : steTables(table, this.#memory)) {
      const w = this.#stes(address, Math.min(stes, MAX_STREAMS))
      for (let i = 0; i < w.length / STRTAB_STE_DWORDS && found.length < MAX_STREAMS; i++) {
        if (((w[i * STRTAB_STE_DWORDS] ?? 0n) & STRTAB_STE_0_V) !== 0n) found.push(sid + i)
      }
      if (found.length >= MAX_STREAMS) break
    }
    return found
  }

  /** Words of entries side by side; of a recording, 0 for those that it does not show. */
  #stes(address: number, count: number): BigUint64Array {
    const all = this.tryBytes(address, count * STRTAB_STE_SIZE)
    if (all !== undefined) return dwords(all)
    if (this.#memory.missing === undefined) return new BigUint64Array()
    const words = new BigUint64Array(count * STRTAB_STE_DWORDS)
    for (let i = 0; i < count; i++) {
      const bytes = this.tryBytes(address + i * STRTAB_STE_SIZE, STRTAB_STE_SIZE)
      if (bytes !== undefined) words.set(dwords(bytes), i * STRTAB_STE_DWORDS)
    }
    return words
  }

  device(smmu: number, sid: number): { name: string; model: string } | undefined {
    const device = this.#hello.devices.find(d => d.smmu === smmu && d.sid === sid)
    return device && { name: device.name, model: device.model }
  }

  async #tables(smmu: number) {
    const host = await this.#table(smmu, 'host')
    const hardware = await this.#table(smmu, 'hardware')
    const shadowed = hardware !== undefined && hardware.base !== host?.base
    return { host, hardware, shadowed }
  }

  /** All streams of devices, of the host's stream table and of the hardware's. */
  async streams(smmu: number) {
    const { host, hardware, shadowed } = await this.#tables(smmu)
    const devices = this.#hello.devices.filter(d => d.smmu === smmu).map(({ sid }) => sid)
    const sids = [...new Set([...devices, ...this.#used(host), ...(shadowed ? this.#used(hardware) : [])])]
    return {
      shadowed,
      ...(host && {
        table: { base: hex(host.base), twoLevel: host.twoLevel, log2size: host.log2size, split: host.split },
      }),
      shadowTable: shadowed && hardware ? { base: hex(hardware.base), twoLevel: hardware.twoLevel } : null,
      streams: sids
        .sort((a, b) => a - b)
        .map(sid => {
          const own = this.#ste(host, sid)
          const shadow = shadowed ? this.#ste(hardware, sid) : undefined
          return {
            sid,
            device: this.device(smmu, sid) ?? null,
            host: configOf(own),
            shadow: shadowed ? configOf(shadow) : null,
          }
        }),
    }
  }

  /** One stream: both STEs, the fields that differ, the context descriptor and the roots of its tables. */
  async stream(smmu: number, sid: number, ssid = 0) {
    const { host, hardware, shadowed } = await this.#tables(smmu)
    const mine = this.#ste(host, sid)
    const theirs = shadowed ? this.#ste(hardware, sid) : undefined
    const own = mine === UNKNOWN ? undefined : mine
    const shadow = theirs === UNKNOWN ? undefined : theirs
    if (own === undefined && shadow === undefined && (mine === UNKNOWN || theirs === UNKNOWN))
      throw new Problem(404, `the entry of StreamID ${hex(sid)} is ${NOT_RECORDED}`)
    const hostView = own && { address: hex(own.address), ...steView(own.words) }
    const shadowView = shadow && { address: hex(shadow.address), ...steView(shadow.words) }
    const live = shadow ?? own
    const ste = live && (await this.#decode(smmu, live.words))
    const cd = ste && this.#cd(ste, ssid)
    const features = await this.features(smmu)
    const context = cd && ste && decodeCd(words(cd.bytes), ste, features)
    const roots: (Table & { readonly name: string; readonly inputBits: number })[] = []
    context?.tables.forEach((table, i) => {
      if (!table.enabled || (i === 1 && !context.twoRanges)) return
      roots.push({
        stage: 1,
        name: `TTB${i}`,
        address: table.ttb,
        level: table.startLevel,
        granuleShift: table.granuleShift,
        inputBits: table.inputBits,
        input: i === 0 ? 0n : (1n << 64n) - (1n << BigInt(table.inputBits)),
      })
    })
    if (ste?.stage2 !== undefined) {
      const { ttb, startLevel, granuleShift, inputBits } = ste.stage2
      roots.push({ stage: 2, name: 'S2TTB', address: ttb, level: startLevel, granuleShift, inputBits, input: 0n })
    }
    return {
      sid,
      device: this.device(smmu, sid) ?? null,
      shadowed,
      host: hostView ?? null,
      shadow: shadowView ?? null,
      differs: hostView && shadowView ? differing(hostView.fields, shadowView.fields) : [],
      legal: live === undefined ? null : ste !== undefined,
      cd: cd ? { address: hex(cd.address), ...cdView(dwords(cd.bytes)) } : null,
      roots,
    }
  }

  async #decode(smmu: number, ste: BigUint64Array): Promise<Ste | undefined> {
    const features = await this.features(smmu)
    return decodeSte(new Uint32Array(ste.slice().buffer), features, false)
  }

  /** The context descriptor of a SubstreamID. IPAs are addresses here: the idmap is an identity. */
  #cd(ste: Ste, ssid: number): { address: number; bytes: Uint8Array } | undefined {
    if ((ste.config & 1) === 0 || ssid >= 2 ** ste.s1CdMax) return undefined
    let address = ste.s1ContextPtr + ssid * CTXDESC_CD_SIZE
    if (ste.s1CdMax > 0 && ste.s1Fmt !== 0) {
      const bits = ste.s1Fmt === 1 ? 6 : 10
      const l1 = this.tryBytes(ste.s1ContextPtr + (ssid >>> bits) * 8, 8)
      const [lo = 0, hi = 0] = l1 ? words(l1) : []
      if ((lo & 1) === 0) return undefined
      address = addressOf((lo & 0xffff_f000) >>> 0, hi & 0xff_ffff) + (ssid & ((1 << bits) - 1)) * CTXDESC_CD_SIZE
    }
    const bytes = this.tryBytes(address, CTXDESC_CD_SIZE)
    return bytes && { address, bytes }
  }

  /** One page of a translation table. */
  async tableAt(smmu: number, table: Table) {
    const features = await this.features(smmu)
    const { missing: before } = this.#memory
    const entries = tableEntries((address, length) => this.tryBytes(address, length), table, features.oas)
    const { missing } = this.#memory
    if (missing === before || missing === undefined) return entries
    throw new Problem(404, `${NOT_RECORDED}: ${missing.length} bytes at ${hex(missing.address)}`)
  }

  /** Physical pages that the stage 1 of each stream maps, and those that the stage 2 allows. */
  async reach(smmu: number) {
    const { host, hardware, shadowed } = await this.#tables(smmu)
    const { oas } = await this.features(smmu)
    const table = shadowed ? hardware : host
    let unread = 0
    const read = (address: number, length: number) => {
      const bytes = this.tryBytes(address, length)
      if (bytes === undefined) unread++
      return bytes
    }
    const streams = []
    for (const sid of this.#used(table)) {
      const { roots, shadow, host: own, cd } = await this.stream(smmu, sid)
      const config = (shadow ?? own)?.config ?? 'none'
      unread = cd === null && /^(s1|nested)$/.test(config) ? 1 : 0
      const leaves: Leaf[] = []
      for (const root of roots) {
        if (root.stage === 1) for (const leaf of tableLeaves(read, root, oas, MAX_LEAVES)) leaves.push(leaf)
      }
      streams.push({ sid, device: this.device(smmu, sid) ?? null, config, leaves, unread })
    }
    return streams
  }

  // Walks.

  async walk(
    smmu: number,
    request: { sid: number; ssid?: number; iova: bigint; write: boolean; table: View },
  ): Promise<{ outcome: ReturnType<Walker['translate']>; steps: WalkStep[]; missing: Memory['missing'] }> {
    const { missing: before } = this.#memory
    const features = await this.features(smmu)
    const walker = new Walker(features, this.#memory)
    walker.setRegisters(await this.#walkRegisters(smmu, request.table))
    const { lo, hi } = halves(request.iova)
    const { sid, ssid = NO_SSID, write } = request
    const steps: WalkStep[] = []
    const outcome = walker.translate({ sid, ssid, lo, hi, write, privileged: false, instruction: false }, step =>
      steps.push(step),
    )
    const { missing } = this.#memory
    return { outcome, steps, missing: missing === before ? undefined : missing }
  }

  ownership(from: number, to: number, limit: number) {
    return this.#thread.call('ownership', from, to, limit)
  }

  /**
   * The same as EL2 has it, read from its tables; null: there is no EL2 that keeps any. Its hypervisor is `hyp`, what it lets
   * its host reach `owned`.
   * @throws Problem when its tables make no sense just now: it may be changing them
   */
  async el2Ownership(from: number, to: number, limit: number): Promise<OwnershipRange[] | null> {
    const registers = await this.#thread.call('hostStage2')
    if (registers === null) return null
    try {
      return atMost(el2Runs(this.#hello.ram, annotated(this.#memory, registers), from, to), from, to, limit)
    } catch (error) {
      throw new Problem(409, `EL2's tables cannot be read: ${(error as Error).message}`)
    }
  }

  /** What EL2 does, and whether devices reach what it lets its host reach. */
  el2(): Promise<El2Report | null> {
    return this.#thread.call('el2')
  }

  /**
   * What the oracle of isolation has found, all of it looked at once more; null: the machine is not watched. The trap thread does nothing
   * else meanwhile: who asks soon after another one gets the same answer.
   */
  oracle(): Promise<OracleReport | null> {
    if (this.#looked !== undefined && performance.now() < this.#looked.until) return this.#looked.report
    const looked = { report: this.#thread.call('oracle'), until: Number.POSITIVE_INFINITY }
    const done = () => {
      looked.until = performance.now() + ORACLE_REST_MS
    }
    looked.report.then(done, done)
    this.#looked = looked
    return looked.report
  }

  /** @throws OperationError when SMMUs are not to be switched */
  async power(smmu: number, state: PowerState): Promise<{ readonly result: number; readonly now: PowerState }> {
    this.#check(smmu)
    const result = await this.#thread.call('power', smmu, state)
    return { result, now: await this.powerState(smmu) }
  }

  /** @throws OperationError when SMMUs are not to be switched */
  async powerState(smmu: number): Promise<PowerState> {
    this.#check(smmu)
    return (await this.#thread.call('powerState', smmu)) ?? 'on'
  }

  /** @throws OperationError when the policy keeps no ownership, or EL2 does. */
  async pages(what: 'donate' | 'reclaim', base: number, size: number, vm: number): Promise<number> {
    if (base % 4096 !== 0 || size % 4096 !== 0) throw new OperationError('invalid', 'not whole pages of 4096 bytes')
    return this.#thread.call(what, base, size, vm)
  }
}

/** RAM from `from` to `to` as runs of the same owner, ascending. */
function el2Runs(
  ram: Described['ram'],
  kept: ReturnType<typeof annotated>,
  from: number,
  to: number,
): OwnershipRange[] {
  const runs: OwnershipRange[] = []
  const add = (base: number, end: number, state: 'owned' | 'hyp' | 'vm', vm: number) => {
    if (end <= base) return
    const last = runs.at(-1)
    if (last !== undefined && last.state === state && last.vm === vm && last.base + last.size === base) {
      runs[runs.length - 1] = { ...last, size: last.size + end - base }
    } else runs.push({ base, size: end - base, state, vm })
  }
  for (const region of ram) {
    let at = Math.max(from, region.base)
    const end = Math.min(to, region.base + region.size)
    for (const { base, size, descriptor } of kept) {
      if (base + size <= at || base >= end) continue
      add(at, Math.max(at, base), 'owned', 0)
      const vm = annotatedVm(descriptor)
      add(Math.max(at, base), Math.min(end, base + size), vm === 0 ? 'hyp' : 'vm', vm)
      at = Math.min(end, base + size)
    }
    add(at, end, 'owned', 0)
  }
  return runs
}

function differing(a: readonly { name: string; value: string }[], b: readonly { name: string; value: string }[]) {
  return a.filter(({ value }, i) => b[i]?.value !== value).map(({ name }) => name)
}
