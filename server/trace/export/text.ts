// SPDX-License-Identifier: Apache-2.0
import type { WarningTable } from '../../policy/warnings.ts'
import { hex, hex64 } from '../../smmu/bits.ts'
import { registerName } from '../../smmu/registers.ts'
import { describeRecord } from '../describe.ts'
import type { TraceReader } from '../reader.ts'
import type { TraceRecord } from '../records.ts'
import { pcOf, type Symbols } from '../symbols.ts'
import { warningsOf } from '../warnings.ts'

function functionOf(record: TraceRecord, symbols: Symbols | undefined): string | undefined {
  return symbols && 'pcLo' in record ? symbols.describe(pcOf(record)) : undefined
}

/** An access to a register: its name, and the value as one number. */
function accessOf(record: TraceRecord): { readonly register?: string; readonly value?: string } {
  if (record.kind !== 'trap' && record.kind !== 'hardware') return {}
  return { register: registerName(record.offset), value: hex64(record.lo, record.hi) }
}

/** Where the guest was; 0 stands for what is not known. */
function placeOf(record: TraceRecord): { readonly pc?: string } {
  const pc = 'pcLo' in record ? pcOf(record) : 0n
  return pc === 0n ? {} : { pc: hex(pc) }
}

/**
 * One JSON object a line: the header with the version of the format, then every record as the format has it, with bytes as
 * hexadecimal. Added are `words`, of accesses to registers `register` and `value`, where it is known the guest's `pc`, and with
 * symbols its `function`; these are text, as no number of JSON holds 64 bits.
 */
export function* json(
  { header, format }: Pick<TraceReader, 'header' | 'format'>,
  records: Iterable<TraceRecord>,
  symbols?: Symbols,
): Generator<string> {
  const warnings = warningsOf(header)
  yield `${JSON.stringify({ kind: 'header', format, ...header })}\n`
  for (const record of records) {
    const words =
      record.kind === 'console' || record.kind === 'control' ? undefined : describeRecord(record, warnings).trim()
    const bytes = 'bytes' in record ? { bytes: Buffer.from(record.bytes).toString('hex') } : {}
    const name = functionOf(record, symbols)
    const known = { ...accessOf(record), ...placeOf(record), ...(words && { words }), ...(name && { function: name }) }
    yield `${JSON.stringify({ ...record, ...bytes, ...known })}\n`
  }
}

const COLUMNS = [
  'kind',
  'start_ns',
  'virtual_ns',
  'duration_ns',
  'seq',
  'smmu',
  'cpu',
  'access',
  'place',
  'size',
  'value',
  'outcome',
  'function',
  'words',
] as const
type Row = Partial<Record<(typeof COLUMNS)[number], string | number>>

/** RFC 4180, a line for every record; the first line names the columns. */
export function* csv(records: Iterable<TraceRecord>, warnings: WarningTable, symbols?: Symbols): Generator<string> {
  yield `${COLUMNS.join(',')}\r\n`
  for (const record of records) {
    const row = rowOf(record, warnings, symbols)
    yield `${COLUMNS.map(column => quote(String(row[column] ?? ''))).join(',')}\r\n`
  }
}

function quote(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

function rowOf(record: TraceRecord, warnings: WarningTable, symbols: Symbols | undefined): Row {
  const row: Row = { kind: record.kind, words: describeRecord(record, warnings).trim() }
  if ('start' in record) row.start_ns = record.start
  if ('time' in record) row.virtual_ns = record.time
  if ('duration' in record) row.duration_ns = record.duration
  if ('seq' in record) row.seq = record.seq
  if ('smmu' in record) row.smmu = record.smmu
  if ('cpu' in record) row.cpu = record.cpu
  if ('write' in record) row.access = record.write ? 'W' : 'R'
  const name = functionOf(record, symbols)
  if (name !== undefined) row.function = name
  if (record.kind === 'trap' || record.kind === 'hardware') {
    const { register, value } = accessOf(record)
    if (register !== undefined) row.place = register
    row.size = record.size
    if (value !== undefined) row.value = value
    row.outcome = record.kind === 'trap' ? (record.aborted ? 'aborted' : 'ok') : record.ok ? 'ok' : 'refused'
  } else if (record.kind === 'memory') {
    row.place = hex(record.address)
    row.size = record.length
    row.value = Buffer.from(record.bytes).toString('hex')
    row.outcome = record.ok ? 'ok' : 'refused'
  }
  return row
}
