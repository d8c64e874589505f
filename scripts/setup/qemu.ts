// SPDX-License-Identifier: Apache-2.0
/** The patched QEMU: of a version that Debian has, or from a source tree of the user's own. */
import { statSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { PrivateApt, type Suite } from './apt.ts'
import { cacheDir, cachePath, digest, entries, intact, logPath, move } from './cache.ts'
import { type Context, exclusively } from './lock.ts'
import { DEFAULT_QEMU, isQemuVersion, QEMU_VERSIONS, type QemuVersion, type SetupOptions } from './options.ts'
import { installHostPackages } from './packages.ts'
import {
  build,
  buildKey,
  buildTree,
  fetchMeson,
  finish,
  finishedBinary,
  PRODUCT,
  QEMU,
  qemuKey,
  readRecipe,
  runs,
  sourceDir,
  sourceFolder,
} from './qemuBuild.ts'
import { buildOwnTree } from './qemuTree.ts'
import { run, SetupError } from './run.ts'

/** The suite of Debian's archive that the source of each version comes from. Trixie keeps its one, sid goes on. */
const SUITES = { '10.0': 'trixie', '10.2': 'sid' } as const satisfies Record<QemuVersion, Suite>

/** The archive has gone on, and keeps this version no longer. */
export class NoSourceError extends SetupError {}

/**
 * Returns the path of the patched QEMU; fetches and builds what is not in the cache. A binary that somebody else has built is
 * taken as it is.
 */
export async function ensureQemu(options: SetupOptions = {}): Promise<string> {
  const wanted = options.qemu ?? process.env.SMMU_COSIM_QEMU ?? DEFAULT_QEMU
  if (isQemuVersion(wanted)) return debianQemu(wanted, options)
  if (statSync(wanted, { throwIfNoEntry: false })?.isDirectory() !== true) return wanted
  return exclusively(options, async context => {
    await installHostPackages(context)
    buildable()
    await fetchMeson(context)
    return buildOwnTree(wanted, context)
  })
}

async function debianQemu(qemu: QemuVersion, options: SetupOptions): Promise<string> {
  const cached = await cachedQemu(qemu)
  if (cached !== undefined) return cached
  return exclusively(options, async context => {
    await installHostPackages(context)
    return (await cachedQemu(qemu)) ?? buildQemu(qemu, context)
  })
}

async function cachedQemu(qemu: QemuVersion): Promise<string | undefined> {
  const version = await cachedSource(qemu)
  if (version === undefined) return undefined
  const binary = finishedBinary(qemuKey(await readRecipe(version)))
  return (await intact(dirname(binary), QEMU)) && (await runs(binary)) ? binary : undefined
}

/** @throws SetupError when QEMU's build cannot cope with the cache's path */
function buildable(): void {
  if (/[\s:]/.test(cacheDir))
    throw new SetupError(`QEMU cannot be built in ${cacheDir}: set XDG_CACHE_HOME to a path without spaces and colons`)
}

async function buildQemu(qemu: QemuVersion, context: Context): Promise<string> {
  const { progress, scratch } = context
  buildable()
  const version =
    (await cachedSource(qemu)) ??
    (await progress.step('qemu-source', `QEMU ${qemu} source`, () => fetchSource(qemu, context)))
  const wanted = await readRecipe(version)
  return progress.step('qemu-build', `building QEMU ${version.replace(/\+.*/, '')}`, async () => {
    await fetchMeson(context)
    const at = await buildTree(...PRODUCT, version, context)
    return finish(await build(at, wanted, context), qemuKey(wanted), scratch)
  })
}

/** The version of the source that is there once QEMU is, as Debian writes it. */
export async function sourceVersion(qemu: QemuVersion): Promise<string> {
  const version = await cachedSource(qemu)
  if (version === undefined) throw new SetupError(`there is no source of QEMU ${qemu}`)
  return version
}

const isOf = (qemu: QemuVersion, version: string): boolean => version.replace(/^\d+:/, '').startsWith(`${qemu}.`)

async function cachedSource(qemu: QemuVersion): Promise<string | undefined> {
  return (await entries(cachePath(sourceFolder(qemu)))).filter(version => isOf(qemu, version)).at(-1)
}

/** The newest of the versions that an archive has. @throws NoSourceError */
export function chooseSource(qemu: QemuVersion, suite: Suite, versions: readonly string[]): string {
  const newest = versions
    .filter(version => isOf(qemu, version))
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .at(-1)
  if (newest !== undefined) return newest
  const others = versions.length === 0 ? 'none' : versions.join(', ')
  throw new NoSourceError(`Debian's ${suite} has no source of QEMU ${qemu} any more, but ${others}; ${OWN_TREE}`)
}

const OWN_TREE = '--qemu-source takes a tree of your own'

/** Fetches Debian's QEMU with Debian's patches applied; returns the version. @throws SetupError */
async function fetchSource(qemu: QemuVersion, context: Context): Promise<string> {
  const { scratch, signal } = context
  const apt = await PrivateApt.open(SUITES[qemu], signal)
  const wanted = chooseSource(qemu, SUITES[qemu], await apt.sourceVersions('qemu'))
  const dsc = await apt.source('qemu', wanted, join(scratch, 'qemu-dsc')).catch(error => {
    // A mirror's lists may be ahead of what it has, or behind.
    if (!(error instanceof SetupError) || !/404 +Not Found/.test(error.message)) throw error
    throw new NoSourceError(`${error.message}\n  ${OWN_TREE}`)
  })
  const options = { step: 'unpacking', log: logPath('qemu-source'), signal }
  await run('dpkg-source', ['--no-copy', '-x', dsc, join(scratch, 'qemu')], options)
  const version = basename(dsc, '.dsc').replace(/^qemu_/, '')
  await move(join(scratch, 'qemu'), sourceDir(version))
  return version
}

/**
 * What a QEMU was built from: equal for builds of the same source, patches and configuration, whatever machine made them. Of a binary from
 * elsewhere, what stands in the file `NAME.build` beside it, or else the hash of the binary.
 */
export async function qemuBuild(binary: string): Promise<string> {
  const stated = await readFile(`${binary}.build`, 'utf8').catch(() => '')
  if (/^[0-9a-f]{20}\n?$/.test(stated)) return stated.trim()
  for (const qemu of QEMU_VERSIONS) {
    const version = await cachedSource(qemu)
    if (version === undefined) continue
    const recipe = await readRecipe(version)
    if (binary === finishedBinary(qemuKey(recipe))) return buildKey(recipe)
  }
  return digest(binary)
}
