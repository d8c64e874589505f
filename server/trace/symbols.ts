// SPDX-License-Identifier: Apache-2.0
import { readFileSync, statSync } from 'node:fs'
import { ARM_SMMU_IDR0 } from '../smmu/registers.ts'
import { elfSymbols, isElfFile } from './elf.ts'
import { type ImageSymbol, imageSymbols } from './kallsyms.ts'
import { isImage, plainImage } from './kernelImage.ts'
import type { TraceReader } from './reader.ts'

/** The kernel's image moves by a multiple of this (EFI_KIMG_ALIGN, 64 KiB). */
const KASLR_STEP = 0x1_0000n

/** Functions that access the SMMU's registers have this in their name. */
const DRIVER = 'arm_smmu'

/** Longer ones are none, bytes: nothing is known behind them, as behind the last one of a module. */
const MOST_BYTES = 1n << 20n

/** Functions by ascending address. In a form that another thread can be sent at no cost, although they are 100,000. */
export interface FunctionTable {
  readonly addresses: BigUint64Array
  /** Names behind each other. */
  readonly names: string
  /** Where in `names` each one ends. */
  readonly ends: Uint32Array
}

/** @param functions by ascending address */
export function functionTable(
  functions: readonly { readonly address: bigint; readonly name: string }[],
): FunctionTable {
  let end = 0
  return {
    addresses: BigUint64Array.from(functions, ({ address }) => address),
    names: functions.map(({ name }) => name).join(''),
    ends: Uint32Array.from(functions, ({ name }) => (end += name.length)),
  }
}

/** Longer ones are none, but for a vmlinux, of which only the tables are read: a System.map has some 10 MiB. */
const MAX_FILE = 512 << 20

/** Files that symbols are read from, as the help of options has it. */
export const SYMBOL_FILES = 'a kernel image, its vmlinux, System.map, or the guest’s /proc/kallsyms'

/** Reads what a file of `SYMBOL_FILES` has; half a second. @throws Error naming the file. */
export function loadSymbols(path: string): ImageSymbol[] {
  try {
    if (!statSync(path).isFile()) throw new Error('not a regular file')
    // A vmlinux may be longer than a Buffer.
    if (isElfFile(path)) return elfSymbols(path)
    const { size } = statSync(path)
    if (size > MAX_FILE) throw new Error(`${size} bytes; at most ${MAX_FILE} are read`)
    const file = plainImage(path, readFileSync(path))
    if (file === undefined)
      throw new Error('this zboot image is not packed by gzip: its vmlinux or System.map is needed')
    return isImage(file) ? ofImage(file) : parse(file.toString('latin1'))
  } catch (error) {
    throw new Error(`symbols ${path}: ${(error as Error).message}`)
  }
}

/** Those of them that are functions. */
export function functionsOf(symbols: readonly ImageSymbol[]): FunctionTable {
  const functions = symbols
    .filter(({ type, name }) => /[tTwW]/.test(type) && !name.startsWith('$'))
    .sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0))
  return functionTable(functions)
}

/** Reads the functions of a file. @throws Error naming it. */
export const loadFunctions = (path: string): FunctionTable => functionsOf(loadSymbols(path))

/** Kernel functions by address. */
export class Symbols {
  /** Distance of the running kernel from the addresses in the file, bytes. */
  offset = 0n
  /** Distances of others that run the same file before or after it. */
  readonly #others: bigint[] = []
  readonly #table: FunctionTable
  /** The driver's functions: start, and where the next function starts. */
  #driver: readonly (readonly [start: bigint, end: bigint])[] | undefined

  constructor(table: FunctionTable) {
    this.#table = table
  }

  /** @throws Error naming the file. */
  static load(path: string): Symbols {
    return new Symbols(loadFunctions(path))
  }

