// SPDX-License-Identifier: Apache-2.0
/** What the code that reads recordings uses of node:zlib, for a browser. */

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  let crc = value
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb8_8320 : 0)
  return crc >>> 0
})

/** @param before checksum of what comes before */
export function crc32(bytes: Uint8Array, before = 0): number {
  let crc = ~before >>> 0
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ (TABLE[(crc ^ (bytes[i] ?? 0)) & 0xff] ?? 0)
  return ~crc >>> 0
}

/** What is compressed is unpacked before it is read. */
export function gunzipSync(): never {
  throw new Error('compressed data is unpacked before')
}

export const constants = { Z_SYNC_FLUSH: 2 }
