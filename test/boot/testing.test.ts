// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim test` as a user has it: in a folder with nothing but a test, and what a test that fails leaves behind. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { stripVTControlCharacters as plain } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { privateFolder } from '../../server/machine/scratch.ts'
import { cosim, leftovers } from './cli.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

let folder: string
beforeAll(() => {
  folder = privateFolder(tmpdir(), 'testing-test-')
})
afterAll(() => rmSync(folder, { recursive: true }))

/** A new folder with a test in it. */
function project(name: string, text: string): string {
  const path = join(folder, name)
  mkdirSync(path)
  writeFileSync(join(path, 'my.test.ts'), text)
  return path
}

/** Has each process of a run told of: machines belong to those that vitest starts. */
function told(cwd: string): { readonly env: NodeJS.ProcessEnv; left(): string[] } {
  const list = `${cwd}.pids`
  const module = `${cwd}.mjs`
  writeFileSync(
    module,
    `import { appendFileSync } from 'node:fs'\nappendFileSync(${JSON.stringify(list)}, process.pid + '\\n')\n`,
  )
  return {
    env: { ...process.env, NODE_OPTIONS: `--import=${pathToFileURL(module)}` },
    left() {
      const pids = new Set(readFileSync(list, 'utf8').trim().split('\n').map(Number))
      // This one's child, what that starts, and vitest's.
      expect(pids.size).toBeGreaterThan(1)
      return [...pids].flatMap(leftovers)
    },
  }
}

/** The first example of the documentation. */
function example(): string {
  const [, text = ''] = /^```ts\n(.*?)^```/ms.exec(readFileSync(join(ROOT, 'server/testing/README.md'), 'utf8')) ?? []
  return text
}

test('the example runs as it is written, in an empty folder', async () => {
  const cwd = project('example', example())
  const first = await cosim(['test', 'my.test.ts'], { cwd })
  expect(first.code, first.said).toBe(0)
  // Now its snapshot is there, and nothing boots.
  const processes = told(cwd)
  const { code, stdout, said } = await cosim(['test', 'my.test.ts'], { cwd, env: processes.env })
  expect(code, said).toBe(0)
  expect(plain(stdout)).toMatch(/Tests {2}1 passed/)
  expect(said).not.toContain('for a snapshot')
  expect(readdirSync(cwd)).toEqual(['my.test.ts'])
  expect(processes.left()).toEqual([])
})

test.each(['SIGINT', 'SIGTERM'] as const)('%s to all of its processes leaves nothing behind', async signal => {
  const cwd = project(
    signal,
    `import { writeFileSync } from 'node:fs'
import { test } from 'smmu-cosim/test'
test('slow', async ({ machine }) => {
  const m = await machine()
  writeFileSync('worker', String(process.pid))
  await m.guest.run('sleep 100', { timeout: 120_000 })
})
`,
  )
  const main = join(ROOT, 'server/cli/main.ts')
  const child = spawn(process.execPath, [main, 'test'], { cwd, detached: true, stdio: ['ignore', 'ignore', 'pipe'] })
  const ended = once(child, 'close')
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  const file = join(cwd, 'worker')
  while (child.exitCode === null && (!existsSync(file) || readFileSync(file, 'utf8') === '')) await sleep(50)
  const worker = Number(readFileSync(file, 'utf8'))
  // As Ctrl-C and timeout(1) do.
  process.kill(-(child.pid ?? 0), signal)
  expect(await ended).toEqual([130, null])
  expect(stderr).toMatch(/^smmu-cosim: interrupted$/m)
  expect(leftovers(worker)).toEqual([])
})

test('an editor finds the types where the package is linked', () => {
  const cwd = project('linked', example())
  mkdirSync(join(cwd, 'node_modules'))
  symlinkSync(ROOT, join(cwd, 'node_modules/smmu-cosim'))
  const compilerOptions = {
    module: 'nodenext',
    target: 'esnext',
    strict: true,
    noEmit: true,
    allowImportingTsExtensions: true,
  }
  writeFileSync(
    join(cwd, 'tsconfig.json'),
    JSON.stringify({ compilerOptions: { ...compilerOptions, skipLibCheck: true } }),
  )
  const { stdout, status } = spawnSync(join(ROOT, 'node_modules/.bin/tsc'), ['-p', '.'], { cwd, encoding: 'utf8' })
  expect(stdout).toBe('')
  expect(status).toBe(0)
})

test('a scenario that fails leaves what can be opened, and says how to repeat it', async () => {
  const cwd = project(
    'failing',
    `import { expect, test } from 'smmu-cosim/test'

test('passes', async ({ machine }) => {
  const m = await machine()
  expect((await m.guest.run('echo out; echo err >&2; exit 3'))).toEqual({ code: 3, stdout: 'out\\n', stderr: 'err\\n' })
})

test("what (1) isn't so", async ({ machine }) => {
  const m = await machine()
  const page = await m.guest.allocate(4096)
  await m.hyp.donate(page, { vm: 7 })
  await expect(m.events).toContainEvent({ type: 'F_PERMISSION' }, { timeout: 100 })
})
`,
  )
  const processes = told(cwd)
  const failed = await cosim(['test', 'my.test.ts', '--seed', '5', '--junit', 'out.xml'], { cwd, env: processes.env })
  const { code, said } = failed
  expect(code, said).toBe(1)
  const [stdout, stderr] = [plain(failed.stdout), plain(failed.stderr)]
  expect(stdout).toMatch(/1 failed \| 1 passed/)
  expect(stderr).toContain('expected an event { type: "F_PERMISSION" }; there was no event')
  expect(stdout).toMatch(/machine, seed 5$/m)
  // The step of the test stands in front of what it led to.
  expect(stdout).toMatch(/hyp\.donate 0x[0-9a-f]+ 4096 vm 7.*\n(.*\n)*? +request: donate 0x[0-9a-f]+ \+1 page vm 7: OK/)
  expect(readFileSync(join(cwd, 'out.xml'), 'utf8')).toContain('F_PERMISSION')

  const [, recording = ''] = /^ +recording (\S+)/m.exec(stdout) ?? []
  const shown = await cosim(['trace', 'show', recording])
  expect(shown.code, shown.said).toBe(0)
  expect(shown.stdout).toMatch(/control .*hyp\.donate/)
  // It did not boot: it was a snapshot.
  expect(shown.stdout).not.toContain('Booting Linux')
  expect(shown.stdout).toMatch(/request: donate .* vm 7: OK/)
  const [, console = ''] = /^ +console +(\S+)/m.exec(stdout) ?? []
  expect(existsSync(console)).toBe(true)
  // One folder for the test that failed, none for the other.
  expect(readdirSync(join(cwd, 'smmu-cosim-results'))).toHaveLength(1)

  const [, again = ''] = /^ +again: smmu-cosim (.*)$/m.exec(stdout) ?? []
  const words = spawnSync('sh', ['-c', `printf '%s\\n' ${again}`], { encoding: 'utf8' })
    .stdout.trimEnd()
    .split('\n')
  const repeated = await cosim(words, { cwd })
  expect(repeated.code, repeated.said).toBe(1)
  expect(plain(repeated.stdout)).toMatch(/1 failed \| 1 skipped/)
  expect(processes.left()).toEqual([])
})
