// SPDX-License-Identifier: Apache-2.0
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
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

test('packages are installed, and none of them runs a program meanwhile', () => {
  installNode()
  rmSync(join(clone, 'node_modules/.package-lock.sha256'))
  copyFileSync(fileURLToPath(new URL('../../../.npmrc', import.meta.url)), join(clone, '.npmrc'))
  writeFileSync(join(clone, 'package.json'), JSON.stringify({ dependencies: { eager: 'file:eager' } }))
  mkdirSync(join(clone, 'eager'))
  const scripts = Object.fromEntries(['preinstall', 'install', 'postinstall'].map(name => [name, `touch ${name}`]))
  writeFileSync(join(clone, 'eager/package.json'), JSON.stringify({ name: 'eager', version: '1.0.0', scripts }))
  const { status, stdout, stderr } = bootstrap('--install')
  expect({ status, stdout }, stderr).toEqual({ status: 0, stdout: '' })
  expect(stderr).toMatch(/^smmu-cosim: installing npm packages\n/)
  expect(readdirSync(join(clone, 'node_modules'))).toContain('eager')
  expect(readdirSync(join(clone, 'eager'))).toEqual(['package.json'])
})

/** Where the program finds compiled code, when it is to be in `folder`. */
function compileCache(folder: string): SpawnSyncReturns<string> {
  const all = [join(clone, 'scripts/bootstrap.mjs'), '--exec', 'node', '-p', 'process.env.NODE_COMPILE_CACHE']
  const env = { ...process.env, NODE_COMPILE_CACHE: folder }
  return spawnSync(process.execPath, all, { encoding: 'utf8', env })
}

test('compiled code is kept where only the user can write', () => {
  installNode()
  const folder = join(clone, 'cache/modules')
  expect(compileCache(folder)).toMatchObject({ stdout: `${folder}\n`, stderr: '' })
  expect(statSync(folder).mode & 0o022).toBe(0)
})

test.each<[string, (folder: string) => void]>([
  ['that everybody can write to', folder => chmodSync(folder, 0o777)],
  ['that the group can write to', folder => chmodSync(folder, 0o770)],
  [
    'that is a link',
    folder => {
      renameSync(folder, `${folder}.real`)
      symlinkSync(`${folder}.real`, folder)
    },
  ],
])('a folder %s is not used for compiled code', (_what, change) => {
  installNode()
  const folder = join(clone, 'modules')
  mkdirSync(folder, { mode: 0o700 })
  change(folder)
  const { stdout, stderr } = compileCache(folder)
  expect(stdout).toBe('undefined\n')
  expect(stderr).toContain(`${folder} is not used for compiled code`)
})

test('a machine that Node 26 was not installed for is told so', () => {
  const { status, stderr } = bootstrap('--exec', 'node', '-p', '1')
  expect(status).toBe(1)
  expect(stderr).toContain(`npm installed no package ${PLATFORM}`)
})

/** A Node that ends with these words. */
function brokenNode(words: string): void {
  mkdirSync(join(clone, 'node_modules', PLATFORM, 'bin'), { recursive: true })
  const script = `#!/bin/sh\n[ -e "${clone}/installed" ] && exec "${process.execPath}" "$@"\necho '${words}' >&2\nexit 127\n`
  writeFileSync(join(clone, 'node_modules', PLATFORM, 'bin/node'), script, { mode: 0o755 })
}

test('a Node that does not start is told of with its words', () => {
  brokenNode('libm.so.6: version GLIBC_9.9 not found')
  const { status, stderr } = bootstrap('--exec', 'node', '-p', '1')
  expect({ status, stderr }).toEqual({
    status: 1,
    stderr: 'smmu-cosim: Node 26 does not start: libm.so.6: version GLIBC_9.9 not found\n',
  })
})

// apt-get and sudo are stood in for: the test must not install anything on its machine.
test.each([
  ['is installed, and Node starts', 0],
  ['cannot be installed: how a person does it', 100],
])('the library that Node 26 needs %s', (_what, code) => {
  brokenNode('error while loading shared libraries: libatomic.so.1: cannot open shared object file')
  const programs = join(clone, 'programs')
  mkdirSync(programs)
  const log = join(clone, 'apt.log')
  const install = code === 0 ? `case "$*" in *install*) touch ${clone}/installed;; esac\n` : ''
  const aptGet = `#!/bin/sh\necho "$@" >> ${log}\necho Reading package lists\n${install}exit ${code}\n`
  writeFileSync(join(programs, 'apt-get'), aptGet, { mode: 0o755 })
  writeFileSync(join(programs, 'sudo'), '#!/bin/sh\nexec "$@"\n', { mode: 0o755 })
  const all = [join(clone, 'scripts/bootstrap.mjs'), '--exec', 'node', '-p', '6 * 7']
  const env = { ...process.env, PATH: `${programs}:${process.env.PATH}` }
  const { status, stdout, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8', env })
  expect({ status, stdout }).toEqual(code === 0 ? { status: 0, stdout: '42\n' } : { status: code, stdout: '' })
  expect(stderr).toContain('Reading package lists\n')
  expect(stderr.includes('as root, run: apt-get install libatomic1')).toBe(code !== 0)
  expect(readFileSync(log, 'utf8')).toMatch(/install -y --no-install-recommends libatomic1\n$/)
})
