// SPDX-License-Identifier: Apache-2.0
/** Builds QEMU as set-up does, and puts it into a folder of its own. The build tree is kept in the cache folder. */
import { copyFileSync, mkdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { ensureQemu } from '../scripts/setup/qemu.ts'

const [target = ''] = process.argv.slice(2)
const binary = await ensureQemu()
mkdirSync(target, { recursive: true })
copyFileSync(binary, join(target, basename(binary)))
