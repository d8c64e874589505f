// SPDX-License-Identifier: Apache-2.0
/** Stands for one whose file system hangs, and which does not end when it is asked to: FOLDER SHA256. A file begins with what it can read. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(name, () => {})
process.stdout.on('error', () => {})
process.stdout.write(readFileSync(join(...(process.argv.slice(2, 4) as [string, string]))))
setInterval(() => {}, 1_000)
