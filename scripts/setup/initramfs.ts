// SPDX-License-Identifier: Apache-2.0
import { readFile, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { PrivateApt } from './apt.ts'
import { cachePath, contentKey, entries, exists, intact, logPath, publish } from './cache.ts'
import { type CpioEntry, writeCpio } from './cpio.ts'
import { type GuestProgram, makeProgram, programPath } from './guestPrograms.ts'
import { cachedKexec, fetchKexec, KEXEC_FILES } from './kexecTools.ts'
import { type Context, exclusively } from './lock.ts'
import { guestModules } from './modules.ts'
import type { SetupOptions } from './options.ts'
import { installHostPackages } from './packages.ts'
import { readRegular } from './regularFile.ts'
import { run, SetupError } from './run.ts'

const GUEST_DIR = fileURLToPath(new URL('../guest', import.meta.url))

/** The guest's programs: file in scripts/guest → path in the guest. */
const GUEST_FILES = {
  init: 'init',
  'events.sh': 'lib/cosim/events.sh',
  'workload.sh': 'lib/cosim/workload.sh',
  'udhcpc.sh': 'lib/cosim/udhcpc.sh',
}

export interface InitramfsOptions extends SetupOptions {
  /** The kernel's modules folder, with modules.dep in it; left out for a kernel that has all drivers built in. */
  modules?: string | undefined
  /** Modules to load besides the usual ones, by name; those that the kernel lacks are left out. */
  extraModules?: readonly string[]
  /** Programs to come along. */
  programs?: readonly GuestProgram[]
  /** With what starts a successor of the guest's kernel. */
  kexec?: boolean
}

interface Ingredients {
  busybox: string
  modulesDir: string
  modules: string[]
  /** The guest's own programs, and where they are. */
  programs: readonly { name: GuestProgram; path: string }[]
  /** The folder with kexec; undefined: it does not come along. */
  kexec: string | undefined
}

/** Returns the path of the guest's initramfs; makes it if it is not in the cache. */
export async function ensureInitramfs(options: InitramfsOptions = {}): Promise<string> {
  const { programs: names = [], extraModules = [] } = options
  const modulesDir = options.modules ?? ''
  const modules = options.modules === undefined ? [] : await guestModules(options.modules, extraModules)
  const cached = async () => {
    const busybox = await cachedBusybox()
    if (busybox === undefined) return undefined
    const programs = await Promise.all(names.map(async name => ({ name, path: await programPath(name) })))
    for (const program of programs) if (!(await intact(program.path))) return undefined
    const kexec = options.kexec ? await cachedKexec() : undefined
    if (options.kexec && kexec === undefined) return undefined
    const path = await initramfsPath({ busybox, modulesDir, modules, programs, kexec })
    return (await intact(path)) ? path : undefined
  }
  const ready = await cached()
  if (ready !== undefined) return ready

  return exclusively(options, async context => {
    await installHostPackages(context)
    const make = async () => {
      const busybox = (await cachedBusybox()) ?? (await fetchBusybox(context))
      const programs: { name: GuestProgram; path: string }[] = []
      for (const name of names) programs.push({ name, path: await makeProgram(name, context) })
      const kexec = options.kexec ? await fetchKexec(context) : undefined
      return makeInitramfs({ busybox, modulesDir, modules, programs, kexec }, context)
    }
    return (await cached()) ?? context.progress.step('initramfs', 'initramfs', make)
  })
}

async function makeInitramfs(ingredients: Ingredients, context: Context): Promise<string> {
  const { busybox, modulesDir, modules, kexec } = ingredients
  const files: CpioEntry[] = [
    { path: 'bin/busybox', type: 'file', mode: 0o755, content: await readFile(busybox) },
    { path: 'bin/sh', type: 'symlink', target: 'busybox' },
    { path: 'dev/console', type: 'character-device', mode: 0o600, major: 5, minor: 1 },
    ...['proc', 'sys', 'tmp'].map(path => ({ path, type: 'directory' }) as const),
  ]
  for (const [source, path] of Object.entries(GUEST_FILES)) {
    files.push({ path, type: 'file', mode: 0o755, content: await readFile(join(GUEST_DIR, source)) })
  }
  for (const { name, path } of ingredients.programs) {
    files.push({ path: `bin/${name}`, type: 'file', mode: 0o755, content: await readFile(path) })
  }
  if (kexec !== undefined) {
    for (const path of KEXEC_FILES)
      files.push({ path, type: 'file', mode: 0o755, content: await readFile(join(kexec, path)) })
  }
  const order: string[] = []
  for (const module of modules) {
    const name = basename(module).replace(/\.(xz|gz|zst)$/, '')
    const content = await moduleContent(join(modulesDir, module), context)
    files.push({ path: `lib/modules/${name}`, type: 'file', mode: 0o644, content })
    order.push(`${name}\n`)
  }
  files.push({ path: 'lib/modules/order', type: 'file', mode: 0o644, content: Buffer.from(order.join('')) })

  const path = await initramfsPath(ingredients)
  const made = join(context.scratch, 'initramfs')
  await writeFile(made, writeCpio(files))
  await publish(made, path)
  return path
}

/** A module is a few MiB at most. */
const MAX_MODULE = 256 << 20

/** A module unpacked: CONFIG_MODULE_COMPRESS_GZIP, _XZ and _ZSTD name it so. @throws SetupError when it cannot be */
export async function moduleContent(
  path: string,
  { scratch, signal }: Pick<Context, 'scratch' | 'signal'>,
): Promise<Uint8Array> {
  const how = /\.ko(\.\w+)?$/.exec(path)?.[1] ?? ''
  if (path.endsWith('.ko')) return readRegular(path, MAX_MODULE)
  if (how === '.gz' || how === '.zst') {
    const unpack = how === '.gz' ? gunzipSync : zstdDecompressSync
    try {
      return unpack(readRegular(path, MAX_MODULE), { maxOutputLength: MAX_MODULE })
    } catch (error) {
      throw new SetupError(`${path}: cannot be unpacked: ${(error as Error).message}`)
    }
  }
  if (how !== '.xz') throw new SetupError(`${path}: modules are .ko, .ko.gz, .ko.xz or .ko.zst`)
  const plain = join(scratch, 'module.ko')
  const packed = join(scratch, 'module.ko.xz')
  await writeFile(packed, readRegular(path, MAX_MODULE))
  // The limit is in units of 512 bytes.
  const command = 'ulimit -f "$3" && xz -dc "$1" > "$2"'
  await run('sh', ['-c', command, 'sh', packed, plain, String(MAX_MODULE / 512)], {
    step: 'unpacking kernel modules',
    log: logPath('initramfs'),
    signal,
  })
  return readFile(plain)
}

/** Where the initramfs for these ingredients is or will be: the key has in it whatever could change a byte of it. */
async function initramfsPath({ busybox, modulesDir, modules, programs, kexec = '' }: Ingredients): Promise<string> {
  const ours = ['cpio.ts', 'initramfs.ts', 'kexecTools.ts', 'modules.ts'].map(name =>
    fileURLToPath(new URL(name, import.meta.url)),
  )
  const guest = Object.keys(GUEST_FILES).map(name => join(GUEST_DIR, name))
  const contents = await Promise.all([...ours, ...guest].map(path => readFile(path)))
  const moduleStates = await Promise.all(
    modules.map(async module => {
      const { size, mtimeMs } = await stat(join(modulesDir, module))
      return `${join(modulesDir, module)} ${size} ${mtimeMs}`
    }),
  )
  const parts = [busybox, kexec, ...programs.map(({ path }) => path), ...contents, ...moduleStates]
  return cachePath('initramfs', `${contentKey(parts)}.cpio`)
}

async function cachedBusybox(): Promise<string | undefined> {
  const version = (await entries(cachePath('busybox'))).at(-1)
  if (version === undefined || !(await intact(cachePath('busybox', version), 'busybox'))) return undefined
  return cachePath('busybox', version, 'busybox')
}

async function fetchBusybox({ scratch, signal }: Context): Promise<string> {
  const apt = await PrivateApt.open('trixie', signal)
  const deb = await apt.download('busybox-static', join(scratch, 'deb'))
  const unpacked = join(scratch, 'unpacked')
  await run('dpkg-deb', ['-x', deb, unpacked], { step: 'unpacking busybox', log: logPath('initramfs'), signal })
  const [, version = 'unknown'] = basename(deb).split('_')
  const binary = (await exists(join(unpacked, 'usr/bin/busybox'))) ? 'usr/bin' : 'bin'
  await publish(join(unpacked, binary), cachePath('busybox', version))
  return cachePath('busybox', version, 'busybox')
}
