// SPDX-License-Identifier: Apache-2.0
/**
 * Whether devices reach what EL2 lets its host reach, and nothing else: EL2's tables and the SMMU's second stage, both read
 * from RAM, compared for each page of it. Asks no hypervisor what it believes.
 */
import type { HostStage2Registers } from '../machine/ports.ts'
import type { Stage2Table } from '../policy/inspect.ts'
import { hex } from '../smmu/bits.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { descriptorAddress, LAST_LEVEL, levelShift, startTableBytes } from '../smmu/pagetable.ts'
import { stage2Leaves, type TableRegisters, tableLimit, ways } from '../smmu/reach.ts'
import { annotated, untouched } from './hostStage2.ts'

const PAGE = 4096
/** Limit of ranges of one kind that are listed one by one: those that do no harm take no place from those that do. */
const MAX_TOLD = 20
/** Stage 2 access permissions, HAP: without either a descriptor maps nothing. */
const HAP = 3 << 6

/** Adjacent pages that the two do not agree on. */
export interface Disagreement {
  readonly base: number
  readonly size: number
  /**
   * `reached`: devices reach what is kept from the host. `lost`: they do not reach what is its own. `elsewhere`: the page
   * is mapped to another one, or another address to it.
   */
  readonly what: 'reached' | 'lost' | 'elsewhere'
  /** Who does; absent: all devices, through the one second stage that there is. */
  readonly who?: string
}

/** Something that devices reach memory through. */
export interface Reach {
  /** Absent: all devices. */
  readonly who?: string
  /** What the host reaches has to be reached, too: all of it, or what EL2 has mapped. */
  readonly whole: boolean | 'mapped'
  /** Calls `leaf` for each range that is reached, and where it leads. */
  leaves(leaf: (base: number, size: number, target: number) => void): void
}

/** One comparison of all of RAM. */
export interface Agreement {
  /** Pages of 4 KiB that were compared. */
  readonly pages: number
  /** Of these: kept from the host by EL2, and by the server (hypervisor memory). */
  readonly kept: number
  readonly hypervisor: number
  /** The host's, which EL2 has not mapped yet and devices do not reach: of a second stage that is EL2's. */
  readonly untouched: number
  /** The first MAX_TOLD of each kind. */
  readonly disagreements: readonly Disagreement[]
  /** Pages in all of them. */
  readonly wrong: number
}

// What a page is, by bits.
const KEPT = 1
const HYPERVISOR = 2
const REACHED = 4
const ELSEWHERE = 8
const UNTOUCHED = 16

/** One byte for each page of RAM. */
class Pages {
  readonly #regions: { readonly base: number; readonly end: number; readonly pages: Uint8Array }[]

  constructor(ram: GuestMemory['ram']) {
    this.#regions = ram.map(({ base, size }) => ({ base, end: base + size, pages: new Uint8Array(size / PAGE) }))
  }

  mark(from: number, size: number, bit: number): void {
    for (const { base, end, pages } of this.#regions) {
      const start = Math.max(base, from)
      const stop = Math.min(end, from + size)
      for (let i = Math.floor((start - base) / PAGE); i < (stop - base) / PAGE; i++) pages[i] = (pages[i] ?? 0) | bit
    }
  }

  *all(): Generator<readonly [address: number, bits: number]> {
    for (const { base, pages } of this.#regions) {
      for (const [i, bits] of pages.entries()) yield [base + i * PAGE, bits]
    }
  }
}

/** What is wrong with a page; undefined: nothing. */
function verdict(bits: number): Disagreement['what'] | undefined {
  if ((bits & ELSEWHERE) !== 0) return 'elsewhere'
  const host = (bits & (KEPT | HYPERVISOR)) === 0
  const reached = (bits & REACHED) !== 0
  return host === reached ? undefined : reached ? 'reached' : 'lost'
}

/** A second stage that is an identity map of what the host reaches. */
export const idmapReach = (memory: GuestMemory, table: Stage2Table): Reach => ({
  whole: table.onDemand === true ? 'mapped' : true,
  leaves: leaf => stage2(memory, table, leaf),
})

/**
 * What streams reach by the tables that the hardware uses, each way of its own once. An SMMU that is off says nothing: what is
 * let through before its driver comes is not judged.
 */
export function streamReaches(memory: GuestMemory, smmus: readonly TableRegisters[]): Reach[] {
  return [...ways(memory, smmus)].flatMap(({ smmu, sid, ste, second }): Reach[] => {
    if (sid === undefined) return []
    const who = `StreamID ${hex(sid)} of SMMU ${smmu}`
    return [
      {
        who: second ? who : `${who}, which has no second stage,`,
        whole: false,
        leaves(leaf) {
          if (second) stage2Leaves(memory, ste, smmus[smmu].oas, leaf)
          else for (const { base, size } of memory.ram) leaf(base, size, base)
        },
      },
    ]
  })
}

