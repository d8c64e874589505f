// SPDX-License-Identifier: Apache-2.0
/** Puts a file where workers look, for a sender that does not want to wait for the file system: PATH FOLDER. */
import { putImage } from './images.ts'

const [path = '', folder = ''] = process.argv.slice(2)
const over = new AbortController()
for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
  process.on(name, () => over.abort(new Error(`interrupted by ${name}`)))
try {
  await putImage(path, folder, over.signal)
} catch (error) {
  process.stderr.write((error as Error).message)
  process.exitCode = 1
}
