// SPDX-License-Identifier: Apache-2.0
/** Debian's kexec for the guest, which brings the purgatory that starts the next kernel, and the libraries that it is linked to. */
import { copyFile, mkdir, readdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { PrivateApt } from './apt.ts'
import { cachePath, entries, intact, logPath, publish } from './cache.ts'
import type { Context } from './lock.ts'
import { run, SetupError } from './run.ts'

const FOLDER = 'kexec-tools'

/** Packages, and the files that are wanted of each: their paths in the guest. It is linked to Xen's libraries, Xen or not. */
const FILES = {
  'kexec-tools': ['bin/kexec'],
  libc6: ['lib/ld-linux-aarch64.so.1', 'lib/libc.so.6'],
  zlib1g: ['lib/libz.so.1'],
  'libxenmisc4.20': ['lib/libxenctrl.so.4.20'],
  ...Object.fromEntries(
    ['call', 'devicemodel', 'evtchn', 'foreignmemory', 'gnttab', 'toolcore', 'toollog'].map(name => [
      `libxen${name}1`,
      [`lib/libxen${name}.so.1`],
    ]),
  ),
} as const satisfies Record<string, readonly string[]>

/** Their paths in the guest, and in the folder of `cachedKexec`. */
export const KEXEC_FILES: readonly string[] = Object.values(FILES).flat()

/** The folder with these files; undefined: it is not in the cache. */
export async function cachedKexec(): Promise<string | undefined> {
  const version = (await entries(cachePath(FOLDER))).at(-1)
  if (version === undefined || !(await intact(cachePath(FOLDER, version), ...KEXEC_FILES))) return undefined
  return cachePath(FOLDER, version)
}

/** The same; fetches it if it is not in the cache. */
export async function fetchKexec({ scratch, signal }: Context): Promise<string> {
  const cached = await cachedKexec()
  if (cached !== undefined) return cached
  const apt = await PrivateApt.open('trixie', signal)
  const made = join(scratch, FOLDER)
  let version = 'unknown'
  for (const [name, files] of Object.entries(FILES)) {
    const deb = await apt.download(name, join(scratch, 'deb', name))
    if (name === FOLDER) version = basename(deb).split('_')[1] ?? version
    const unpacked = join(scratch, 'unpacked', name)
    await mkdir(dirname(unpacked), { recursive: true })
    await run('dpkg-deb', ['-x', deb, unpacked], { step: 'unpacking kexec', log: logPath('initramfs'), signal })
    for (const file of files) await take(unpacked, file, made, name)
  }
  await publish(made, cachePath(FOLDER, version))
  return cachePath(FOLDER, version)
}

/** Copies a file from wherever a package has it: releases of Debian differ. A library's name is that of a link. */
async function take(unpacked: string, file: string, made: string, name: string): Promise<void> {
  const all = await readdir(unpacked, { recursive: true, withFileTypes: true })
  const named = all.filter(entry => entry.name === basename(file))
  const found = named.find(entry => entry.isFile()) ?? named.find(entry => entry.isSymbolicLink())
  if (found === undefined) throw new SetupError(`package ${name} has no ${basename(file)}`)
  await mkdir(dirname(join(made, file)), { recursive: true })
  await copyFile(join(found.parentPath, found.name), join(made, file))
}
