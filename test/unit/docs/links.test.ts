// SPDX-License-Identifier: Apache-2.0
/** What the documents point at is there. */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { describe, expect, test } from 'vitest'
import { code, files, headings, links, ROOT } from './markdown.ts'

const documents = files('.md')
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8')
const anchors = (path: string) => headings(read(path)).map(({ anchor }) => anchor)

/** What is wrong with a link of a document, or null. */
function broken(document: string, target: string): string | null {
  if (/^(https?|mailto):/.test(target)) return null
  const [path = '', anchor] = target.split('#')
  const file = path === '' ? document : normalize(join(dirname(document), path))
  if (file.startsWith('..')) return `${target}: outside of the repository`
  if (!existsSync(join(ROOT, file))) return `${target}: no such file`
  if (anchor === undefined) return null
  if (!statSync(join(ROOT, file)).isFile() || !file.endsWith('.md')) return `${target}: anchors are of documents only`
  return anchors(file).includes(anchor) ? null : `${target}: no such heading`
}

test('there are documents, and links in them', () => {
  expect(documents).toContain('README.md')
  expect(links(read('README.md')).length).toBeGreaterThan(10)
})

test('a link that leads nowhere is found', () => {
  expect(links('a [b](c.md) [![d](e.png)](f.md#g)\n```\n[no](code)\n```\n').map(({ target }) => target)).toEqual([
    'c.md',
    'f.md#g',
    'e.png',
  ])
  expect(broken('README.md', 'no-such-file.md')).toMatch(/no such file/)
  expect(broken('README.md', '#no-such-heading')).toMatch(/no such heading/)
  expect(broken('README.md', '../elsewhere.md')).toMatch(/outside/)
  expect(broken('server/smmu/README.md', '../../LICENSE')).toBeNull()
  expect(broken('README.md', 'https://example.org/')).toBeNull()
})

describe.each(documents)('%s', document => {
  test('every relative link leads to a file, and to a heading of it', () => {
    expect(links(read(document)).flatMap(({ target }) => broken(document, target) ?? [])).toEqual([])
  })

  test('every relative import of its TypeScript is a file', () => {
    // Code is shown as if it stood at the top of the repository.
    const imports = code(read(document), 'ts').flatMap(body =>
      [...body.matchAll(/from '(\.[^']*)'/g)].map(([, path = '']) => path),
    )
    expect(imports.filter(path => !existsSync(join(ROOT, path)))).toEqual([])
  })
})