/**
 * Compares both for all RAM. Hypervisor memory is kept from the host whatever EL2 says of it.
 * @param reaches all that devices reach memory through
 * @throws Error when tables or registers make no sense
 */
export function compare(
  memory: GuestMemory,
  registers: HostStage2Registers,
  reaches: readonly Reach[],
  carveout: { readonly base: number; readonly size: number },
): Agreement {
  const result = { pages: 0, kept: 0, hypervisor: 0, untouched: 0, wrong: 0 }
  const disagreements: { base: number; size: number; what: Disagreement['what']; who?: string }[] = []
  const told = { reached: 0, lost: 0, elsewhere: 0 }
  const kept = annotated(memory, registers)
  for (const [i, reach] of reaches.entries()) {
    const { who, whole } = reach
    const pages = new Pages(memory.ram)
    for (const { base, size } of kept) pages.mark(base, size, KEPT)
    pages.mark(carveout.base, carveout.size, HYPERVISOR)
    if (whole === 'mapped') untouched(memory, registers, (base, size) => pages.mark(base, size, UNTOUCHED))
    reach.leaves((base, size, target) => {
      if (target === base) return pages.mark(base, size, REACHED)
      pages.mark(base, size, ELSEWHERE)
      pages.mark(target, size, ELSEWHERE)
    })
    result.pages = 0
    for (const [address, bits] of pages.all()) {
      result.pages++
      const what = verdict(bits)
      if (i === 0) {
        if ((bits & HYPERVISOR) !== 0) result.hypervisor++
        else if ((bits & KEPT) !== 0) result.kept++
      }
      if (what === undefined || (what === 'lost' && whole === false)) continue
      if (what === 'lost' && (bits & UNTOUCHED) !== 0) {
        result.untouched++
        continue
      }
      result.wrong++
      const last = disagreements.at(-1)
      if (last?.what === what && last.who === who && last.base + last.size === address) last.size += PAGE
      else if (told[what]++ < MAX_TOLD) {
        disagreements.push({ base: address, size: PAGE, what, ...(who !== undefined && { who }) })
      }
    }
  }
  return { ...result, disagreements }
}

/** Calls `leaf` for each leaf of a second stage (VMSAv8-64, IHI 0070 section 3.4). */
function stage2(
  memory: GuestMemory,
  { root, granuleShift, startLevel, outputBits, bigEndian }: Stage2Table,
  leaf: (base: number, size: number, target: number) => void,
): void {
  const inputBits = Math.min(48, outputBits)
  const most = tableLimit(memory)
  let tables = 0
  const walk = (table: number, level: number, bytes: number, input: number): void => {
    if (++tables > most) throw new Error('the second stage leads into itself')
    const data = Buffer.alloc(bytes)
    if (!memory.read(table, data, 0, bytes)) throw new Error(`the second stage's table at ${hex(table)} is not in RAM`)
    if (bigEndian) data.swap64()
    const shift = levelShift(level, granuleShift)
    for (let at = 0; at < bytes; at += 8) {
      const lo = data.readUInt32LE(at)
      if ((lo & 1) === 0) continue
      const hi = data.readUInt32LE(at + 4)
      const base = input + (at / 8) * 2 ** shift
      const type = lo & 3
      if (level < LAST_LEVEL && type === 3) {
        walk(descriptorAddress(lo, hi, granuleShift, granuleShift, outputBits), level + 1, 2 ** granuleShift, base)
      } else if ((type === 3 || level < LAST_LEVEL) && (lo & HAP) !== 0) {
        leaf(base, 2 ** shift, descriptorAddress(lo, hi, shift, granuleShift, outputBits))
      }
    }
  }
  walk(root, startLevel, startTableBytes(inputBits, startLevel, granuleShift), 0)
}

/** A disagreement, in words. */
export function describeDisagreement({ base, size, what, who }: Disagreement): string {
  const pages = `${size / PAGE} ${size === PAGE ? 'page' : 'pages'} at ${hex(base)}`
  switch (what) {
    case 'reached':
      return `${who === undefined ? 'devices reach' : `${who} reaches`} ${pages}, which EL2 or the server keeps from the host`
    case 'lost':
      return `devices do not reach ${pages}, which EL2 lets its host reach`
    case 'elsewhere':
      return `the second stage${who === undefined ? '' : ` of ${who}`} maps ${pages} to or from other addresses`
  }
}
