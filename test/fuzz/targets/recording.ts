// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import pkvm from '../../../server/hypervisor/pkvm/policy.ts'
import { HYP_WARNINGS } from '../../../server/hypervisor/pkvm/warnings.ts'
import { describeRecord } from '../../../server/trace/describe.ts'
import { perfetto } from '../../../server/trace/export/perfetto.ts'
import { csv, json } from '../../../server/trace/export/text.ts'
import { vcd } from '../../../server/trace/export/vcd.ts'
import {
  blockType,
  emptyBlock,
  encodeBlockHeader,
  encodeEnd,
  encodeIndexEntry,
  FORMAT,
  type TraceHeader,
} from '../../../server/trace/format.ts'
import { groups } from '../../../server/trace/groups.ts'
import { Packer } from '../../../server/trace/msgpack.ts'
import { TraceError, TraceReader } from '../../../server/trace/reader.ts'
import { type FieldType, type KindName, kinds, type TraceRecord } from '../../../server/trace/records.ts'
import { Replay } from '../../../server/trace/replay.ts'
import { stats } from '../../../server/trace/stats.ts'
import { warningsOf } from '../../../server/trace/warnings.ts'
import type { Choices } from '../choices.ts'
import { computed, Finding, isBug, type Target } from '../target.ts'
import { CARVEOUT, RAM, SMMU } from './machine.ts'

/** A recording of a few KiB is shown in every form within this, ms of the processor. */
const LIMIT_MS = 5_000
/** Characters that all forms of such a recording have at most. */
const MAX_TEXT = 1 << 26

const KINDS = Object.keys(kinds) as KindName[]

const HEADER: TraceHeader = {
  recording: 'fuzz',
  segment: 0,
  created: '2026-01-02T03:04:05.000Z',
  epoch: 1_767_323_045_000,
  versions: {},
  policy: 'pkvm',
  policyOptions: {},
  kernel: '6.12',
  image: '',
  warnings: HYP_WARNINGS,
  machine: { qemu: '10', features: 15, vcpus: 1, carveout: CARVEOUT, ram: [RAM], smmus: [SMMU], devices: [] },
}

const folder = mkdtempSync(join(tmpdir(), 'smmu-cosim-fuzz-'))
const clean = () => rmSync(folder, { recursive: true, force: true })
// Of a thread; where it runs on none, `close` is all there is.
process.once('exit', clean)

/** A recording is data from anywhere: whatever is in it, it is read, shown and replayed, or what is wrong is said. */
const recording: Target = {
  name: 'recording',
  summary: 'trace files: reader, every form of output, replay',
  close: async () => clean(),
  run(choices) {
    const path = join(folder, 'trace')
    const bytes = file(choices)
    writeFileSync(path, bytes)
    const start = computed()
    const outcome = shown(path)
    const ms = computed() - start
    if (ms > LIMIT_MS) throw new Finding(`${bytes.length} bytes took ${Math.round(ms / 1000)} s`)
    return outcome
  },
}

function shown(path: string): string {
  let reader: TraceReader
  try {
    reader = TraceReader.open(path)
  } catch (error) {
    if (error instanceof TraceError) return error.message.replace(path, '').replaceAll(/\d+/g, '0')
    throw error
  }
  const records = [...reader.records()]
  const table = warningsOf(reader.header)
  stats(records, reader.header)
  for (const record of records) describeRecord(record, table)
  exhaust(json(reader, records))
  exhaust(csv(records, table))
  exhaust(vcd(reader.header, () => records))
  exhaust(perfetto(reader.header, records))
  const problems = reader.problems.map(({ message }) => message.replaceAll(/\d+/g, '0')).join(', ')
  return `${[...new Set(records.map(({ kind }) => kind))].join(' ')} | ${problems.slice(0, 200)} | ${replayed(reader, records)}`
}

