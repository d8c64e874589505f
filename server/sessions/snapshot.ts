// SPDX-License-Identifier: Apache-2.0
/**
 * Snapshots: guests that were booted once until they wait for what to do, and saved with the hypervisor's state, cached by the
 * content of everything that went into them. When any of it changes, a new snapshot is made.
 */
import { mkdir, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cachePath, contentKey, digest, entries, intact, publish } from '../../scripts/setup/cache.ts'
import { lock } from '../../scripts/setup/lock.ts'
import type { SavedMachine } from '../control/session.ts'
import { LockedFolder, sweep } from '../machine/lockedFolder.ts'
import type { MachineFiles } from '../run/files.ts'

/** Sources on which the saved state depends: hypervisor state, checkpoint, machine. */
const SOURCES = [
  'server/hypervisor',
  'server/policy',
  'server/smmu',
  'server/trap/checkpoint.ts',
  'server/machine/qemu.ts',
  'protocol',
]
const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const KEPT = 12
/** Folders of snapshots in the making begin so. */
const MAKING = '.making-'
const FORMAT = 1

/** A machine to be saved. */
export interface Savable {
  readonly files: MachineFiles
  /** All that decides what is saved besides the files: JSON. */
  readonly description: unknown
  /** For people. */
  readonly label: string
  /** Boots it until it is ready, and saves it. @param to files in a folder of the snapshot's own: others may be put beside them */
  save(to: SavedMachine, signal: AbortSignal): Promise<void>
  /** What its workload takes without faults, ms; absent: it has none. */
  measure?(from: SavedMachine, signal: AbortSignal): Promise<number>
}

/** A snapshot in the cache. */
export interface Snapshot extends SavedMachine {
  readonly key: string
  /** What the workload takes on it without faults, ms; 0: it has none. */
  readonly usualMs: number
}

interface Meta {
  readonly key: string
  readonly usualMs: number
}

/** What is read or made at the moment. Another process may remove what is there. */
const making = new Map<string, Promise<Snapshot>>()

/** Names a machine by content: QEMU, kernel, initramfs, the machine's description, and our own source. */
export async function snapshotKey({ files, description }: Pick<Savable, 'files' | 'description'>): Promise<string> {
  const contents = await Promise.all([files.qemu, files.kernel.image, files.initrd].map(digest))
  return contentKey([String(FORMAT), ...contents, JSON.stringify(description), await sourceDigest()])
}

/** The snapshot for a machine; made when there is none. @throws Error when the guest does not become ready. */
export async function ensureSnapshot(
  savable: Savable,
  signal: AbortSignal,
  say: (line: string) => void,
): Promise<Snapshot> {
  const key = await snapshotKey(savable)
  const running = making.get(key)
  if (running !== undefined) return running
  const made = readSnapshot(key).then(async cached => {
    if (cached !== undefined) return cached
    // Another process may be making it: then it is there when the lock is ours.
    await mkdir(cachePath('snapshot'), { recursive: true })
    const file = cachePath('snapshot', `.lock-${key.slice(0, 1)}`)
    const unlock = await lock(file, signal, () => say('waiting for another process that makes a snapshot'))
    try {
      const again = await readSnapshot(key)
      if (again !== undefined) return again
      say(`booting ${savable.label} once, for a snapshot`)
      return await makeSnapshot(key, savable, signal)
    } finally {
      unlock()
    }
  })
  making.set(key, made)
  try {
    return await made
  } finally {
    making.delete(key)
  }
}

/** Reads a snapshot from the cache; undefined: there is none, or it is incomplete. */
export async function readSnapshot(key: string, folder = cachePath('snapshot')): Promise<Snapshot | undefined> {
  const at = join(folder, key)
  try {
    const meta = JSON.parse(await readFile(join(at, 'meta.json'), 'utf8')) as Meta
    if (meta.key !== key) return undefined
    if (!(await intact(at, 'meta.json', 'ram', 'devices'))) return undefined
    await utimes(at, new Date(), new Date())
    return { key, usualMs: meta.usualMs, ram: join(at, 'ram'), devices: join(at, 'devices') }
  } catch {
    return undefined
  }
}

async function makeSnapshot(key: string, savable: Savable, signal: AbortSignal): Promise<Snapshot> {
  const folder = cachePath('snapshot')
  await mkdir(folder, { recursive: true })
  // What processes left that were killed while they made one.
  sweep(folder, MAKING)
  const home = LockedFolder.make(folder, MAKING)
  const staging = join(home.path, key)
  await mkdir(staging)
  try {
    const saved = { ram: join(staging, 'ram'), devices: join(staging, 'devices') }
    await savable.save(saved, signal)
    const usualMs = (await savable.measure?.(saved, signal)) ?? 0
    await writeFile(join(staging, 'meta.json'), JSON.stringify({ key, usualMs } satisfies Meta))
    const place = join(folder, key)
    // Another process may have made the same one meanwhile, or left a damaged one.
    if ((await readSnapshot(key)) === undefined) await publish(staging, place)
    await removeOld(folder)
    const snapshot = await readSnapshot(key)
    if (snapshot === undefined) throw new Error(`${place}: the snapshot cannot be read`)
    return snapshot
  } finally {
    home.remove()
  }
}

async function removeOld(folder: string): Promise<void> {
  const names = await entries(folder)
  const dated = await Promise.all(names.map(async name => ({ name, time: (await stat(join(folder, name))).mtimeMs })))
  dated.sort((a, b) => b.time - a.time)
  for (const { name } of dated.slice(KEPT)) await rm(join(folder, name), { recursive: true, force: true })
}

async function sourceDigest(): Promise<string> {
  const parts: string[] = []
  for (const source of SOURCES) {
    const path = join(ROOT, source)
    const files = (await stat(path)).isDirectory()
      ? (await readdir(path, { recursive: true })).filter(name => name.endsWith('.ts')).map(name => join(path, name))
      : [path]
    for (const file of files.sort()) parts.push(relative(ROOT, file), await readFile(file, 'utf8'))
  }
  return contentKey(parts)
}
