// SPDX-License-Identifier: Apache-2.0
/** A machine for the hypervisor's tests: memory, hardware that logs what it saw, and a host that behaves like Linux. */
import { Hypervisor, type HypervisorOverrides } from '../../../../server/hypervisor/pkvm/hypervisor.ts'
import type { CpuGuard, El2, Machine, PowerControl } from '../../../../server/machine/ports.ts'
import type { PolicyOptions } from '../../../../server/policy/policy.ts'
import { newTrap, type Trap } from '../../../../server/policy/policy.ts'
import type { CommandVerdict, HypReport } from '../../../../server/policy/report.ts'
import type { HypWarning } from '../../../../server/policy/warnings.ts'
import { addressOf, type Halves } from '../../../../server/smmu/bits.ts'
import { opcodeName } from '../../../../server/smmu/commands.ts'
import { type IdRegisters, QEMU_NESTED_ID_REGISTERS } from '../../../../server/smmu/features.ts'
import type { SmmuHardware } from '../../../../server/smmu/hardware.ts'
import type { GuestMemory } from '../../../../server/smmu/memory.ts'
import {
  ARM_LPAE_PTE_TYPE_BLOCK,
  ARM_LPAE_PTE_TYPE_MASK,
  ARM_LPAE_PTE_VALID,
  LAST_LEVEL,
  levelShift,
  PTE_SIZE,
} from '../../../../server/smmu/pagetable.ts'
import { queueAdvance, queueBase, queueEmpty, queueIndex, queueLog2Size } from '../../../../server/smmu/queue.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { CFGI_ALL, CONFIG, command, linearCfg, SYNC, ste, TLBI_NSNH_ALL, twoLevelCfg } from '../../smmu/fields.ts'

export const MiB = 2 ** 20
export const RAM_BASE = 0x4000_0000
export const RAM_SIZE = 32 * MiB
export const CARVEOUT_SIZE = 12 * MiB
export const CARVEOUT_BASE = RAM_BASE + RAM_SIZE - CARVEOUT_SIZE
export const SMMU_BASE = 0x0905_0000

/** Places in RAM that the host uses; all apart. */
export const HOST_CMDQ = RAM_BASE + 1 * MiB
export const HOST_EVTQ = RAM_BASE + 2 * MiB
export const HOST_PRIQ = RAM_BASE + 3 * MiB
export const HOST_STRTAB = RAM_BASE + 4 * MiB
export const HOST_L2 = RAM_BASE + 5 * MiB

/** What the hardware and the memory saw, in order. */
export type LogEntry =
  | { readonly what: 'reg'; readonly smmu: number; readonly offset: number; readonly value: bigint }
  | { readonly what: 'mem'; readonly address: number; readonly bytes: Uint8Array }
  | { readonly what: 'cmd'; readonly smmu: number; readonly words: readonly number[] }

/** Sparse RAM. */
export class TestMemory implements GuestMemory {
  readonly ram: readonly { readonly base: number; readonly size: number }[]
  readonly #pages = new Map<number, Uint8Array>()
  /** Reads and writes that were refused because they were not wholly RAM. */
  outside = 0
  log: LogEntry[] | null = null
  /** Called before a read by the hypervisor: memory that changes while it is looked at. */
  beforeRead: ((address: number, length: number) => void) | null = null
  afterRead: ((address: number, length: number) => void) | null = null
  onWrite: ((address: number, length: number) => void) | null = null

  constructor(ram: readonly { readonly base: number; readonly size: number }[] = [{ base: RAM_BASE, size: RAM_SIZE }]) {
    this.ram = ram
  }

