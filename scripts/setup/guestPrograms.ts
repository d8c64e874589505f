// SPDX-License-Identifier: Apache-2.0
/** The guest's own programs, in C: compiled for it, statically, and kept by the content of their sources. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cachePath, contentKey, intact, logPath, publish } from './cache.ts'
import type { Context } from './lock.ts'
import { installCrossCompiler } from './packages.ts'
import { run } from './run.ts'

const FOLDER = fileURLToPath(new URL('../guest', import.meta.url))
const COMPILER = 'aarch64-linux-gnu-gcc'
const FLAGS = ['-O2', '-static', '-pthread', '-Wall', '-Wextra', '-Werror', '-s']

/** Sources, and what these include; in the guest they are `/bin/NAME`. */
const PROGRAMS = {
  /** Runs a protected VM and attacks it. */
  attack: {
    sources: ['el2/attack.c', 'el2/pvm.c', 'el2/edu.c', 'el2/payload.S'],
    headers: ['el2/pvm.h', 'el2/edu.h'],
  },
  /** Carries out what the host asks for. */
  agent: { sources: ['agent/agent.c', 'el2/edu.c'], headers: ['el2/edu.h'] },
} as const satisfies Record<string, { readonly sources: readonly string[]; readonly headers: readonly string[] }>

export type GuestProgram = keyof typeof PROGRAMS

/** Where a program is or will be. */
export async function programPath(name: GuestProgram): Promise<string> {
  const { sources, headers } = PROGRAMS[name]
  const contents = await Promise.all([...sources, ...headers].map(path => readFile(join(FOLDER, path))))
  return cachePath(name, contentKey([...FLAGS, ...contents]))
}

/** Compiles a program, unless it is in the cache. @returns its path */
export async function makeProgram(name: GuestProgram, context: Context): Promise<string> {
  const path = await programPath(name)
  if (await intact(path)) return path
  await installCrossCompiler(context)
  const made = join(context.scratch, name)
  const sources = PROGRAMS[name].sources.map(source => join(FOLDER, source))
  await run(COMPILER, [...FLAGS, '-o', made, ...sources], {
    step: `compiling the guest's program "${name}"`,
    log: logPath(name),
    signal: context.signal,
  })
  await publish(made, path)
  return path
}
