// SPDX-License-Identifier: Apache-2.0
/** A matrix of 2 × 2 real boots that is killed and goes on, with all that is made of it. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ensureKernel } from '../../scripts/setup/index.ts'
import { cellName, MatrixDatabase } from '../../server/sessions/matrix.ts'
import { cosim } from './cli.ts'
import { kernelTree } from './kernelTree.ts'

const folder = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-matrix-`))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('Debian’s kernel and a build of one’s own with two sets of devices: killed, gone on with, and held against each other', async () => {
  const own = join(folder, 'linux')
  await kernelTree(own, await ensureKernel({ kernel: '6.1' }), ['ahci'])
  const path = join(folder, 'matrices.db')
  const [html, junit] = [join(folder, 'matrix.html'), join(folder, 'matrix.xml')]
  const args = [
    'matrix',
    '--policy',
    'full',
    '--kernel',
    `6.12,${own}`,
    '--device',
    'usual,ahci',
    '--against',
    '6.12',
    '--database',
    path,
  ]
  const killed = await cosim([...args, '--jobs', '1'], {
    deadlineMs: 300_000,
    onErrors: (text, child) => {
      if (text.includes('1/4') && !child.killed) child.kill('SIGTERM')
    },
  })
  expect(killed.code, killed.said).toBe(130)
  expect(killed.stderr).toContain('"matrix --resume 1" goes on')
  const before = new MatrixDatabase(path)
  const first = before.rows(before.campaign(1))
  before.close()
  expect(first).toHaveLength(1)
  const resumed = await cosim([...args, '--jobs', '2', '--resume', '--html', html, '--junit', junit], {
    deadlineMs: 400_000,
  })
  expect(resumed.code, resumed.said).toBe(0)
  expect(resumed.stderr).toContain('3 of 4 cells')
  expect(resumed.stdout).toContain('4 cells: 4 ok, 0 not')
  expect(resumed.stdout).toContain('against 6.12: 2 same, 0 worse')
  const after = new MatrixDatabase(path)
  const rows = after.rows(after.campaign(1))
  after.close()
  expect(rows.map(({ job, result }) => [cellName(job), result.verdict])).toEqual([
    ['6.12 usual nested hardware 4096', 'ok'],
    ['6.12 ahci nested hardware 4096', 'ok'],
    [`${own} usual nested hardware 4096`, 'ok'],
    [`${own} ahci nested hardware 4096`, 'ok'],
  ])
  expect(rows[0].result).toEqual(first[0].result)
  for (const { job, result } of rows) {
    expect(result.warnings).toEqual([])
    const names = result.checks.map(({ name }) => name)
    expect(names).toContain('e1000e fetch')
    expect(names.includes('ahci write')).toBe(job.devices.includes('ahci'))
  }
  expect(rows.map(({ result }) => result.release?.split('.').slice(0, 2).join('.'))).toEqual([
    '6.12',
    '6.12',
    '6.1',
    '6.1',
  ])
  expect(readFileSync(html, 'utf8').match(/<a class="ok"/g)).toHaveLength(4)
  expect(readFileSync(junit, 'utf8')).toContain('tests="4" failures="0" errors="0"')
}, 800_000)