  #isRam(address: number, length: number): boolean {
    return this.ram.some(({ base, size }) => address >= base && address + length <= base + size)
  }

  #page(index: number): Uint8Array {
    let page = this.#pages.get(index)
    if (page === undefined) {
      page = new Uint8Array(4096)
      this.#pages.set(index, page)
    }
    return page
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    if (!this.#isRam(address, length)) {
      this.outside++
      return false
    }
    this.beforeRead?.(address, length)
    this.peek(address, target, targetOffset, length)
    this.afterRead?.(address, length)
    return true
  }

  peek(address: number, target: Uint8Array, targetOffset: number, length: number): void {
    for (let done = 0; done < length; ) {
      const at = (address + done) % 4096
      const part = Math.min(4096 - at, length - done)
      const page = this.#pages.get(Math.floor((address + done) / 4096))
      if (page === undefined) target.fill(0, targetOffset + done, targetOffset + done + part)
      else target.set(page.subarray(at, at + part), targetOffset + done)
      done += part
    }
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    if (!this.#isRam(address, length)) {
      this.outside++
      return false
    }
    this.onWrite?.(address, length)
    this.log?.push({
      what: 'mem',
      address,
      bytes: new Uint8Array(source.subarray(sourceOffset, sourceOffset + length)),
    })
    this.poke(address, source.subarray(sourceOffset, sourceOffset + length))
    return true
  }

  poke(address: number, bytes: Uint8Array): void {
    const zeroes = !bytes.some(byte => byte !== 0)
    for (let done = 0; done < bytes.length; ) {
      const at = (address + done) % 4096
      const part = Math.min(4096 - at, bytes.length - done)
      const index = Math.floor((address + done) / 4096)
      if (zeroes && part === 4096) this.#pages.delete(index)
      else this.#page(index).set(bytes.subarray(done, done + part), at)
      done += part
    }
  }

  poke64(address: number, ...values: bigint[]): void {
    this.poke(address, new Uint8Array(new BigUint64Array(values).buffer))
  }

  /** As the hardware reaches it: not logged, and nobody is called. */
  get bus(): GuestMemory {
    return {
      ram: this.ram,
      read: (address, target, offset, length) => {
        const ok = this.#isRam(address, length)
        if (ok) this.peek(address, target, offset, length)
        return ok
      },
      write: (address, source, offset, length) => {
        const ok = this.#isRam(address, length)
        if (ok) this.poke(address, source.subarray(offset, offset + length))
        return ok
      },
    }
  }

  peek64(address: number): bigint {
    const value = new BigUint64Array(1)
    this.peek(address, new Uint8Array(value.buffer), 0, 8)
    return value[0]
  }

  peekWords(address: number, count: number): bigint[] {
    return Array.from({ length: count }, (_, i) => this.peek64(address + 8 * i))
  }
}

/** A register frame with a command queue that is consumed, as much as the hypervisor needs. */
export class TestHardware implements SmmuHardware {
  readonly index: number
  readonly #memory: TestMemory
  readonly words = new Uint32Array(r.ARM_SMMU_FRAME_SIZE / 4)
  log: LogEntry[] | null = null
  readonly reads: number[] = []
  logReads = false
  /** Commands consumed since the start. */
  consumed: number[][] = []
  /** Consumption does not happen. */
  stuck = false
  /** Consumption happens only after so many reads of CMDQ_CONS. */
  slow = 0
  /** Opcode that stops the queue with CERROR_ILL. */
  illegal = -1
  /** GBPA.UPDATE stays set. */
  gbpaStuck = false
  /** Bits of CR0 whose changes CR0ACK does not show. */
  unacknowledged = 0
  /** Offsets at which accesses abort. */
  readonly aborting = new Set<number>()
  /** As it is, every write has to be waited for. */
  post: NonNullable<SmmuHardware['post']> = () => false

  constructor(memory: TestMemory, index = 0, id: Partial<IdRegisters> = {}, iidr = 0) {
    this.index = index
    this.#memory = memory
    const ids = { ...QEMU_NESTED_ID_REGISTERS, ...id }
    this.set(r.ARM_SMMU_IDR0, ids.idr0)
    this.set(r.ARM_SMMU_IDR1, ids.idr1)
    this.set(r.ARM_SMMU_IDR3, ids.idr3)
    this.set(r.ARM_SMMU_IDR5, ids.idr5)
    this.set(r.ARM_SMMU_IIDR, iidr)
    this.set(r.ARM_SMMU_GBPA, 0x1000)
  }

  get(offset: number): number {
    return this.words[offset >>> 2]
  }

  get64(offset: number): bigint {
    return (BigInt(this.get(offset + 4)) << 32n) | BigInt(this.get(offset))
  }

  set(offset: number, value: number): void {
    this.words[offset >>> 2] = value
  }

  read(offset: number, size: number, into: Halves): boolean {
    into.lo = 0
    into.hi = 0
    if (this.logReads) this.reads.push(offset)
    if ((size !== 4 && size !== 8) || offset % size !== 0 || this.aborting.has(offset)) return false
    if (offset === r.ARM_SMMU_CMDQ_CONS && this.slow > 0 && --this.slow === 0) this.consume()
    into.lo = this.words[offset >>> 2]
    into.hi = size === 8 ? this.words[(offset >>> 2) + 1] : 0
    return true
  }

