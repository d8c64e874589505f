// SPDX-License-Identifier: Apache-2.0
import { readFileSync, writeFileSync } from 'node:fs'
import { constants, gzipSync } from 'node:zlib'
import type { TraceReader } from './reader.ts'
import { Recorder } from './recorder.ts'

/**
 * Writes the beginning of a recording, up to and with the trap `last`, to a file; compressed when its name ends in `.gz`.
 * @returns bytes of the file.
 */
export async function cut(reader: TraceReader, last: number, path: string): Promise<number> {
  const { machine, warnings, segment: _, ...header } = reader.header
  const recorder = await Recorder.open({ path, header, format: reader.format, limit: Number.POSITIVE_INFINITY })
  recorder.describe(machine, () => warnings)
  for (const block of reader.blocks()) {
    const end = block.findIndex(record => record.kind === 'trap' && record.seq >= last)
    for (const record of end < 0 ? block : block.slice(0, end + 1)) recorder.record(record)
    await recorder.drained()
    if (end >= 0) break
  }
  const { bytes } = await recorder.close()
  if (!path.endsWith('.gz')) return bytes
  const packed = gzipSync(readFileSync(path), { level: constants.Z_BEST_COMPRESSION })
  writeFileSync(path, packed)
  return packed.length
}
