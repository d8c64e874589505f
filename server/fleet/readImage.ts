// SPDX-License-Identifier: Apache-2.0
/** Writes a file of a folder to its standard output, for a worker that does not want to wait for the file system: FOLDER SHA256. */
import { pipeline } from 'node:stream/promises'
import { fromFolder } from './folderImage.ts'

const [folder = '', sha256 = ''] = process.argv.slice(2)
try {
  await pipeline(fromFolder(folder, sha256), process.stdout)
} catch (error) {
  process.stderr.write((error as Error).message)
  process.exitCode = 1
}
