// SPDX-License-Identifier: Apache-2.0
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, mkdtempSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'

const LOCK = '{}\n'
const PLATFORM = `node-${process.platform}-${process.arch}`

/** A clone whose packages are installed, but for what the test adds. */
let clone: string

beforeEach(() => {
  clone = mkdtempSync(join(tmpdir(), 'smmu-cosim-bootstrap-'))
  mkdirSync(join(clone, 'scripts'))
  mkdirSync(join(clone, 'node_modules'))
  copyFileSync(
    fileURLToPath(new URL('../../../scripts/bootstrap.mjs', import.meta.url)),
    join(clone, 'scripts/bootstrap.mjs'),
  )
  writeFileSync(join(clone, 'package-lock.json'), LOCK)
  const stamp = createHash('sha256').update(LOCK).digest('hex')
  writeFileSync(join(clone, 'node_modules/.package-lock.sha256'), stamp)
})
afterEach(() => rmSync(clone, { recursive: true }))

function installNode(): void {
  mkdirSync(join(clone, 'node_modules', PLATFORM, 'bin'), { recursive: true })
  symlinkSync(process.execPath, join(clone, 'node_modules', PLATFORM, 'bin/node'))
}

function bootstrap(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [join(clone, 'scripts/bootstrap.mjs'), ...args], { encoding: 'utf8' })
}

test.each([
  ['no link', () => {}],
  [
    'a link that leads nowhere',
    () => {
      mkdirSync(join(clone, 'node_modules/.bin'))
      symlinkSync('../node-elsewhere/bin/node', join(clone, 'node_modules/.bin/node'))
    },
  ],
])('an npm that left %s to the pinned Node', (_what, leave) => {
  installNode()
  leave()
  const { status, stdout, stderr } = bootstrap('--exec', 'node', '-p', '6 * 7')
  expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '42\n', stderr: '' })
  expect(readlinkSync(join(clone, 'node_modules/.bin/node'))).toBe(`../${PLATFORM}/bin/node`)
})

test('a machine that Node 24 was not installed for is told so', () => {
  const { status, stderr } = bootstrap('--exec', 'node', '-p', '1')
  expect(status).toBe(1)
  expect(stderr).toContain(`npm installed no package ${PLATFORM}`)
})
