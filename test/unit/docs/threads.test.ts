// SPDX-License-Identifier: Apache-2.0
/** server/README.md says which folders the trap thread loads: what its modules import, types left out. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { expect, test } from 'vitest'
import { headings, links, ROOT, tableBelow } from './markdown.ts'

const IMPORT = /^(?:import|export)\s+(?!type\b)(?:([^'"]*?)\sfrom\s+)?'(\.[^']+)'/gm
const LATER = /\bimport\('(\.[^']+)'\)/g

/** Modules that are loaded with a module. */
function loaded(starts: readonly string[]): Set<string> {
  const found = new Set<string>()
  const open = starts.map(path => join(ROOT, path))
  for (let file = open.pop(); file !== undefined; file = open.pop()) {
    if (found.has(file)) continue
    found.add(file)
    const source = readFileSync(file, 'utf8')
    for (const [, path = ''] of source.matchAll(LATER)) open.push(join(dirname(file), path))
    for (const [, names = '', path = ''] of source.matchAll(IMPORT)) {
      const listed = /^\{([^}]*)\}$/s
        .exec(names.trim())?.[1]
        ?.split(',')
        .map(name => name.trim())
      if (listed?.every(name => name === '' || name.startsWith('type '))) continue
      open.push(join(dirname(file), path))
    }
  }
  return found
}

test('the folders of the trap thread', () => {
  const text = readFileSync(join(ROOT, 'server/README.md'), 'utf8')
  const section = headings(text).find(heading => heading.text === 'Two threads')
  if (section === undefined) throw new Error('server/README.md has no section on threads')
  const rows = tableBelow(text, section).flatMap(([folder = '', , where = '']) =>
    links(folder).map(({ text: name }) => ({ name: name.replace('/', ''), where })),
  )
  expect(rows.map(({ name }) => name).sort()).toEqual(
    readdirSync(join(ROOT, 'server'), { withFileTypes: true })
      .filter(entry => entry.isDirectory())
      .map(({ name }) => name)
      .sort(),
  )
  const policies = readdirSync(join(ROOT, 'server/hypervisor'))
    .map(name => `server/hypervisor/${name}/policy.ts`)
    .filter(path => existsSync(join(ROOT, path)))
  const folders = new Set(
    [...loaded(['server/trap/worker.ts', ...policies])]
      .map(file => relative(ROOT, file).split('/'))
      .flatMap(([top, folder = '']) => (top === 'server' ? [folder] : [])),
  )
  expect(folders.size).toBeGreaterThan(5)
  expect(
    rows
      .filter(({ where }) => /\b(trap|both)\b/.test(where))
      .map(({ name }) => name)
      .sort(),
  ).toEqual([...folders].sort())
})
