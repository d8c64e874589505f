// SPDX-License-Identifier: Apache-2.0
/** An arm64 kernel image as a file has it: plain, gzip'ed (Image.gz), or in an EFI zboot image. */
import { gunzipSync } from 'node:zlib'

/** An image is unpacked in memory: larger ones are refused. QEMU's limit is the same. */
export const MAX_IMAGE = 256 << 20

/** At byte 56 of every arm64 kernel image. */
export const IMAGE_MAGIC = 'ARM\x64'

/** @throws Error naming the file when it is no gzip, or larger than an image may be */
function unpacked(path: string, bytes: Buffer): Buffer {
  try {
    return gunzipSync(bytes, { maxOutputLength: MAX_IMAGE })
  } catch (error) {
    throw new Error(`${path}: cannot be unpacked: ${(error as Error).message}`)
  }
}

/** The Image in an EFI zboot image, which carries it compressed (drivers/firmware/efi/libstub); undefined: not by gzip. */
function zboot(path: string, bytes: Buffer): Buffer | undefined {
  const [offset, size] = [bytes.readUInt32LE(8), bytes.readUInt32LE(12)]
  if (!/^gzip\0/.test(bytes.toString('latin1', 24, 56))) return undefined
  return unpacked(path, bytes.subarray(offset, offset + size))
}

export const isImage = (bytes: Buffer): boolean => bytes.toString('latin1', 56, 60) === IMAGE_MAGIC

/**
 * What is in a file, unpacked where it is packed: not necessarily an image.
 * @returns undefined for a zboot image that is not packed by gzip
 * @throws Error naming the file when it cannot be unpacked
 */
export function plainImage(path: string, file: Buffer): Buffer | undefined {
  const bytes = file.length > 2 && file.readUInt16BE(0) === 0x1f8b ? unpacked(path, file) : file
  const packed = bytes.length >= 64 && bytes.toString('latin1', 4, 8) === 'zimg'
  return packed ? zboot(path, bytes) : bytes
}
