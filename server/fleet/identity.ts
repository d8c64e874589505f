// SPDX-License-Identifier: Apache-2.0
/** What code a result is by: a verdict of other code is none. Equal content has equal identities, on whatever machine. */
import { readdir } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Static, Type } from 'typebox'
import { contentKey, digest } from '../../scripts/setup/cache.ts'
import { ensureKernel, ensureQemu, qemuBuild } from '../../scripts/setup/index.ts'
import { isSeries, type WantedFiles } from '../run/files.ts'
import { ownKernel } from '../run/ownKernel.ts'
import { publishFiles } from './images.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
/** All that decides what a session does. The dashboard's code and documents are not among it. */
const FOLDERS = ['protocol', 'qemu-patches', 'scripts', 'server']
const FILES = ['package.json', 'package-lock.json']
const NOT = /^server\/web\/|\/\.|\.(md|png|svg)$/

const Sha256 = Type.String({ pattern: '^[0-9a-f]{64}$' })
const Key = Type.String({ pattern: '^[0-9a-f]{20}$' })

export const IdentitySchema = Type.Object(
  {
    /** Of the source tree: protocol, hypervisors, sessions, set-up, QEMU's patches, and the npm packages. */
    source: Key,
    /** Of what QEMU was built from, or of a binary from elsewhere. Absent: none runs. */
    qemu: Type.Optional(Type.Union([Key, Sha256])),
    /** Of the kernel's image. */
    kernel: Type.Optional(Sha256),
    /** Of an initramfs of one's own, or of one that the sender has published. */
    initrd: Type.Optional(Sha256),
  },
  { additionalProperties: false },
)
export type Identity = Static<typeof IdentitySchema>

/** The files of a machine, as a command line names them. */
export interface NamedFiles {
  /** A series of Debian's, an image, or the folder of a build. */
  readonly kernel: string
  readonly modules?: string
  readonly initrd?: string
  readonly qemu?: string
}

/** Identity of the source tree. */
export async function sourceIdentity(root = ROOT): Promise<string> {
  const lists = await Promise.all(
    FOLDERS.map(async folder => {
      const found = await readdir(join(root, folder), { recursive: true, withFileTypes: true })
      return found.filter(entry => entry.isFile()).map(entry => relative(root, join(entry.parentPath, entry.name)))
    }),
  )
  const names = [...lists.flat().filter(name => !NOT.test(name)), ...FILES].sort()
  const sums = await Promise.all(names.map(name => digest(join(root, name))))
  return contentKey(names.flatMap((name, i) => [name, sums[i] ?? '']))
}

/** Identity of a machine's code. Fetches and builds what is missing. @throws Error when it cannot be had */
export async function machineIdentity(
  { kernel, modules, initrd, qemu }: NamedFiles,
  signal: AbortSignal,
): Promise<Identity> {
  return {
    source: await sourceIdentity(),
    qemu: await qemuBuild(await ensureQemu({ ...(qemu !== undefined && { qemu }), signal })),
    kernel: await kernelIdentity(kernel, modules, signal),
    ...(initrd !== undefined && { initrd: await digest(initrd) }),
  }
}

/**
 * The same for the machines of a sender: each is looked at once.
 * @param publish folder that its kernels are put into, for workers; absent: workers have them
 */
export function machineIdentities(
  publish: string | undefined,
): (wanted: WantedFiles, signal: AbortSignal) => Promise<Identity> {
  const known = new Map<string, Promise<Identity>>()
  const find = async (wanted: WantedFiles, signal: AbortSignal) => {
    const { kernel, modules, initrd, qemu } = wanted
    const named = { kernel, ...(modules !== undefined && { modules }), ...(initrd !== undefined && { initrd }) }
    const files = publish === undefined ? named : await publishFiles(wanted, publish, signal)
    return machineIdentity({ ...files, ...(qemu !== undefined && { qemu }) }, signal)
  }
  return (wanted, signal) => {
    const key = JSON.stringify(wanted)
    const found = known.get(key) ?? find(wanted, signal)
    known.set(key, found)
    return found
  }
}

/** Identity of a kernel's image. */
export async function kernelIdentity(
  kernel: string,
  modules: string | undefined,
  signal: AbortSignal,
): Promise<string> {
  const { image } = isSeries(kernel)
    ? await ensureKernel({ kernel, signal })
    : await ownKernel(kernel, modules, { workload: false })
  return digest(image)
}

const NAMES: Readonly<Record<keyof Identity, string>> = {
  source: 'source tree',
  qemu: 'QEMU',
  kernel: 'kernel',
  initrd: 'initramfs',
}

/** What differs, with both hashes; empty: nothing does. */
export const difference = (wanted: Identity, own: Identity): string =>
  (Object.keys(NAMES) as (keyof Identity)[])
    .filter(name => wanted[name] !== own[name])
    .map(name => `${NAMES[name]}: the job is of ${wanted[name] ?? 'none'}, this worker has ${own[name] ?? 'none'}`)
    .join('; ')
