// SPDX-License-Identifier: Apache-2.0
/**
 * The IORT that the guest found (IO Remapping Table, ARM DEN 0049), against what QEMU said of the machine: a guest that goes by other
 * SMMUs, or by other StreamIDs, is on another machine than the policy.
 */
import type { GuestEvent } from '../machine/guestEvents.ts'

const NODE_ROOT_COMPLEX = 2
const NODE_SMMUV3 = 4
const HEADER = 48
const NODE_HEADER = 16
const SMMUV3_NODE = 68
const MAPPING = 20
/** More than a table of QEMU's has. */
const MAX_TABLE = 65_536
const MAX_NODES = 256
/** GIC: numbers of shared interrupts begin here. */
const FIRST_SPI = 32

/** An SMMUv3 node. Interrupts are GSIVs. */
export interface IortSmmu {
  readonly base: number
  readonly event: number
  readonly pri: number
  readonly gerror: number
  readonly sync: number
}

/** What of a root complex an SMMU is in front of. */
export interface IortMapping {
  readonly segment: number
  /** Requester IDs `first` to `last` have StreamIDs from `output` on. */
  readonly first: number
  readonly last: number
  readonly output: number
  /** Index in `smmus`. */
  readonly smmu: number
}

export interface Iort {
  readonly smmus: readonly IortSmmu[]
  readonly mappings: readonly IortMapping[]
}

/** The machine as QEMU described it, as far as it is compared. */
export interface Described {
  readonly smmus: readonly {
    readonly base: number
    readonly irqEvtq: number
    readonly irqPriq: number
    readonly irqCmdSync: number
    readonly irqGerror: number
  }[]
  readonly devices: readonly { readonly smmu: number; readonly sid: number; readonly name: string }[]
}

/**
 * The tables of a name that the guest reported in parts: one for each kernel that did, a successor's last. Undefined: not all of it.
 */
export function reportedTables(events: readonly GuestEvent[], name: string): (Buffer | undefined)[] {
  const reports: GuestEvent[][] = []
  for (const part of events.filter(({ event, name: table }) => event === 'acpi' && table === name)) {
    if (part.offset === 0 || reports.length === 0) reports.push([])
    reports.at(-1)?.push(part)
  }
  return reports.map(tableBytes)
}

function tableBytes(parts: readonly GuestEvent[]): Buffer | undefined {
  const total = Number(parts[0]?.bytes)
  if (!(total > 0 && total <= MAX_TABLE)) return undefined
  const table = Buffer.alloc(total)
  let known = 0
  for (const { offset, hex } of parts) {
    const bytes = Buffer.from(String(hex), 'hex')
    if (offset !== known || known + bytes.length > total) return undefined
    bytes.copy(table, known)
    known += bytes.length
  }
  return known === total ? table : undefined
}

/** Reads a table. @throws Error when it is none, or a length in it is wrong */
export function parseIort(table: Buffer): Iort {
  if (table.length < HEADER || table.toString('latin1', 0, 4) !== 'IORT' || table.readUInt32LE(4) !== table.length)
    throw new Error('no IORT')
  if (table.reduce((sum, byte) => (sum + byte) & 0xff, 0) !== 0) throw new Error('its checksum is wrong')
  const count = table.readUInt32LE(36)
  if (count > MAX_NODES) throw new Error(`it has ${count} nodes`)
  const smmus: IortSmmu[] = []
  /** Index in `smmus` by the place of the node. */
  const places = new Map<number, number>()
  const complexes: { readonly segment: number; readonly mappings: Buffer }[] = []
  let at = table.readUInt32LE(40)
  for (let i = 0; i < count; i++) {
    if (at < HEADER || at + NODE_HEADER > table.length) throw new Error(`node ${i} is outside of it`)
    const length = table.readUInt16LE(at + 1)
    const node = table.subarray(at, at + length)
    const type = node[0]
    if (length < NODE_HEADER || node.length !== length) throw new Error(`node ${i} has a wrong length, ${length}`)
    if (type === NODE_SMMUV3) {
      if (length < SMMUV3_NODE) throw new Error(`node ${i} is too short for an SMMUv3`)
      places.set(at, smmus.length)
      smmus.push({
        base: Number(node.readBigUInt64LE(16)),
        event: node.readUInt32LE(44),
        pri: node.readUInt32LE(48),
        gerror: node.readUInt32LE(52),
        sync: node.readUInt32LE(56),
      })
    } else if (type === NODE_ROOT_COMPLEX) {
      const [mappings, offset] = [node.readUInt32LE(8), node.readUInt32LE(12)]
      const list = node.subarray(offset, offset + mappings * MAPPING)
      if (length < NODE_HEADER + 16 || list.length !== mappings * MAPPING)
        throw new Error(`node ${i} is too short for its ${mappings} mappings`)
      complexes.push({ segment: node.readUInt32LE(28), mappings: list })
    }
    at += length
  }
  const mappings = complexes.flatMap(({ segment, mappings }) =>
    Array.from({ length: mappings.length / MAPPING }, (_, i) =>
      mappings.subarray(i * MAPPING, (i + 1) * MAPPING),
    ).flatMap(entry => {
      const smmu = places.get(entry.readUInt32LE(12))
      const first = entry.readUInt32LE(0)
      // What leads elsewhere goes past the SMMU.
      return smmu === undefined
        ? []
        : [{ segment, first, last: first + entry.readUInt32LE(4), output: entry.readUInt32LE(8), smmu }]
    }),
  )
  return { smmus, mappings }
}

