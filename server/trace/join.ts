// SPDX-License-Identifier: Apache-2.0
import { type FileHandle, open } from 'node:fs/promises'
import {
  BLOCK_HEADER,
  type BlockInfo,
  blockType,
  decodeBlockHeader,
  emptyBlock,
  encodeBlockHeader,
  encodeEnd,
  encodeIndexEntry,
} from './format.ts'
import { Packer } from './msgpack.ts'
import type { Segment } from './recorder.ts'
import { kinds } from './records.ts'

/**
 * The segments of a recording as one file that was ended, block by block; the recording may still go on. Where rotation
 * removed segments, a `lost` record says how many records are missing.
 * @throws Error when a segment can't be read.
 */
export async function* join(segments: readonly Segment[]): AsyncGenerator<Buffer> {
  const index: Buffer[] = []
  let position = 0
  const block = (info: BlockInfo, payload: Buffer): Buffer => {
    info.number = index.length
    const header = encodeBlockHeader(info, payload)
    index.push(encodeIndexEntry(position, header))
    position += header.length + payload.length
    return Buffer.concat([header, payload])
  }
  let missing = 0
  for (const segment of segments) {
    const file = segment.removed ? undefined : await openSegment(segment.path)
    if (file === undefined) {
      missing += segment.records
      continue
    }
    try {
      for await (const { info, payload } of blocksOf(file, segment.bytes)) {
        if (info.type === blockType.header && index.length > 0) continue
        if (missing > 0) yield block(...lost(missing))
        missing = 0
        yield block(info, payload)
      }
    } finally {
      await file.close()
    }
  }
  if (missing > 0) yield block(...lost(missing))
  const end = position
  yield block(emptyBlock(blockType.index, 0), Buffer.concat(index))
  yield encodeEnd(end)
}

/** @returns undefined when rotation removed it in the meantime. */
function openSegment(path: string): Promise<FileHandle | undefined> {
  return open(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
}

function lost(count: number): [BlockInfo, Buffer] {
  const packer = new Packer()
  packer.record({ kind: 'lost', count })
  const info = emptyBlock(blockType.records, 0)
  info.records = 1
  info.kinds = 1 << kinds.lost.id
  return [info, Buffer.from(packer.buffer.subarray(0, packer.length))]
}

/** Header and records in the first `bytes` of a file. */
async function* blocksOf(file: FileHandle, bytes: number): AsyncGenerator<{ info: BlockInfo; payload: Buffer }> {
  for (let at = 0; at < bytes; ) {
    const info = decodeBlockHeader(await read(file, at, BLOCK_HEADER))
    if (info === undefined) throw new Error(`the recording is damaged at byte ${at}`)
    if (info.type === blockType.index) return
    yield { info, payload: await read(file, at + BLOCK_HEADER, info.length) }
    at += BLOCK_HEADER + info.length
  }
}

async function read(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position)
  if (bytesRead < length) throw new Error(`the recording ends at byte ${position + bytesRead}`)
  return buffer
}
