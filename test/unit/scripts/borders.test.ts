// SPDX-License-Identifier: Apache-2.0
/** The borders between folders, as .dependency-cruiser.mjs has them: that what crosses one is found. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cosim-borders-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

/** Checks sources. @returns names of the rules that are broken, in order */
function broken(files: Readonly<Record<string, string>>): string[] {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), `${text}\n`)
  }
  const arguments_ = ['--config', join(ROOT, '.dependency-cruiser.mjs'), '--output-type', 'json', 'server']
  const { stdout } = spawnSync(join(ROOT, 'node_modules/.bin/depcruise'), arguments_, { cwd: folder, encoding: 'utf8' })
  const { summary } = JSON.parse(stdout) as { summary: { violations: { rule: { name: string } }[] } }
  return [...new Set(summary.violations.map(({ rule }) => rule.name))].sort()
}

const a = 'export interface A { x: number }'
const use = (path: string) => `import type { A } from '${path}'\nexport const use = (it: A) => it.x`

test.each([
  ['smmu/x.ts', 'machine/ports.ts', 'server/smmu'],
  ['policy/x.ts', 'hypervisor/pkvm/hypervisor.ts', 'server/policy'],
  ['policy/x.ts', 'machine/qemu.ts', 'server/policy'],
  ['hypervisor/mine/policy.ts', 'hypervisor/pkvm/smmu.ts', 'server/hypervisor/(?!full/)*'],
  ['hypervisor/full/x.ts', 'hypervisor/mine/policy.ts', 'server/hypervisor/full'],
  ['trace/x.ts', 'faults/rule.ts', 'server/trace'],
  ['trace/x.ts', 'hypervisor/pkvm/warnings.ts', 'server/trace'],
  ['faults/x.ts', 'trap/operations.ts', 'server/faults'],
  ['faults/x.ts', 'trace/reader.ts', 'server/faults'],
  ['trap/x.ts', 'control/session.ts', 'server/trap'],
  ['sessions/x.ts', 'api/machine.ts', 'server/sessions'],
  ['api/x.ts', 'cli/boot.ts', 'server/api'],
  ['api/x.ts', 'hypervisor/pkvm/warnings.ts', 'server/api'],
  ['web/src/x.ts', 'control/session.ts', 'server/web'],
])('%s must not import %s, not even a type', (from, to, rule) => {
  const up = '../'.repeat(from.split('/').length - 1)
  expect(broken({ [`server/${from}`]: use(`${up}${to}`), [`server/${to}`]: a })).toEqual([rule])
})

test('what the list allows is allowed', () => {
  expect(
    broken({
      'server/smmu/bits.ts': a,
      'server/machine/ports.ts': use('../smmu/bits.ts'),
      'server/policy/policy.ts': `${use('../machine/ports.ts').replace('const use', 'const other')}\n${a}`,
      'server/hypervisor/mine/policy.ts': use('../../policy/policy.ts'),
    }),
  ).toEqual([])
})

test('a circle is found, also one of types only', () => {
  const other = `${use('./b.ts')}\nexport interface B { y: number }`
  const back = `${a}\nimport type { B } from './a.ts'\nexport const y = (b: B) => b.y`
  expect(broken({ 'server/trap/a.ts': other, 'server/trap/b.ts': back })).toEqual(['no circle'])
})

test('the browser takes types of the server, and no values', () => {
  expect(
    broken({ 'server/web/src/x.ts': use('../../api/schemas/trace.ts'), 'server/api/schemas/trace.ts': a }),
  ).toEqual([])
  expect(
    broken({
      'server/web/src/x.ts': "import { value } from '../../api/schemas/trace.ts'\nexport const x = value",
      'server/api/schemas/trace.ts': 'export const value = 1',
    }),
  ).toEqual(['web takes types only'])
})

test('a new folder needs its place in the list', () => {
  expect(broken({ 'server/new/x.ts': use('../smmu/bits.ts'), 'server/smmu/bits.ts': a })).toEqual([
    'a folder for everything',
  ])
})