  /** The function that `pc` is in, and how far. */
  find(pc: bigint): { readonly name: string; readonly distance: number } | undefined {
    const { addresses } = this.#table
    const offset = this.#holds(pc, this.offset)
      ? this.offset
      : (this.#others.find(other => this.#holds(pc, other)) ?? this.offset)
    const i = this.#indexOf(pc - offset)
    const start = addresses[i]
    // Nobody knows where the last one ends.
    if (start === undefined || i + 1 === addresses.length) return undefined
    return { name: this.#name(i), distance: Number(pc - offset - start) }
  }

  /** Another kernel of the same file: kernels that one machine runs are far from each other. */
  add(offset: bigint): void {
    if (offset !== this.offset && !this.#others.includes(offset)) this.#others.push(offset)
  }

  /** Whether `pc` is in the text of a kernel that was moved so far. */
  #holds(pc: bigint, offset: bigint): boolean {
    const { addresses } = this.#table
    return pc - offset >= (addresses[0] ?? 0n) && pc - offset < (addresses.at(-1) ?? 0n)
  }

  /**
   * Where the functions of a name are: from, and the first address behind. Several where a name is not unique, or the compiler
   * has cut one in parts (`name.cold`).
   */
  named(name: string): (readonly [start: bigint, end: bigint])[] {
    const { addresses } = this.#table
    const found: (readonly [bigint, bigint])[] = []
    addresses.forEach((start, i) => {
      if (this.#name(i).split('.')[0] !== name) return
      // What has two names ends where both do.
      const end = addresses.subarray(i + 1).find(next => next > start)
      if (end !== undefined) found.push([start + this.offset, end + this.offset])
    })
    return found
  }

  /** `function+0x…`, or the address. */
  describe(pc: bigint): string {
    const found = this.find(pc)
    return found ? `${found.name}+0x${found.distance.toString(16)}` : `0x${pc.toString(16)}`
  }

  /**
   * Works out `offset` from where traps come from: nearly all of them from functions of the SMMU driver.
   * @returns false, with `offset` unchanged, when no offset explains them, or several do equally well.
   */
  locate(pcs: ReadonlySet<bigint>): boolean {
    const [first] = pcs
    if (first === undefined) return false
    const candidates = new Map<bigint, number>()
    for (const pc of pcs) {
      for (const offset of this.#offsetsFor(pc)) candidates.set(offset, (candidates.get(offset) ?? 0) + 1)
    }
    const ranked = [...candidates].sort((a, b) => b[1] - a[1])
    const [best, second] = ranked
    if (best === undefined || best[1] < pcs.size * 0.9 || best[1] === second?.[1]) return false
    this.offset = best[0]
    return true
  }

  /** Offsets that put `pc` into a function of the driver. */
  *#offsetsFor(pc: bigint): Generator<bigint> {
    this.#driver ??= this.#functionsOf(DRIVER)
    for (const [start, end] of this.#driver) {
      const least = pc - end + 1n
      const most = pc - start
      for (let offset = most - modulo(most, KASLR_STEP); offset >= least; offset -= KASLR_STEP) yield offset
    }
  }

  #functionsOf(driver: string): (readonly [bigint, bigint])[] {
    const { addresses } = this.#table
    const found: (readonly [bigint, bigint])[] = []
    addresses.forEach((start, i) => {
      const end = addresses[i + 1]
      if (end === undefined || end - start > MOST_BYTES) return
      if (this.#name(i).includes(driver)) found.push([start, end])
    })
    return found
  }

  #name(i: number): string {
    const { names, ends } = this.#table
    return names.slice(ends[i - 1] ?? 0, ends[i])
  }

  /** Of the last function at or below `address`; -1 when there is none. */
  #indexOf(address: bigint): number {
    const { addresses } = this.#table
    let low = 0
    let high = addresses.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((addresses[middle] ?? 0n) <= address) low = middle + 1
      else high = middle
    }
    return low - 1
  }
}

function ofImage(image: Buffer): ImageSymbol[] {
  const symbols = imageSymbols(image)
  if (symbols === undefined) throw new Error('this kernel image has no symbol table (CONFIG_KALLSYMS)')
  return symbols
}

