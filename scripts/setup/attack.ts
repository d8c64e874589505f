// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cachePath, contentKey, intact, logPath, publish } from './cache.ts'
import type { Context } from './lock.ts'
import { installCrossCompiler } from './packages.ts'
import { run } from './run.ts'

const FOLDER = fileURLToPath(new URL('../guest/el2', import.meta.url))
const SOURCES = ['attack.c', 'pvm.c', 'edu.c', 'payload.S']
const HEADERS = ['pvm.h', 'edu.h']
const COMPILER = 'aarch64-linux-gnu-gcc'
const FLAGS = ['-O2', '-static', '-pthread', '-Wall', '-Wextra', '-Werror', '-s']

/** Where the guest's attack program is or will be, by the content of its sources. */
export async function attackPath(): Promise<string> {
  const contents = await Promise.all([...SOURCES, ...HEADERS].map(name => readFile(join(FOLDER, name))))
  return cachePath('attack', contentKey([...FLAGS, ...contents]))
}

/** Compiles the program that runs a protected VM and attacks it (scripts/guest/el2), unless it is in the cache. */
export async function makeAttack(context: Context): Promise<string> {
  const path = await attackPath()
  if (await intact(path)) return path
  await installCrossCompiler(context)
  const made = join(context.scratch, 'attack')
  await run(COMPILER, [...FLAGS, '-o', made, ...SOURCES.map(name => join(FOLDER, name))], {
    step: "compiling the guest's attack program",
    log: logPath('attack'),
    signal: context.signal,
  })
  await publish(made, path)
  return path
}
