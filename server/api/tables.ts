// SPDX-License-Identifier: Apache-2.0
/** Translation tables, for browsing and for maps. */
import { hex, hex64 } from '../smmu/bits.ts'
import {
  ARM_LPAE_PTE_AF,
  ARM_LPAE_PTE_TYPE_TABLE,
  blockAllowed,
  descriptorAddress,
  LAST_LEVEL,
  levelShift,
  startTableBytes,
  tableBits,
} from '../smmu/pagetable.ts'
import { words } from './hex.ts'

/** One table, or the tables side by side at a start level. */
export interface Table {
  readonly stage: 1 | 2
  readonly name?: string
  readonly address: number
  readonly level: number
  readonly granuleShift: number
  /** Bits of input address that the start level resolves with all below; absent below the start level. */
  readonly inputBits?: number
  /** First input address that it translates. */
  readonly input: bigint
}

export type Read = (address: number, length: number) => Uint8Array | undefined

interface Descriptor {
  readonly index: number
  readonly input: bigint
  readonly lo: number
  readonly hi: number
  readonly type: 'table' | 'block' | 'page'
  readonly address: number
  /** log2 of the bytes that it maps. */
  readonly shift: number
}

function* descriptors(read: Read, table: Table, oas: number): Generator<Descriptor> {
  const { level, granuleShift } = table
  const shift = levelShift(level, granuleShift)
  const length =
    table.inputBits === undefined
      ? 8 * 2 ** tableBits(granuleShift)
      : Math.min(startTableBytes(table.inputBits, level, granuleShift), 1 << 20)
  const bytes = read(table.address, length)
  if (bytes === undefined) return
  const w = words(bytes)
  for (let index = 0; index < length / 8; index++) {
    const lo = w[2 * index] ?? 0
    const hi = w[2 * index + 1] ?? 0
    if ((lo & 1) === 0) continue
    const isTable = (lo & 3) === ARM_LPAE_PTE_TYPE_TABLE && level < LAST_LEVEL
    const page = (lo & 3) === ARM_LPAE_PTE_TYPE_TABLE && level === LAST_LEVEL
    if (!isTable && !page && !blockAllowed(level, granuleShift, oas)) continue
    yield {
      index,
      input: table.input + (BigInt(index) << BigInt(shift)),
      lo,
      hi,
      type: isTable ? 'table' : page ? 'page' : 'block',
      address: descriptorAddress(lo, hi, isTable ? granuleShift : shift, granuleShift, oas),
      shift,
    }
  }
}

const STAGE1_AP = ['EL1 RW', 'RW', 'EL1 RO', 'RO']
const STAGE2_AP = ['none', 'RO', 'WO', 'RW']

/** The valid entries of a table, decoded. */
export function tableEntries(read: Read, table: Table, oas: number) {
  if (read(table.address, 8) === undefined) return { readable: false, entries: [] }
  const entries = [...descriptors(read, table, oas)].map(d => ({
    index: d.index,
    input: hex(d.input),
    value: hex64(d.lo, d.hi),
    type: d.type,
    address: hex(d.address),
    size: 2 ** d.shift,
    permissions: d.type === 'table' ? '' : ((table.stage === 1 ? STAGE1_AP : STAGE2_AP)[(d.lo >>> 6) & 3] ?? ''),
    accessed: d.type === 'table' || (d.lo & ARM_LPAE_PTE_AF) !== 0,
  }))
  return { readable: true, entries }
}

/** A run of pages that are mapped one after the other. */
export interface Leaf {
  readonly input: bigint
  readonly address: number
  readonly size: number
}

/** The mappings of a table, adjacent leaves joined. @param limit of descriptors that are visited */
export function* tableLeaves(read: Read, root: Table, oas: number, limit: number): Generator<Leaf> {
  let left = limit
  let run: Leaf | undefined
  function* visit(table: Table): Generator<Leaf> {
    for (const d of descriptors(read, table, oas)) {
      if (left-- <= 0) return
      if (d.type === 'table') {
        yield* visit({ ...below(table), address: d.address, input: d.input })
        continue
      }
      const size = 2 ** d.shift
      if (run && run.address + run.size === d.address && run.input + BigInt(run.size) === d.input) {
        run = { ...run, size: run.size + size }
      } else {
        if (run) yield run
        run = { input: d.input, address: d.address, size }
      }
    }
  }
  yield* visit(root)
  if (run) yield run
}

function below({ stage, level, granuleShift }: Table) {
  return { stage, level: level + 1, granuleShift }
}
