// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { permissions, policyFolder } from '../../../server/cli/confine.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { Database } from '../../../server/sessions/database.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))

let folder: string
beforeAll(() => {
  folder = privateFolder(tmpdir(), 'confine-')
  for (const name of ['read', 'write', 'other']) {
    mkdirSync(join(folder, name))
    writeFileSync(join(folder, name, 'file'), 'before')
  }
})
afterAll(() => rmSync(folder, { recursive: true }))

/** Tries to read, write, list and remove in each folder, on the main thread and on a worker. */
const ATTEMPTS = `
const fs = require('node:fs')
const { Worker, isMainThread } = require('node:worker_threads')
const lines = []
for (const name of ['read', 'write', 'other']) {
  const acts = {
    read: () => fs.readFileSync(name + '/file'),
    list: () => fs.readdirSync(name),
    write: () => fs.writeFileSync(name + '/file', 'after'),
    make: () => fs.rmdirSync(fs.mkdtempSync(name + '/x')),
    climb: () => fs.readFileSync(name + '/../other/file'),
  }
  const done = Object.keys(acts).filter(act => {
    try { acts[act](); return true } catch (error) { if (error.code !== 'ERR_ACCESS_DENIED') throw error; return false }
  })
  lines.push(name + ': ' + done.join(' '))
}
console.log((isMainThread ? 'main' : 'worker') + ' ' + lines.join(', '))
if (isMainThread) new Worker(require('node:fs').readFileSync('read/code', 'utf8'), { eval: true })
`

test('what a confined process and its workers can reach', () => {
  writeFileSync(join(folder, 'read/code'), ATTEMPTS)
  const options = permissions([join(folder, 'read')], [join(folder, 'write')])
  const text = execFileSync(process.execPath, [...options, '-e', ATTEMPTS], { cwd: folder, encoding: 'utf8' })
  const reached = 'read: read list, write: read list write make, other: '
  expect(text).toBe(`main ${reached}\nworker ${reached}\n`)
  expect(readFileSync(join(folder, 'other/file'), 'utf8')).toBe('before')
})

test('a file within a folder does not take the folder away', () => {
  const file = join(folder, 'write/file')
  const options = permissions([file], [join(folder, 'write')])
  const script = `process.stdout.write(String(process.permission.has('fs.read', ${JSON.stringify(join(folder, 'write'))})))`
  expect(execFileSync(process.execPath, [...options, '-e', script], { encoding: 'utf8' })).toBe('true')
})

test('a confined process writes files whole, and publishes what set-up has made', () => {
  const root = fileURLToPath(new URL('../../..', import.meta.url))
  const at = (name: string) => JSON.stringify(join(folder, 'write', name))
  const script = `
    import { mkdirSync, writeFileSync } from 'node:fs'
    import { intact, publish } from ${JSON.stringify(join(root, 'scripts/setup/cache.ts'))}
    import { writeWhole } from ${JSON.stringify(join(root, 'server/machine/wholeFile.ts'))}
    await writeWhole(${at('file')}, 'whole')
    mkdirSync(${at('made')})
    writeFileSync(${at('made/part')}, 'part')
    await publish(${at('made')}, ${at('published')})
    console.log(await intact(${at('published')}))`
  const options = permissions([resolve(root)], [join(folder, 'write')])
  const args = [...options, '--input-type=module', '-e', script]
  expect(execFileSync(process.execPath, args, { encoding: 'utf8' })).toBe('true\n')
  expect(readFileSync(join(folder, 'write/file'), 'utf8')).toBe('whole')
})