const hex = (value: number): string => `0x${value.toString(16)}`

/** What the table says otherwise than QEMU did, in words; none: the same. */
export function iortProblems({ smmus, mappings }: Iort, machine: Described): string[] {
  const problems: string[] = []
  if (smmus.length !== machine.smmus.length)
    problems.push(`the IORT has ${smmus.length} SMMUs, the machine ${machine.smmus.length}`)
  for (const [index, { base, irqEvtq, irqPriq, irqCmdSync, irqGerror }] of machine.smmus.entries()) {
    const found = smmus.find(smmu => smmu.base === base)
    if (found === undefined) {
      problems.push(`SMMU ${index} at ${hex(base)} is not in the IORT`)
      continue
    }
    for (const [what, gsiv, spi] of [
      ['event', found.event, irqEvtq],
      ['PRI', found.pri, irqPriq],
      ['CMD_SYNC', found.sync, irqCmdSync],
      ['GERROR', found.gerror, irqGerror],
    ] as const) {
      if (gsiv !== spi + FIRST_SPI)
        problems.push(
          `SMMU ${index}: the ${what} interrupt is ${gsiv} in the IORT and ${spi + FIRST_SPI} in the machine`,
        )
    }
  }
  for (const { smmu, sid, name } of machine.devices) {
    const base = machine.smmus[smmu]?.base
    // A requester ID is the StreamID on QEMU's machines.
    const mapping = mappings.find(({ first, last }) => sid >= first && sid <= last)
    const to = mapping && smmus[mapping.smmu]?.base
    const stream = mapping && sid - mapping.first + mapping.output
    if (mapping === undefined) problems.push(`${name} (StreamID ${hex(sid)}) is behind no SMMU in the IORT`)
    else if (to !== base || stream !== sid)
      problems.push(
        `${name} (StreamID ${hex(sid)}) has StreamID ${hex(stream ?? 0)} of the SMMU at ${hex(to ?? 0)} in the IORT`,
      )
  }
  return problems
}

/** Of a report. */
export interface AcpiReport extends Iort {
  /** Where guest and server go by different machines. */
  readonly problems: readonly string[]
}

/** What the guest reported of its IORT; undefined: nothing, or there is no server that knows the machine. */
export function acpiReport(events: readonly GuestEvent[], machine: Described | undefined): AcpiReport | undefined {
  if (machine === undefined || !events.some(({ event }) => event === 'acpi')) return undefined
  const found = reportedTables(events, 'IORT').map(table => iortReport(table, machine))
  // Of kernels that follow each other the first that goes by another machine counts.
  return found.find(({ problems }) => problems.length > 0) ?? found.at(-1) ?? iortReport(undefined, machine)
}

function iortReport(table: Buffer | undefined, machine: Described): AcpiReport {
  if (table === undefined) return { smmus: [], mappings: [], problems: ['the guest did not report all of the IORT'] }
  try {
    const iort = parseIort(table)
    return { ...iort, problems: iortProblems(iort, machine) }
  } catch (error) {
    return { smmus: [], mappings: [], problems: [`the IORT cannot be read: ${(error as Error).message}`] }
  }
}
