// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs'
import { imageSymbols } from './kallsyms.ts'
import type { TraceReader } from './reader.ts'

/** The kernel's image moves by a multiple of this (EFI_KIMG_ALIGN, 64 KiB). */
const KASLR_STEP = 0x1_0000n

/** Functions that access the SMMU's registers have this in their name. */
const DRIVER = 'arm_smmu'

interface Symbol {
  readonly address: bigint
  /** As nm prints it. */
  readonly type: string
  readonly name: string
}

/** At byte 56 of every arm64 kernel image. */
const IMAGE_MAGIC = 'ARM\x64'

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

/** Reads the functions of a kernel image, a System.map or /proc/kallsyms; half a second. @throws Error naming the file. */
export function loadFunctions(path: string): FunctionTable {
  try {
    const file = readFileSync(path)
    const isImage = file.toString('latin1', 56, 60) === IMAGE_MAGIC
    const functions = (isImage ? ofImage(file) : parse(file.toString('latin1')))
      .filter(({ type, name }) => /[tTwW]/.test(type) && !name.startsWith('$'))
      .sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0))
    return functionTable(functions)
  } catch (error) {
    throw new Error(`symbols ${path}: ${(error as Error).message}`)
  }
}

/** Kernel functions by address. */
export class Symbols {
  /** Distance of the running kernel from the addresses in the file, bytes. */
  offset = 0n
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
    const i = this.#indexOf(pc - this.offset)
    const start = addresses[i]
    // Nobody knows where the last one ends.
    if (start === undefined || i + 1 === addresses.length) return undefined
    return { name: this.#name(i), distance: Number(pc - this.offset - start) }
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
      if (end !== undefined && this.#name(i).includes(driver)) found.push([start, end])
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

function ofImage(image: Buffer): readonly Symbol[] {
  const symbols = imageSymbols(image)
  if (symbols === undefined) throw new Error('this kernel image has no symbol table (CONFIG_KALLSYMS)')
  return symbols
}

/** Lines of nm: address, type, name. */
function parse(text: string): readonly Symbol[] {
  const symbols: Symbol[] = []
  for (const line of text.split('\n')) {
    const match = /^([0-9a-f]{16}) ([a-zA-Z]) (\S+)/.exec(line)
    if (match) symbols.push({ address: BigInt(`0x${match[1]}`), type: match[2] ?? '', name: match[3] ?? '' })
  }
  if (!symbols.some(({ type }) => /[tT]/.test(type))) {
    throw new Error('no function in it: a kernel image, its System.map or /proc/kallsyms is needed')
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

/** So many different PCs are enough to tell where the kernel is; they come early. */
const ENOUGH_PCS = 64
const ENOUGH_TRAPS = 20_000

/** Works out how far the kernel of a recording was moved. @returns false when its traps don't tell. */
export function locate(symbols: Symbols, reader: TraceReader): boolean {
  const pcs = new Set<bigint>()
  let traps = 0
  for (const record of reader.records()) {
    if (record.kind !== 'trap') continue
    const pc = pcOf(record)
    if (pc !== 0n) pcs.add(pc)
    if (pcs.size >= ENOUGH_PCS || ++traps >= ENOUGH_TRAPS) break
  }
  return symbols.locate(pcs)
}
