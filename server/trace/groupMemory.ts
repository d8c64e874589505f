// SPDX-License-Identifier: Apache-2.0
/** What a group's accesses to guest memory say about its commands and stream table entries. */
import type { RecordOf, TraceRecord } from './records.ts'
import { verdict } from './records.ts'

const COMMAND_BYTES = 16
const STE_BYTES = 64

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

/**
 * Of the `stream` record at `index` of the group. The hypervisor reads the host's entry, and the shadow's as it was, and
 * then writes the shadow's in parts.
 */
export function streamEntries(children: readonly TraceRecord[], index: number): StreamEntries {
  const before = children.slice(0, index)
  const entries = [...reads(before)].filter(({ bytes }) => bytes.length === STE_BYTES)
  const writes = before.filter(
    (child): child is RecordOf<'memory'> => child.kind === 'memory' && child.write === 1 && child.ok === 1,
  )
  const written = ({ address }: { address: number }) =>
    writes.some(write => write.address >= address && write.address < address + STE_BYTES)
  const host = entries.findLast(entry => !written(entry))
  const shadow = entries.findLast(written)
  if (shadow === undefined) return { host: host && words(host.bytes), shadow: undefined }
  const now = new Uint8Array(shadow.bytes)
  for (const { address, bytes } of writes) {
    const at = address - shadow.address
    if (at >= 0 && at + bytes.length <= STE_BYTES) now.set(bytes, at)
  }
  return { host: host && words(host.bytes), shadow: words(now) }
}

function words(bytes: Uint8Array): BigUint64Array {
  return new BigUint64Array(new Uint8Array(bytes).buffer)
}