  write(offset: number, size: number, lo: number, hi: number): boolean {
    if ((size !== 4 && size !== 8) || offset % size !== 0 || this.aborting.has(offset)) return false
    this.log?.push({ what: 'reg', smmu: this.index, offset, value: (BigInt(hi) << 32n) | BigInt(lo) })
    this.words[offset >>> 2] = lo
    if (size === 8) this.words[(offset >>> 2) + 1] = hi
    switch (offset) {
      case r.ARM_SMMU_GBPA:
        if (!this.gbpaStuck) this.words[offset >>> 2] = lo & ~r.GBPA_UPDATE
        break
      case r.ARM_SMMU_CR0:
        this.set(r.ARM_SMMU_CR0ACK, (lo & ~this.unacknowledged) | (this.get(r.ARM_SMMU_CR0ACK) & this.unacknowledged))
        if (this.slow === 0) this.consume()
        break
      case r.ARM_SMMU_CMDQ_PROD:
      case r.ARM_SMMU_GERRORN:
        if (this.slow === 0) this.consume()
        break
    }
    return true
  }

  /** Takes commands up to PROD. */
  consume(): void {
    if (this.stuck || (this.get(r.ARM_SMMU_CR0) & r.CR0_CMDQEN) === 0) return
    if (((this.get(r.ARM_SMMU_GERROR) ^ this.get(r.ARM_SMMU_GERRORN)) & r.GERROR_CMDQ_ERR) !== 0) return
    const baseLo = this.get(r.ARM_SMMU_CMDQ_BASE)
    const log2size = queueLog2Size(baseLo, 19)
    const base = queueBase(baseLo, this.get(r.ARM_SMMU_CMDQ_BASE + 4), log2size, 16)
    const words = new Uint32Array(4)
    for (;;) {
      const cons = this.get(r.ARM_SMMU_CMDQ_CONS)
      if (queueEmpty(this.get(r.ARM_SMMU_CMDQ_PROD), cons, log2size)) break
      this.#memory.peek(base + 16 * queueIndex(cons, log2size), new Uint8Array(words.buffer), 0, 16)
      if ((words[0] & 0xff) === this.illegal) {
        this.set(r.ARM_SMMU_CMDQ_CONS, (cons & 0xfffff) | (r.CMDQ_ERR_CERROR_ILL_IDX << 24))
        this.set(r.ARM_SMMU_GERROR, this.get(r.ARM_SMMU_GERROR) ^ r.GERROR_CMDQ_ERR)
        break
      }
      this.consumed.push([...words])
      this.log?.push({ what: 'cmd', smmu: this.index, words: [...words] })
      this.set(r.ARM_SMMU_CMDQ_CONS, (cons & 0x7f00_0000) | queueAdvance(cons, log2size))
    }
  }

  /** Names of the commands consumed since the last call. */
  takeCommands(): string[] {
    const names = this.consumed.map(([word]) => opcodeName(word & 0xff))
    this.consumed = []
    return names
  }
}

export interface Warned {
  readonly code: string
  readonly trap: number
  readonly smmu: number
  readonly values: readonly number[]
}

export class TestReport implements HypReport {
  warnings: Warned[] = []
  commands: { smmu: number; opcode: number; verdict: CommandVerdict }[] = []
  own: number[] = []
  streams: { smmu: number; sid: number; host: number; shadow: number }[] = []
  operations: { operation: number; base: number; size: number; owner: number; result: number }[] = []
  probes: (string | null)[] = []

  warn(warning: HypWarning, trap: number, smmu: number, a: number, b: number, c: number, d: number): void {
    this.warnings.push({ code: warning.code, trap, smmu, values: [a, b, c, d].slice(0, warning.values.length) })
  }
  command(smmu: number, opcode: number, verdict: CommandVerdict): void {
    this.commands.push({ smmu, opcode, verdict })
  }
  hypCommand(_smmu: number, opcode: number): void {
    this.own.push(opcode)
  }
  stream(smmu: number, sid: number, host: number, shadow: number): void {
    this.streams.push({ smmu, sid, host, shadow })
  }
  pages(operation: number, base: number, size: number, owner: number, result: number): void {
    this.operations.push({ operation, base, size, owner, result })
  }
  probe(_smmu: number, refusal: string | null): void {
    this.probes.push(refusal)
  }

