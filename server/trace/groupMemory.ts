// SPDX-License-Identifier: Apache-2.0
/** What a group's accesses to guest memory say about its commands and stream table entries. */
import { STE_INVALID } from '../policy/report.ts'
import { fieldGet64 } from '../smmu/bits.ts'
import { STRTAB_STE_0_CFG, STRTAB_STE_0_V } from '../smmu/ste.ts'
import type { RecordOf, TraceRecord } from './records.ts'
import { verdict } from './records.ts'

const COMMAND_BYTES = 16
const STE_BYTES = 64
/** `STE_INVALID` in a record, whose numbers have no sign. */
export const INVALID = STE_INVALID >>> 0

/** Reads of a group that succeeded, those that were split joined again. */
function* reads(children: readonly TraceRecord[]): Generator<{ address: number; bytes: Uint8Array }> {
  let parts: Uint8Array[] = []
  for (const child of children) {
    if (child.kind !== 'memory' || child.write !== 0 || child.ok === 0) continue
    parts.push(child.bytes)
    if (child.done + child.bytes.length < child.length) continue
    yield { address: child.address, bytes: parts.length === 1 ? child.bytes : Buffer.concat(parts) }
    parts = []
  }
}

/**
 * The words of the commands that the group filtered: four per `command` record that is not the hypervisor's own, in
 * order; undefined where memory doesn't show them. The hypervisor copies commands in order, and each just once, so they
 * are found by their opcodes.
 */
export function commandWords(children: readonly TraceRecord[]): (Uint32Array | undefined)[] {
  const commands = children.filter(child => child.kind === 'command' && child.verdict !== verdict.own)
  const opcodes = commands.map(command => (command as RecordOf<'command'>).opcode)
  const found: (Uint32Array | undefined)[] = []
  for (const { bytes } of reads(children)) {
    const count = bytes.length / COMMAND_BYTES
    const wanted = opcodes.length - found.length
    if (wanted === 0) break
    if (count === 0 || !Number.isInteger(count) || count > wanted) continue
    const entries = Array.from({ length: count }, (_, i) => bytes.subarray(i * COMMAND_BYTES, (i + 1) * COMMAND_BYTES))
    if (entries.some((entry, i) => entry[0] !== opcodes[found.length + i])) continue
    for (const entry of entries) found.push(new Uint32Array(new Uint8Array(entry).buffer))
  }
  return opcodes.map((_, i) => found[i])
}

/** A stream table entry of the host and what the hypervisor made of it, where memory shows them whole. */
export interface StreamEntries {
  readonly host: BigUint64Array | undefined
  readonly shadow: BigUint64Array | undefined
}

/** An entry that was read, with what was written to it later. */
interface Entry {
  readonly written: boolean
  readonly words: BigUint64Array
}

/**
 * Of the `stream` record at `index` of the group. Since the one before, the hypervisor read the host's entry, and its own
 * after it, which it may have written in parts: they are found by what the record says of them.
 */
export function streamEntries(children: readonly TraceRecord[], index: number): StreamEntries {
  const record = children[index]
  const none = { host: undefined, shadow: undefined }
  if (record?.kind !== 'stream') return none
  const former = children.slice(0, index).findLastIndex(({ kind }) => kind === 'stream')
  const between = children.slice(former + 1, index)
  const writes = between.filter(child => child.kind === 'memory' && child.write === 1 && child.ok === 1)
  const entries = [...reads(between)].filter(({ bytes }) => bytes.length === STE_BYTES)
  const now = entries.map(({ address, bytes }): Entry => {
    const entry = new Uint8Array(bytes)
    let written = false
    for (const { address: from, bytes } of writes as RecordOf<'memory'>[]) {
      const at = from - address
      if (at < 0 || at + bytes.length > STE_BYTES) continue
      entry.set(bytes, at)
      written = true
    }
    return { written, words: new BigUint64Array(entry.buffer) }
  })
  const isHost = (entry: Entry) => !entry.written && steConfig(entry.words) === record.hostConfig
  const own = now.findLastIndex(({ words }) => steConfig(words) === record.shadowConfig)
  const host = now.slice(0, Math.max(own, 0)).findLast(isHost)
  // Nothing that could be the host's comes before it: it may be the host's itself.
  if (host === undefined && !now[own]?.written) return { ...none, host: now.findLast(isHost)?.words }
  return { host: host?.words, shadow: now[own]?.words }
}

/** Config as `stream` records have it. */
function steConfig([word0]: BigUint64Array): number {
  return (word0 & STRTAB_STE_0_V) === 0n ? INVALID : fieldGet64(STRTAB_STE_0_CFG, word0)
}
