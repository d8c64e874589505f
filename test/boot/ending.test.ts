// SPDX-License-Identifier: Apache-2.0
/** A run is told to end, whatever its machine is doing. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { privateFolder } from '../../server/machine/scratch.ts'
import { Servers } from '../restart/servers.ts'
import { leftovers } from './cli.ts'

const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
/** What has not ended by then waits for something that does not come: a tenth of that is usual. */
const END_MS = 20_000
const START_MS = 120_000

let folder: string
let run: ChildProcess
let said = ''
beforeEach(() => {
  folder = privateFolder(tmpdir(), 'ending-')
  said = ''
})
afterEach(() => {
  for (const pid of qemus()) process.kill(pid, 'SIGKILL')
  run.kill('SIGKILL')
  rmSync(folder, { recursive: true })
})

function start(...args: string[]): void {
  run = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  for (const stream of [run.stdout, run.stderr]) {
    stream?.setEncoding('latin1').on('data', text => {
      said += text
    })
  }
}

const says = (what: RegExp) => expect.poll(() => said, { timeout: START_MS }).toMatch(what)

/** The QEMU of the run: the processes that name one of its folders. */
function qemus(): number[] {
  const mark = `smmu-cosim.${run.pid}-`
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .filter(name => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(mark)
      } catch {
        return false
      }
    })
    .map(Number)
}

const children = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ').map(Number)

async function stopQemu(): Promise<void> {
  await says(/Booting Linux/)
  expect(qemus()).toHaveLength(1)
  for (const pid of qemus()) process.kill(pid, 'SIGSTOP')
  // Its server has noticed, and waits for it.
  await sleep(500)
}

async function endsInTime(code: number): Promise<void> {
  const begin = performance.now()
  const ended = once(run, 'close')
  run.kill('SIGTERM')
  expect(await ended, said).toEqual([code, null])
  expect(performance.now() - begin).toBeLessThan(END_MS)
  expect(leftovers(run.pid ?? 0)).toEqual([])
}

test.each<[string, readonly string[], () => Promise<void>]>([
  ['while Linux boots', [], () => says(/Booting Linux/)],
  ['while its QEMU stands still', [], stopQemu],
  ['while its QEMU stands still in the middle of a trap', ['--policy', 'passthrough', '--faithful'], stopQemu],
])('boot: %s', async (_name, args, state) => {
  start('boot', ...args)
  await state()
  await endsInTime(130)
})

/** A policy file that does this with the first trap. */
function policy(access: string): string {
  const file = join(folder, 'policy.ts')
  writeFileSync(file, `export default () => ({ name: 'mine', reset() {}, access() { ${access} } })`)
  return file
}

test('boot: while every line of its console is held against a pattern that is hard to match', async () => {
  const file = join(folder, 'rules.yaml')
  const rule = {
    name: 'slow',
    when: { console: '^(([a-z]|[^x])*.)*([ -~]+)+\\\\$' },
    where: { at: 'command' },
    what: { do: 'drop' },
  }
  writeFileSync(file, JSON.stringify({ rules: [rule] }))
  start('boot', '--faults', file)
  await says(/Booting Linux/)
  await endsInTime(130)
})

test('boot: while its policy loops', async () => {
  start('boot', '--policy', policy('for (;;);'))
  await says(/Booting Linux/)
  await sleep(3_000)
  await endsInTime(130)
})

test('boot --exec: while nobody reads its output', async () => {
  run = spawn(process.execPath, [MAIN, 'boot', '--exec', 'yes'], { stdio: ['ignore', 'pipe', 'pipe'] })
  run.stderr?.setEncoding('latin1').on('data', text => {
    said += text
  })
  if (run.stdout !== null) await once(run.stdout, 'readable')
  // More than fits into the pipe.
  await sleep(2_000)
  const ended = once(run, 'exit')
  run.kill('SIGTERM')
  expect(await ended, said).toEqual([130, null])
  expect(said).toMatch(/^smmu-cosim: interrupted/m)
  expect(leftovers(run.pid ?? 0)).toEqual([])
})

test('boot: while no server listens', async () => {
  start('boot', '--server', join(folder, 'nobody'), '--reconnect', '60')
  await expect.poll(() => qemus().length, { timeout: START_MS }).toBe(1)
  await sleep(500)
  await endsInTime(130)
})

test('boot: while its machine waits for a server that was lost', async () => {
  const servers = new Servers({ socket: join(folder, 'trap'), ramFolder: '/dev/shm' })
  await servers.start()
  start('boot', '--server', join(folder, 'trap'), '--reconnect', '60')
  await servers.answered()
  await servers.stop()
  await sleep(1_000)
  await endsInTime(130)
})

test('dev: while the machine waits for code that does not throw', async () => {
  start('dev', '--policy', policy("throw new Error('my bug')"))
  await says(/the machine waits at its trap/)
  await endsInTime(130)
})

test.each([false, true])('serve: while a trap is held (QEMU stands still: %s)', async stopped => {
  start('serve', '--port', '0')
  await says(/http:\S+/)
  const url = /http:\S+/.exec(said)?.[0]
  const begin = await fetch(new URL('/api/v1/machine/start', url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ breakFirst: true }),
  })
  expect(begin.status).toBeLessThan(300)
  const state = async () => ((await (await fetch(new URL('/api/v1/machine', url))).json()) as { state: string }).state
  await expect.poll(state, { timeout: START_MS }).toBe('held')
  if (stopped) for (const pid of qemus()) process.kill(pid, 'SIGSTOP')
  await endsInTime(0)
})

test('serve: while its attack stands still', async () => {
  start('serve', '--port', '0')
  await says(/http:\S+/)
  const api = new URL('/api/v1/attack', /http:\S+/.exec(said)?.[0])
  const headers = { 'content-type': 'application/json' }
  const begin = await fetch(api, { method: 'POST', headers, body: JSON.stringify({ seconds: 600 }) })
  expect(begin.status, await begin.text()).toBeLessThan(300)
  const operations = async () => ((await (await fetch(api)).json()) as { operations: number }).operations
  await expect.poll(operations, { timeout: START_MS }).toBeGreaterThan(0)
  const [attacker] = children(run.pid ?? 0)
  process.kill(attacker, 'SIGSTOP')
  await endsInTime(0)
  expect(existsSync(`/proc/${attacker}`)).toBe(false)
})
