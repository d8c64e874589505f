// SPDX-License-Identifier: Apache-2.0
/** A file of a folder that others write to. */
import { constants, type Stats } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * The bytes of a regular file.
 * @param check of what is open @throws Error saying what is there instead
 */
export async function* fromFolder(
  folder: string,
  sha256: string,
  check: (file: Stats) => void = () => {},
): AsyncGenerator<Uint8Array> {
  // A link would lead elsewhere, a pipe would be waited for.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK
  const file = await open(join(folder, sha256), flags).catch(({ code }: NodeJS.ErrnoException) => {
    const why = code === 'ENOENT' ? 'is not there' : code === 'ELOOP' ? 'is a symbolic link' : `cannot be read: ${code}`
    throw new Error(`${sha256} ${why}`)
  })
  try {
    const found = await file.stat()
    if (!found.isFile()) throw new Error(`${sha256} is not a regular file`)
    check(found)
    yield* file.createReadStream({ highWaterMark: 1 << 20, autoClose: false })
  } finally {
    await file.close()
  }
}