/** `serve`, until it says where. */
async function serving(
  main: string,
  ...args: string[]
): Promise<{ server: ChildProcess; url: string; command: string[] }> {
  const server = spawn(process.execPath, [main, 'serve', '--port', '0', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [data] = (await once(server.stdout ?? server, 'data')) as [Buffer]
  const command = readFileSync(`/proc/${server.pid}/cmdline`, 'utf8').split('\0')
  return { server, url: data.toString().trim(), command }
}

test.each([true, false])(
  'the API is served by a process that is confined, unless nobody wants that (%s)',
  async sandbox => {
    const { server, url, command } = await serving(MAIN, ...(sandbox ? [] : ['--no-sandbox']))
    try {
      expect(command.includes('--permission')).toBe(sandbox)
      for (const path of ['api/v1/machine', 'api/v1/info', 'metrics', '']) {
        const answer = await fetch(new URL(path, url))
        expect([path, answer.status]).toEqual([path, 200])
        expect((await answer.text()).length).toBeGreaterThan(0)
      }
    } finally {
      server.kill('SIGTERM')
    }
    expect(await once(server, 'exit')).toEqual([0, null])
  },
)

test('campaigns are told by a server that may not write beside the folder of runs', async () => {
  const state = join(folder, 'state')
  mkdirSync(join(state, 'smmu-cosim'), { recursive: true })
  mkdirSync(join(folder, 'temporary'))
  const database = new Database(join(state, 'smmu-cosim', 'campaigns.db'))
  database.begin('faults campaign', [])
  database.close()
  vi.stubEnv('XDG_STATE_HOME', state)
  vi.stubEnv('TMPDIR', join(folder, 'temporary'))
  const { server, url, command } = await serving(MAIN).finally(() => vi.unstubAllEnvs())
  try {
    expect(command).toContain(`--allow-fs-write=${join(state, 'smmu-cosim', 'runs')}`)
    expect(command).not.toContain(`--allow-fs-write=${join(state, 'smmu-cosim')}`)
    const answer = await fetch(new URL('api/v1/campaigns', url))
    expect(await answer.json()).toMatchObject({ items: [{ id: 1, what: 'faults campaign' }] })
  } finally {
    server.kill('SIGTERM')
  }
  expect(await once(server, 'exit')).toEqual([0, null])
})

test('also where a link leads to the tree', async () => {
  const link = join(homedir(), `.smmu-cosim-test-${process.pid}`)
  symlinkSync(fileURLToPath(new URL('../../..', import.meta.url)), link)
  try {
    const { server, url, command } = await serving(join(link, 'server/cli/main.ts'))
    expect(command).toContain('--permission')
    expect((await fetch(new URL('api/v1/info', url))).status).toBe(200)
    server.kill('SIGTERM')
    expect(await once(server, 'exit')).toEqual([0, null])
  } finally {
    unlinkSync(link)
  }
})

test.each([
  [
    ['serve', '--policy', '/none/such.ts'],
    "error: option '--policy <file>' argument '/none/such.ts' is invalid. no such file",
  ],
  [['boot', '--dashboard=0', '--policy', '/none/such.ts'], 'policy file /none/such.ts does not exist'],
  [['boot', '--dashboard=0', '--kernel', '/none/such'], /^--kernel \/none\/such: no such file, or not readable/],
  [['boot', '--dashboard=0', '--record', '/none/such'], /'\/none\/such' is invalid. its folder does not exist$/],
])('%s: what is not there is said before the server is confined', (args, message) => {
  const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' })
  expect(status).toBe(2)
  const [, said] = /^(?:smmu-cosim: )?(.*)\n/.exec(stderr) ?? []
  expect(said).toEqual(typeof message === 'string' ? message : expect.stringMatching(message))
})

test.each(['with a space', 'with "quotes" and \\'])(
  'Node itself, started by a confined process, is confined as well: %s',
  name => {
    const root = fileURLToPath(new URL('../../..', import.meta.url))
    const [allowed, other] = [join(folder, name), join(folder, 'other')]
    mkdirSync(allowed, { recursive: true })
    const child = `console.log([${JSON.stringify(allowed)}, ${JSON.stringify(other)}].map(path => process.permission.has('fs.read', path)))`
    const script = `
    import { spawnSync } from 'node:child_process'
    import { confine } from ${JSON.stringify(join(root, 'server/cli/confine.ts'))}
    await confine(true, { read: [], write: [] }, new AbortController().signal)
    const { stdout, stderr } = spawnSync(process.execPath, ['-e', ${JSON.stringify(child)}], { encoding: 'utf8' })
    process.stdout.write(stdout + stderr)`
    const args = [...permissions([resolve(root), allowed], []), '--input-type=module', '-e', script]
    expect(execFileSync(process.execPath, args, { encoding: 'utf8' })).toBe('[ true, false ]\n')
  },
)

test('what a confined process may not read has its name', () => {
  const root = fileURLToPath(new URL('../../..', import.meta.url))
  const other = join(folder, 'other/file.ts')
  writeFileSync(other, 'export const one = 1')
  const policy = join(folder, 'read/policy.ts')
  writeFileSync(policy, "import '../other/file.ts'")
  const script = `
    import { loadPolicy } from ${JSON.stringify(join(root, 'server/policy/load.ts'))}
    await loadPolicy(${JSON.stringify(policy)}).catch(error => console.log(error.message))`
  const args = [...permissions([resolve(root), join(folder, 'read')], []), '--input-type=module', '-e', script]
  const denied = `${other}: a confined server may not read it; --no-sandbox lets it`
  expect(execFileSync(process.execPath, args, { encoding: 'utf8' })).toBe(`policy file ${policy}: ${denied}\n`)
})

test('who was interrupted before is not started anew', () => {
  const module = fileURLToPath(new URL('../../../server/cli/confine.ts', import.meta.url))
  const script = `
    import { confine } from ${JSON.stringify(module)}
    const signal = AbortSignal.abort(new Error('interrupted'))
    await confine(true, { read: [], write: [] }, signal).catch(error => console.log(error.message))`
  const args = ['--input-type=module', '-e', script]
  expect(execFileSync(process.execPath, args, { encoding: 'utf8' })).toBe('interrupted\n')
})

test('paths that Node cannot tell apart are refused, and said', () => {
  const [temporary, near] = [join(folder, 'tmp'), join(folder, 'tmpx')]
  for (const path of [temporary, near]) mkdirSync(path)
  const { status, stderr } = spawnSync(process.execPath, [MAIN, 'serve', '--port', '0', '--ram-dir', near], {
    encoding: 'utf8',
    env: { ...process.env, TMPDIR: temporary },
  })
  const message = `Node's permissions cannot tell ${near} from ${temporary}: name another path, or use --no-sandbox`
  expect([status, stderr]).toEqual([2, `smmu-cosim: ${message}\n`])
})

test('of a policy its folder is read, as it may import what lies beside it', () => {
  expect(policyFolder('/a/b/mine.ts')).toBe('/a/b')
  expect(policyFolder('pkvm')).toBeUndefined()
  expect(policyFolder(undefined)).toBeUndefined()
})
