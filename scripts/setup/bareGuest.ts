// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cachePath, contentKey, intact, logPath, publish } from './cache.ts'
import { exclusively } from './lock.ts'
import type { SetupOptions } from './options.ts'
import { installCrossCompiler } from './packages.ts'
import { run } from './run.ts'

const SOURCE = fileURLToPath(new URL('../guest/bare/el2.S', import.meta.url))
const COMPILER = 'aarch64-linux-gnu-gcc'
const OBJCOPY = 'aarch64-linux-gnu-objcopy'
const FLAGS = ['-nostdlib', '-static', '-Wl,-Ttext=0', '-Wl,--build-id=none']

/** Assembles the guest that does at EL2 what a test tells it (scripts/guest/bare), unless it is in the cache. @returns its path */
export async function ensureBareGuest(options: SetupOptions = {}): Promise<string> {
  const path = cachePath('bare', contentKey([...FLAGS, await readFile(SOURCE)]))
  if (await intact(path)) return path
  return exclusively(options, async context => {
    if (await intact(path)) return path
    await installCrossCompiler(context)
    const linked = join(context.scratch, 'el2.elf')
    const made = join(context.scratch, 'el2.bin')
    const how = { step: 'assembling the guest at EL2', log: logPath('bare'), signal: context.signal }
    await run(COMPILER, [...FLAGS, '-o', linked, SOURCE], how)
    await run(OBJCOPY, ['-O', 'binary', linked, made], how)
    await publish(made, path)
    return path
  })
}
