// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
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

/** The beginning of a recording, as one file. */
export interface Beginning {
  readonly bytes: Buffer
  /** Number of its last trap. */
  readonly last: number
  /** It is the whole recording. */
  readonly whole: boolean
}

/** As much of a recording as fits into about `most` bytes; what is damaged in it, or lost, is left out and said by `reader.problems`. @throws what `signal` says */
export async function beginning(reader: TraceReader, most: number, signal?: AbortSignal): Promise<Beginning> {
  const { machine, warnings, segment: _, ...header } = reader.header
  const folder = mkdtempSync(join(tmpdir(), 'cosim-cut-'))
  const path = join(folder, 'trace')
  try {
    const recorder = await Recorder.open({ path, header, format: reader.format, limit: Number.POSITIVE_INFINITY })
    recorder.describe(machine, () => warnings)
    let last = 0
    let whole = true
    for (const block of reader.blocks()) {
      if (signal?.aborted) break
      if (recorder.segments().reduce((sum, { bytes }) => sum + bytes, 0) > most) {
        whole = false
        break
      }
      for (const record of block) {
        recorder.record(record)
        if (record.kind === 'trap') last = record.seq
      }
      await recorder.drained()
    }
    const { error } = await recorder.close()
    signal?.throwIfAborted()
    if (error !== undefined) throw new Error(`${path}: ${error}`)
    return { bytes: readFileSync(path), last, whole }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
