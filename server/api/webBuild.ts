// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { intact, publish } from '../../scripts/setup/cache.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const source = join(root, 'server/web')
/** Inputs of the build: the dashboard, and the files outside it that it imports values from. */
export const SOURCES = [
  source,
  join(root, 'server/api/schemas/request.ts'),
  join(root, 'server/hypervisor/README.md'),
  join(root, 'server/smmu/bits.ts'),
]
const cache = join(root, 'node_modules/.cache/smmu-cosim')
const KEPT = 3

function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name))
}

/** What the build depends on. */
function key(): string {
  const hash = createHash('sha256')
  const files = SOURCES.flatMap(path => (statSync(path).isFile() ? [path] : filesIn(path))).sort()
  for (const file of [...files, join(root, 'package-lock.json'), fileURLToPath(import.meta.url)]) {
    hash.update(file.slice(root.length)).update('\0').update(readFileSync(file)).update('\0')
  }
  return hash.digest('hex').slice(0, 20)
}

/**
 * Builds the dashboard unless this content was built before; needs no network.
 * @returns the folder with index.html and assets.
 */
export async function buildDashboard(say: (line: string) => void = () => {}): Promise<string> {
  const target = join(cache, `web-${key()}`)
  if (await intact(target)) return target
  say('building the dashboard')
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(join(cache, 'tmp-'))
  try {
    const { build } = await import('vite')
    await build({
      root: source,
      configFile: false,
      logLevel: 'warn',
      publicDir: false,
      cacheDir: join(cache, 'vite'),
      build: { outDir: folder, emptyOutDir: true, assetsInlineLimit: 0, modulePreload: { polyfill: false } },
      oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
    })
    await publish(folder, target)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  const old = readdirSync(dirname(target)).filter(name => name.startsWith('web-') && join(cache, name) !== target)
  for (const name of old.slice(0, -KEPT)) rmSync(join(cache, name), { recursive: true, force: true })
  return target
}