  /** Codes of the warnings since the last call. */
  take(): string[] {
    const codes = this.warnings.map(({ code }) => code)
    this.warnings = []
    return codes
  }
}

export class TestGuard implements CpuGuard {
  /** Ascending, none touching another. */
  ranges: { base: number; size: number }[] = []
  /** Separate ranges that it keeps. */
  limit = Number.POSITIVE_INFINITY

  add(base: number, size: number): boolean {
    const touching = this.ranges.filter(range => range.base <= base + size && base <= range.base + range.size)
    if (touching.length === 0 && this.ranges.length >= this.limit) return false
    const from = Math.min(base, ...touching.map(range => range.base))
    const to = Math.max(base + size, ...touching.map(range => range.base + range.size))
    this.ranges = [...this.ranges.filter(range => !touching.includes(range)), { base: from, size: to - from }]
    this.ranges.sort((a, b) => a.base - b.base)
    return true
  }

  remove(base: number, size: number): boolean {
    this.ranges = this.ranges.flatMap(range => {
      const end = range.base + range.size
      const below = { base: range.base, size: Math.min(end, base) - range.base }
      const above = { base: Math.max(range.base, base + size), size: end - Math.max(range.base, base + size) }
      return [below, above].filter(part => part.size > 0)
    })
    return true
  }
}

export interface SetUp {
  /** SMMUs can be switched off. */
  readonly power?: (hardware: readonly SmmuHardware[]) => PowerControl
  readonly el2?: El2
  readonly options?: PolicyOptions
  readonly overrides?: HypervisorOverrides
  readonly ids?: readonly Partial<IdRegisters>[]
  readonly iidrs?: readonly number[]
  readonly smmus?: number
  readonly ram?: readonly { readonly base: number; readonly size: number }[]
  readonly carveout?: { readonly base: number; readonly size: number }
  readonly frames?: readonly { readonly base: number; readonly size: number }[]
}

/** A hypervisor and everything around it, with hardware of a kind. */
export class BenchOf<H extends SmmuHardware> {
  readonly memory: TestMemory
  readonly hardware: readonly H[]
  readonly report = new TestReport()
  readonly guard = new TestGuard()
  readonly machine: Machine
  /** Another one may take over. */
  hyp: Hypervisor
  /** Every reading of the clock is a millisecond later. */
  now = 0
  readonly #trap = newTrap()

  constructor(setUp: SetUp, hardware: (memory: TestMemory, index: number) => H) {
    this.memory = new TestMemory(setUp.ram)
    this.hardware = Array.from({ length: setUp.smmus ?? 1 }, (_, i) => hardware(this.memory, i))
    this.machine = {
      memory: this.memory,
      carveout: setUp.carveout ?? { base: CARVEOUT_BASE, size: CARVEOUT_SIZE },
      smmus: this.hardware.map((hardware, i) => ({
        base: SMMU_BASE + i * 0x2_0000,
        size: 0x2_0000,
        ...setUp.frames?.[i],
        hardware,
      })),
      devices: [],
      guard: this.guard,
      ...(setUp.el2 && { el2: setUp.el2 }),
      ...(setUp.power && { power: setUp.power(this.hardware) }),
    }
    this.hyp = new Hypervisor(
      this.machine,
      { options: { waitPolls: 50, ...setUp.options }, report: this.report, clock: () => this.now++ },
      setUp.overrides,
    )
  }

  get hw(): H {
    return this.hardware[0]
  }

  /** What the hardware did so far counts as not seen. */
  forget(): void {}

  trap(write: boolean, offset: number, size: number, lo = 0, hi = 0, smmu = 0): Trap {
    const trap = this.#trap
    trap.seq++
    trap.smmu = smmu
    trap.write = write
    trap.offset = offset
    trap.size = size
    trap.lo = lo >>> 0
    trap.hi = hi >>> 0
    trap.aborted = false
    this.hyp.access(trap)
    return trap
  }

  write(offset: number, value: number, smmu = 0): void {
    this.trap(true, offset, 4, value, 0, smmu)
  }

  write64(offset: number, value: number, hi = 0, smmu = 0): void {
    this.trap(true, offset, 8, value % 2 ** 32, Math.floor(value / 2 ** 32) | hi, smmu)
  }

  read(offset: number, smmu = 0): number {
    return this.trap(false, offset, 4, 0, 0, smmu).lo
  }

