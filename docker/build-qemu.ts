// SPDX-License-Identifier: Apache-2.0
/** Builds QEMU as set-up does, and puts it into a folder of its own. The build tree is kept in the cache folder. */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { ensureQemu, qemuBuild } from '../scripts/setup/qemu.ts'

const [target = ''] = process.argv.slice(2)
const binary = await ensureQemu()
mkdirSync(target, { recursive: true })
copyFileSync(binary, join(target, basename(binary)))
// What a worker of a fleet says that it has: the same as a machine that built it by itself.
writeFileSync(join(target, `${basename(binary)}.build`), `${await qemuBuild(binary)}\n`)
