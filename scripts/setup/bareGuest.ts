// SPDX-License-Identifier: Apache-2.0
/** Guests of tests that have no operating system (scripts/guest/bare). */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cachePath, contentKey, intact, logPath, publish } from './cache.ts'
import { exclusively } from './lock.ts'
import type { SetupOptions } from './options.ts'
import { installCrossCompiler } from './packages.ts'
import { run } from './run.ts'

const FOLDER = fileURLToPath(new URL('../guest/bare', import.meta.url))
const COMPILER = 'aarch64-linux-gnu-gcc'
const OBJCOPY = 'aarch64-linux-gnu-objcopy'
const LINKED = ['-nostdlib', '-static', '-Wl,--build-id=none']
/** The MMU is off: no access may be unaligned. Nobody has a memset. */
const COMPILED = [
  ...['-ffreestanding', '-fno-pic', '-no-pie', '-mgeneral-regs-only', '-mstrict-align'],
  ...['-O2', '-fno-tree-loop-distribute-patterns', '-fno-stack-protector', '-Wall', '-Wextra', '-Werror'],
]

/** A guest of several files, of which the last may be a linker script. */
async function ensure(
  name: string,
  files: readonly string[],
  flags: readonly string[],
  options: SetupOptions,
): Promise<string> {
  const paths = files.map(file => join(FOLDER, file))
  const contents = await Promise.all(paths.map(path => readFile(path)))
  const path = cachePath('bare', contentKey([...flags, ...contents]))
  if (await intact(path)) return path
  return exclusively(options, async context => {
    if (await intact(path)) return path
    await installCrossCompiler(context)
    const linked = join(context.scratch, `${name}.elf`)
    const made = join(context.scratch, `${name}.bin`)
    const how = { step: `compiling the bare guest ${name}`, log: logPath('bare'), signal: context.signal }
    await run(
      COMPILER,
      [...flags, '-o', linked, ...paths.flatMap(file => (file.endsWith('.lds') ? ['-T', file] : [file]))],
      how,
    )
    await run(OBJCOPY, ['-O', 'binary', linked, made], how)
    await publish(made, path)
    return path
  })
}

/** The guest that does at EL2 what a test tells it, unless it is in the cache. @returns its path */
export const ensureBareGuest = (options: SetupOptions = {}): Promise<string> =>
  ensure('el2', ['el2.S'], [...LINKED, '-Wl,-Ttext=0'], options)

/**
 * The driver of an SMMU that is not Linux's, unless it is in the cache.
 * @param hypervisor address of memory that no device may reach @returns path of an arm64 Image
 */
export const ensureBareDriver = (hypervisor: number, options: SetupOptions = {}): Promise<string> =>
  ensure(
    'smmu',
    ['start.S', 'smmu.c', 'smmu.lds'],
    [...LINKED, ...COMPILED, `-DHYPERVISOR=0x${hypervisor.toString(16)}`],
    options,
  )