function replayed(reader: TraceReader, records: readonly TraceRecord[]): string {
  const { machine } = reader.header
  const replay = new Replay(
    machine,
    pkvm,
    {},
    { warnings: warningsOf(reader.header), rewritten: reader.tellsRewritten },
  )
  try {
    let divergences = 0
    for (const { divergence } of replay.run(groups(records))) if (divergence !== undefined) divergences++
    return `replayed${divergences > 0 ? ', differs' : ''}`
  } catch (error) {
    if (isBug(error)) throw error
    return (error as Error).message.replaceAll(/\d+/g, '0').slice(0, 60)
  }
}

function exhaust(pieces: Iterable<string>): void {
  let length = 0
  for (const piece of pieces) {
    length += piece.length
    if (length > MAX_TEXT) throw new Finding(`more than ${MAX_TEXT} characters`)
  }
}

/** A file, whole but for its records, or damaged in any of its layers. */
function file(choices: Choices): Buffer {
  const blocks: Buffer[] = []
  const index: Buffer[] = []
  let position = 0
  const add = (type: number, payload: Buffer, records: number) => {
    const info = emptyBlock(type, blocks.length, choices.once(16) ? choices.byte() : FORMAT)
    info.records = choices.once(16) ? choices.u32() : records
    info.kinds = choices.once(8) ? choices.u32() : 0xffff_ffff
    if (choices.once(8))
      Object.assign(info, { firstStart: choices.u32(), lastStart: choices.u32(), firstSeq: choices.u32() })
    const header = encodeBlockHeader(info, payload)
    if (type === blockType.records) index.push(encodeIndexEntry(choices.once(16) ? choices.u32() : position, header))
    const block = Buffer.concat([header, payload])
    blocks.push(block)
    position += block.length
  }
  add(blockType.header, header(choices), 0)
  for (let count = 1 + choices.below(3); count > 0; count--) {
    const packer = new Packer()
    const records = choices.below(12)
    for (let i = 0; i < records; i++) packer.record(record(choices, i === 0))
    const payload = Buffer.from(packer.buffer.subarray(0, packer.length))
    add(blockType.records, choices.once(4) ? choices.mutate(payload) : payload, records)
  }
  if (choices.once(2)) {
    const at = position
    add(blockType.index, Buffer.concat(index), 0)
    blocks.push(encodeEnd(choices.once(8) ? choices.u32() : at))
  }
  const whole = Buffer.concat(blocks)
  const bytes = choices.once(3) ? choices.mutate(whole) : whole
  return choices.once(6) ? gzipSync(bytes) : bytes
}

function header(choices: Choices): Buffer {
  const text = JSON.stringify(HEADER)
  if (!choices.once(3)) return Buffer.from(text)
  if (choices.once(2)) return choices.mutate(Buffer.from(text))
  const values = [null, -1, 1e308, '', 'x'.repeat(1000), [], {}, true, 2 ** 53, [[]]]
  const keys = [...text.matchAll(/"(\w+)":/g)].map(([, key]) => key)
  const changed = choices.pick(keys)
  return Buffer.from(JSON.stringify(HEADER, (key, value) => (key === changed ? choices.pick(values) : value)))
}

function record(choices: Choices, first: boolean): TraceRecord {
  const kind = first && choices.once(2) ? 'reset' : choices.pick(KINDS)
  const value: Record<FieldType, () => number | string | Uint8Array> = {
    u32: () => choices.u32(),
    flag: () => choices.below(2),
    f64: () => choices.pick([0, 1, -1, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY, 1e300, choices.u32()]),
    bytes: () => choices.bytes(64),
    text: () => choices.pick(['', 'a', '\x1b[2J', '\u{10ffff}', 'x'.repeat(1000), choices.bytes(8).toString('latin1')]),
  }
  const fields = Object.entries(kinds[kind].fields).map(([name, type]) => [name, value[type as FieldType]()])
  return { kind, ...Object.fromEntries(fields) } as TraceRecord
}

export default recording
