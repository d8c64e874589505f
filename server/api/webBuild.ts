// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { BuildEnvironmentOptions, Plugin } from 'vite'
import { intact, publish } from '../../scripts/setup/cache.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const source = join(root, 'server/web')
/** Folders and files that the build reads: the dashboard, and what it imports values from. */
export const SOURCES = [
  source,
  ...['api', 'hypervisor', 'machine', 'oracle', 'policy', 'recorded', 'run', 'smmu', 'trace', 'trap'].map(folder =>
    join(root, 'server', folder),
  ),
  join(root, 'protocol'),
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
 * The reader of recordings is code of the server. In a browser it has its own Buffer and checksums (server/web/src/recorded); the rest
 * of Node is not there, and what would need it is never called.
 */
const withoutNode: Plugin = {
  name: 'without-node',
  enforce: 'pre',
  resolveId: id =>
    id === 'node:zlib' ? join(source, 'src/recorded/zlib.ts') : id.startsWith('node:') ? `\0${id}` : undefined,
  load: id => (id.startsWith('\0node:') ? { code: 'module.exports = {}', moduleType: 'js' } : undefined),
}

/** Builds something of the dashboard unless this content was built before; needs no network. @returns its folder */
async function built(name: string, say: (line: string) => void, options: BuildEnvironmentOptions): Promise<string> {
  const target = join(cache, `${name}-${key()}`)
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
      // The reader of recordings is large, and loaded by who opens one.
      build: { outDir: folder, emptyOutDir: true, assetsInlineLimit: 0, chunkSizeWarningLimit: 2_000, ...options },
      oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
      plugins: [withoutNode],
    })
    await publish(folder, target)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  const old = readdirSync(cache).filter(other => other.startsWith(`${name}-`) && join(cache, other) !== target)
  for (const other of old.slice(0, -KEPT)) rmSync(join(cache, other), { recursive: true, force: true })
  return target
}

/** @returns the folder with index.html and assets of the dashboard */
export const buildDashboard = (say: (line: string) => void = () => {}): Promise<string> =>
  built('web', say, { modulePreload: { polyfill: false } })

/** The dashboard in one piece, for pages that carry their recordings. @returns script and style sheet */
export async function buildPage(
  say: (line: string) => void = () => {},
): Promise<{ readonly script: string; readonly style: string }> {
  const folder = await built('page', say, {
    cssCodeSplit: false,
    modulePreload: false,
    rolldownOptions: {
      input: join(source, 'src/main.tsx'),
      // A helper of Vite asks for it where modules are loaded one by one.
      transform: { define: { 'import.meta': '{}' } },
      output: {
        format: 'iife',
        codeSplitting: false,
        entryFileNames: 'page.js',
        assetFileNames: 'page[extname]',
      },
    },
  })
  const read = (name: string) => readFileSync(join(folder, name), 'utf8')
  return { script: read('page.js'), style: read('page.css') }
}
