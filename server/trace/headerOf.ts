// SPDX-License-Identifier: Apache-2.0
/** The headers of many recordings, for a list: of each file its beginning is read, and nobody waits for it. */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { promisify } from 'node:util'
import { gunzip, constants as zlib } from 'node:zlib'
import type { TraceHeader } from './format.ts'
import { TraceReader } from './reader.ts'

/** Bytes of a file in which its header is looked for, and what they may unpack to. */
const HEADER_BYTES = 1 << 20
const HEADER_UNPACKED = 16 << 20
const GZIP_MAGIC = 0x1f8b
const unzip = promisify(gunzip)

/** The header of a recording, and the bytes of its first file; undefined: it cannot be read, or is none. */
export async function headerOf(
  path: string,
): Promise<{ readonly header: TraceHeader; readonly bytes: number } | undefined> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const stat = await file.stat()
      if (!stat.isFile()) return undefined
      const buffer = Buffer.alloc(Math.min(HEADER_BYTES, stat.size))
      const { bytesRead } = await file.read(buffer, 0, buffer.length, 0)
      const start = buffer.subarray(0, bytesRead)
      const packed = start.length >= 2 && start.readUInt16BE(0) === GZIP_MAGIC
      const options = { finishFlush: zlib.Z_SYNC_FLUSH, maxOutputLength: HEADER_UNPACKED }
      const { header } = TraceReader.of(path, packed ? await unzip(start, options) : start)
      return { header, bytes: stat.size }
    } finally {
      await file.close()
    }
  } catch {
    return undefined
  }
}