/** Lines of nm: address, type, name. */
function parse(text: string): ImageSymbol[] {
  const symbols: ImageSymbol[] = []
  for (const line of text.split('\n')) {
    const match = /^([0-9a-f]{16}) ([a-zA-Z]) (\S+)/.exec(line)
    if (match) symbols.push({ address: BigInt(`0x${match[1]}`), type: match[2] ?? '', name: match[3] ?? '' })
  }
  if (!symbols.some(({ type }) => /[tT]/.test(type))) {
    throw new Error(`no function in it: ${SYMBOL_FILES} is needed`)
  }
  if (symbols.every(({ address }) => address === 0n)) {
    throw new Error('all addresses are 0: read /proc/kallsyms as root, with kernel.kptr_restrict=0')
  }
  return symbols
}

function modulo(value: bigint, step: bigint): bigint {
  return ((value % step) + step) % step
}

export function pcOf(record: { readonly pcLo: number; readonly pcHi: number }): bigint {
  return (BigInt(record.pcHi) << 32n) | BigInt(record.pcLo)
}

/** Addresses of `frames`, copied. A record at the end of a chain has none. */
export function returnAddresses(frames: Uint8Array): bigint[] {
  const view = new DataView(frames.buffer, frames.byteOffset, frames.byteLength)
  const addresses: bigint[] = []
  for (let at = 0; at + 8 <= frames.length; at += 8) {
    const address = view.getBigUint64(at, true)
    if (address !== 0n) addresses.push(withoutPac(address))
  }
  return addresses
}

/** Bit 55 says which half of the address space it is; a kernel's text has all bits above 47 set, but for a signature (FEAT_PAuth). */
const withoutPac = (address: bigint): bigint =>
  (address & (1n << 55n)) === 0n ? address & 0xffff_ffff_ffffn : address | 0xffff_0000_0000_0000n

/** Longer than any kernel, bytes; KASLR moves one by much more. */
const MOST_IMAGE = 256n << 20n

/**
 * Whether a trap from `pc` is the first of another kernel than one from `before`, which has started it (kexec): a driver looks at what
 * the SMMU can do, in IDR0, before anything else.
 */
export const isSuccessor = (
  { write, offset }: { readonly write: boolean; readonly offset: number },
  pc: bigint,
  before: bigint,
): boolean => !write && offset === ARM_SMMU_IDR0 && pc !== 0n && (pc > before + MOST_IMAGE || pc < before - MOST_IMAGE)

/** So many different PCs are enough to tell where a kernel is; they come early. */
const ENOUGH_PCS = 64
/** Kernels that start later have no names: who looks at the start of a long recording is not to wait for its end. */
const MOST_RECORDS = 2_000_000
/** Kernels, likewise. */
const MOST_KERNELS = 64

/** Works out how far the kernels of a recording were moved: one after each reset, and after each kexec. @returns false when its traps don't tell. */
export function locate(symbols: Symbols, reader: TraceReader): boolean {
  const offsets = new Set<bigint>()
  let pcs = new Set<bigint>()
  const next = () => {
    if (symbols.locate(pcs)) offsets.add(symbols.offset)
    pcs = new Set()
  }
  let records = 0
  for (const record of reader.records()) {
    if (++records > MOST_RECORDS || offsets.size >= MOST_KERNELS) break
    if (record.kind === 'reset') next()
    if (record.kind !== 'trap') continue
    const pc = pcOf(record)
    if (pc === 0n) continue
    const [before = pc] = pcs
    if (isSuccessor({ write: record.write !== 0, offset: record.offset }, pc, before)) next()
    if (pcs.size < ENOUGH_PCS) pcs.add(pc)
  }
  next()
  const [first, ...others] = offsets
  if (first === undefined) return false
  symbols.offset = first
  for (const offset of others) symbols.add(offset)
  return true
}
