// SPDX-License-Identifier: Apache-2.0
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { SOURCES } from '../../../server/api/webBuild.ts'

const web = fileURLToPath(new URL('../../../server/web/', import.meta.url))

/** Files of the project that a file imports when it runs. */
const imports = (file: string): string[] =>
  [...readFileSync(file, 'utf8').matchAll(/^(?:import|export) (?:\{[^}]*\}|\*[\w ]*|\w+) from '(\.[^']+)'/gm)].map(
    ([, path = '']) => resolve(dirname(file), path),
  )

test('the build depends on every file outside the dashboard that it imports', () => {
  const seen = new Set<string>()
  const visit = (file: string) => {
    if (seen.has(file) || !existsSync(file)) return
    seen.add(file)
    for (const path of imports(file)) visit(path)
  }
  for (const name of readdirSync(join(web, 'src'), { recursive: true, encoding: 'utf8' })) {
    if (/\.tsx?$/.test(name)) visit(join(web, 'src', name))
  }
  const outside = [...seen].filter(file => !file.startsWith(web))
  expect(outside.length).toBeGreaterThan(0)
  const read = (file: string) => SOURCES.some(source => file === source || file.startsWith(`${source}/`))
  expect(outside.filter(file => !read(file))).toEqual([])
})