  read64(offset: number, smmu = 0): bigint {
    const { lo, hi } = this.trap(false, offset, 8, 0, 0, smmu)
    return (BigInt(hi) << 32n) | BigInt(lo)
  }
}

/** With hardware that logs. */
export class Bench extends BenchOf<TestHardware> {
  constructor(setUp: SetUp = {}) {
    super(setUp, (memory, i) => new TestHardware(memory, i, setUp.ids?.[i], setUp.iidrs?.[i]))
  }

  /** Everything that memory and hardware see from now on, in order. */
  record(): LogEntry[] {
    const log: LogEntry[] = []
    this.memory.log = log
    for (const hardware of this.hardware) hardware.log = log
    return log
  }

  override forget(): void {
    for (const hardware of this.hardware) hardware.takeCommands()
  }
}

/** A new server on the same machine. */
export function successor(bench: Bench, setUp: SetUp = {}): Hypervisor {
  return new Hypervisor(
    bench.machine,
    { options: { waitPolls: 50, ...setUp.options }, report: bench.report, clock: () => bench.now++ },
    setUp.overrides,
  )
}

/** LOG2SIZE of the host's queues. */
export const HOST_LOG2SIZE = 8

/** What Linux's driver does to bring the SMMU up, and what it does afterwards. */
export class Host {
  readonly bench: BenchOf<SmmuHardware>
  readonly smmu: number
  readonly offset: number
  readonly log2size: number

  /** `offset`: every structure lies so many bytes above its usual place, for a second SMMU. */
  constructor(bench: BenchOf<SmmuHardware>, smmu = 0, offset = 0, log2size = HOST_LOG2SIZE) {
    this.bench = bench
    this.smmu = smmu
    this.offset = offset
    this.log2size = log2size
  }

  get cmdq(): number {
    return HOST_CMDQ + this.offset
  }
  get evtq(): number {
    return HOST_EVTQ + this.offset
  }
  get priq(): number {
    return HOST_PRIQ + this.offset
  }
  get strtab(): number {
    return HOST_STRTAB + this.offset
  }
  get l2(): number {
    return HOST_L2 + this.offset
  }

  write(offset: number, value: number): void {
    this.bench.write(offset, value, this.smmu)
  }

  /** Registers as before CMDQEN. */
  prepare(sidBits = 16): void {
    const { bench, smmu } = this
    this.write(r.ARM_SMMU_CR0, 0)
    this.write(r.ARM_SMMU_CR1, 0xd75)
    this.write(r.ARM_SMMU_CR2, 6)
    bench.write64(r.ARM_SMMU_STRTAB_BASE, this.strtab, r.STRTAB_BASE_HI_RA, smmu)
    this.write(r.ARM_SMMU_STRTAB_BASE_CFG, sidBits > 8 ? twoLevelCfg(sidBits) : linearCfg(sidBits))
    bench.write64(r.ARM_SMMU_CMDQ_BASE, this.cmdq + this.log2size, r.Q_BASE_HI_RWA, smmu)
    this.write(r.ARM_SMMU_CMDQ_PROD, 0)
    this.write(r.ARM_SMMU_CMDQ_CONS, 0)
    bench.write64(r.ARM_SMMU_EVTQ_BASE, this.evtq + this.log2size, r.Q_BASE_HI_RWA, smmu)
    this.write(r.ARM_SMMU_EVTQ_PROD, 0)
    this.write(r.ARM_SMMU_EVTQ_CONS, 0)
  }

  /** The whole of it; leaves no trace in logs and reports. */
  boot(sidBits = 16): this {
    const { bench } = this
    // A table of its own, empty, whatever another kernel left there.
    bench.memory.poke(this.strtab, new Uint8Array(sidBits > 8 ? 8 * 2 ** (sidBits - 8) : 64 * 2 ** sidBits))
    this.prepare(sidBits)
    this.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    this.commands(CFGI_ALL, SYNC)
    this.commands(TLBI_NSNH_ALL, SYNC)
    this.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
    this.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN | r.CR0_SMMUEN)
    bench.forget()
    return this
  }

  get prod(): number {
    return this.bench.read(r.ARM_SMMU_CMDQ_PROD, this.smmu)
  }

  /** Writes commands at PROD without telling. Returns the new PROD. */
  place(...commands: readonly (readonly number[])[]): number {
    let { prod } = this
    for (const words of commands) {
      const address = this.cmdq + 16 * queueIndex(prod, this.log2size)
      this.bench.memory.poke(address, new Uint8Array(Uint32Array.from(words).buffer))
      prod = queueAdvance(prod, this.log2size)
    }
    return prod
  }

  commands(...commands: readonly (readonly number[])[]): void {
    this.write(r.ARM_SMMU_CMDQ_PROD, this.place(...commands))
  }

  /** The host's L1 descriptor for a StreamID leads to an L2 table. */
  l1(sid: number, l2 = this.l2, span = 9): void {
    this.bench.memory.poke64(this.strtab + 8 * (sid >>> 8), BigInt(l2 + span))
  }

  /** Writes the host's entry of a 2-level table. */
  ste(sid: number, words: readonly bigint[]): void {
    const ste = Array.from({ length: 8 }, (_, i) => words[i] ?? 0n)
    this.bench.memory.poke64(this.l2 + 64 * (sid & 0xff), ...ste)
  }

  cfgiSte(sid: number, leaf = 1): void {
    this.commands(command('CFGI_STE', { sid, leaf }), SYNC)
  }

  /** L1, entry and CFGI_STE in one. */
  attach(sid: number, words: readonly bigint[]): void {
    this.l1(sid)
    this.ste(sid, words)
    this.cfgiSte(sid)
  }
}

/** Entries of the kinds that Linux makes. */
export const STE = {
  invalid: ste({ v: 0 }),
  abort: ste({ config: CONFIG.abort }),
  bypass: ste({ config: CONFIG.bypass, shCfg: 1 }),
  s1: ste({ config: CONFIG.s1, s1ContextPtr: 0x4140_0000, s1Cir: 1, s1Cor: 1, s1Csh: 3, shCfg: 1 }),
  s2: ste({ config: CONFIG.s2 }),
  nested: ste({ config: CONFIG.nested, s1ContextPtr: 0x4140_0000 }),
} as const

/** Address of the shadow entry, found as the hardware finds it. */
export function shadowSteAddress(bench: Bench, sid: number, smmu = 0): number {
  const hw = bench.hardware[smmu]
  const base = addressOf(hw.get(r.ARM_SMMU_STRTAB_BASE) & ~0x3f, hw.get(r.ARM_SMMU_STRTAB_BASE + 4) & 0xff_ffff)
  if (((hw.get(r.ARM_SMMU_STRTAB_BASE_CFG) >>> 16) & 3) === 0) return base + 64 * sid
  const l1 = bench.memory.peek64(base + 8 * (sid >>> 8))
  return (l1 & 0x1fn) === 0n ? 0 : Number(l1 & ~0x3fn) + 64 * (sid & 0xff)
}

export function shadowSte(bench: Bench, sid: number, smmu = 0): bigint[] {
  const address = shadowSteAddress(bench, sid, smmu)
  return address === 0 ? [] : bench.memory.peekWords(address, 8)
}

/** A leaf of the idmap. */
export interface IdmapEntry {
  readonly base: number
  readonly size: number
  /** Where it leads. */
  readonly target: number
  readonly level: number
  /** The descriptor. */
  readonly lo: number
  readonly hi: number
}

/** What the tables of the idmap in memory say about an address; null for a hole. */
export function idmapEntry(bench: BenchOf<SmmuHardware>, address: number): IdmapEntry | null {
  const { idmap } = bench.hyp
  if (idmap === null) throw new Error('there is no idmap')
  const { startLevel, rootBytes, tableBits, inputBits, granuleShift } = idmap.geometry
  if (address >= 2 ** inputBits) return null
  let table = idmap.root
  for (let level = startLevel; ; level++) {
    const size = 2 ** levelShift(level, granuleShift)
    const entries = level === startLevel ? rootBytes / PTE_SIZE : 2 ** tableBits
    const entry = new Uint32Array(2)
    const bytes = Buffer.from(entry.buffer)
    bench.memory.peek(table + (Math.floor(address / size) % entries) * PTE_SIZE, bytes, 0, PTE_SIZE)
    if (idmap.bigEndian) bytes.swap64()
    const [lo, hi] = entry
    const type = lo & ARM_LPAE_PTE_TYPE_MASK
    if ((type & ARM_LPAE_PTE_VALID) === 0) return null
    const target = addressOf((lo & 0xffff_f000) >>> 0, hi & 0xffff)
    if (level === LAST_LEVEL || type === ARM_LPAE_PTE_TYPE_BLOCK) {
      return { base: address - (address % size), size, target, level, lo, hi }
    }
    table = target
  }
}
