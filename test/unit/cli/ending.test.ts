// SPDX-License-Identifier: Apache-2.0
/** A command without a machine is told to end, whatever keeps it busy: it and all that it started are gone within 2 s. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { Pump } from '../../../server/trace/pump.ts'
import { Recorder } from '../../../server/trace/recorder.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'
import { leftovers } from '../../boot/cli.ts'
import { Mark } from '../../boot/marked.ts'
import { header, trap } from '../trace/synthetic.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))
const BOOTSTRAP = fileURLToPath(new URL('../../../scripts/bootstrap.mjs', import.meta.url))
const CASES = fileURLToPath(new URL('../../attack/cases', import.meta.url))
const END_MS = 2_000
/** The shell's codes for an end by a signal. */
const [BY_INT, BY_TERM] = [130, 143]
/** Traps of a recording that takes seconds to look through. */
const TRAPS = 3_000_000

/** Of all tests: the recording. */
let shared: string
let folder: string
let mark: Mark
let run: ChildProcess
let said: string

const big = () => join(shared, 'big.smtrace')

beforeAll(async () => {
  shared = privateFolder(tmpdir(), 'ending-')
  const { machine, ...rest } = header
  const ring = createRing(1 << 24)
  const pump = new Pump(ring)
  const recorder = await Recorder.open({ path: big(), header: rest })
  pump.add(recorder)
  recorder.describe(machine, () => undefined)
  const writer = new RingWriter(ring)
  writer.reset(0, 0, writer.now(), 1)
  for (let seq = 1; seq <= TRAPS; seq++) {
    writer.trap({ ...trap, write: false, seq, time: seq * 1000 }, writer.now(), 10, 5000, 0)
    if (seq % 50_000 > 0) continue
    pump.drain()
    await recorder.drained()
  }
  pump.close()
  expect(await recorder.close()).toMatchObject({ lost: 0, refused: 0 })
})
afterAll(() => rmSync(shared, { recursive: true }))

beforeEach(() => {
  folder = privateFolder(tmpdir(), 'ending-')
  mark = new Mark()
  said = ''
})
afterEach(() => {
  mark.kill()
  rmSync(folder, { recursive: true })
})

function start(args: readonly string[], { program = MAIN, env = {} }: { program?: string; env?: object } = {}): void {
  run = spawn(process.execPath, [program, ...args], {
    cwd: folder,
    env: { ...process.env, ...env, ...mark.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  run.stderr?.setEncoding('utf8').on('data', text => {
    said += text
  })
}

/** So that what it prints is read, too. */
function heard(): void {
  run.stdout?.setEncoding('utf8').on('data', text => {
    said += text
  })
}

async function endsInTime(code: number, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  expect(run.exitCode, said).toBe(null)
  const begin = performance.now()
  const ended = once(run, 'exit')
  run.kill(signal)
  const [status, killedBy] = await ended
  expect(performance.now() - begin).toBeLessThan(END_MS)
  expect(killedBy === null ? status : killedBy === 'SIGTERM' ? BY_TERM : BY_INT, said).toBe(code)
  while (performance.now() - begin < END_MS && mark.processes.size > 0) await sleep(20)
  expect([...mark.processes.values()]).toEqual([])
  expect(leftovers(run.pid ?? 0)).toEqual([])
}

/** It is at work: it has used a processor for so long. */
async function works(seconds: number): Promise<void> {
  const used = () => {
    const [, , , , , , , , , , , user = 0, system = 0] = readFileSync(`/proc/${run.pid}/stat`, 'latin1')
      .replace(/^.*\) /, '')
      .split(' ')
      .map(Number)
    return (user + system) / 100
  }
  await expect.poll(used).toBeGreaterThan(seconds)
}

/** A policy file that loops when it is loaded, made, or asked to decide. */
function looping(where: 'loaded' | 'made' | 'access'): string {
  const file = join(folder, 'policy.ts')
  const loop = (here: typeof where) => (where === here ? 'for (;;);' : '')
  writeFileSync(
    file,
    `${loop('loaded')} export default () => { ${loop('made')} return { name: 'mine', reset() {}, access() { ${loop('access')} } } }`,
  )
  return file
}

/** An environment in which threads never get to their code: no rules are known that keep theirs busy for long. */
function loopingThreads(): NodeJS.ProcessEnv {
  const file = join(folder, 'loop.mjs')
  writeFileSync(file, "import { isMainThread } from 'node:worker_threads'\nif (!isMainThread) for (;;);\n")
  return { NODE_OPTIONS: `--import=${file}` }
}

function rules(): string {
  const file = join(folder, 'rules.yaml')
  writeFileSync(file, 'rules: [{ name: a, where: { at: command }, what: { do: drop } }]')
  return file
}

test.each<[string, () => readonly string[]]>([
  ['trace stats', () => ['trace', 'stats', big()]],
  ['trace export', () => ['trace', 'export', '--json', big(), '-o', join(folder, 'out')]],
  ['trace cut', () => ['trace', 'cut', '--to', `${TRAPS - 1}`, '-o', join(folder, 'out'), big()]],
  ['trace diff', () => ['trace', 'diff', big(), big()]],
  ['replay', () => ['replay', big()]],
  ['replay, whose policy loops', () => ['replay', big(), '--policy', looping('access')]],
  ['walk', () => ['walk', '--sid', '8', '--iova', '0', '--recording', big()]],
  [
    'walk, whose policy loops',
    () => ['walk', '--sid', '8', '--iova', '0', '--recording', big(), '--policy', looping('made')],
  ],
])('%s of a large recording', async (_name, args) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    start(args())
    heard()
    await works(0.6)
    await endsInTime(signal === 'SIGTERM' ? BY_TERM : BY_INT, signal)
  }
})

test('trace diff of large recordings, by Ctrl-C on a terminal with a pager', async () => {
  const command = [process.execPath, MAIN, 'trace', 'diff', big(), big()].map(part => `'${part}'`).join(' ')
  run = spawn('script', ['-qec', command, '/dev/null'], {
    cwd: folder,
    env: { ...process.env, TERM: 'xterm', PAGER: 'less', ...mark.env },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  heard()
  await expect.poll(() => [...mark.processes.values()]).toContainEqual(expect.stringMatching(/node.*trace.diff/))
  await sleep(1_500)
  expect(run.exitCode, said).toBe(null)
  const begin = performance.now()
  run.stdin?.write('\x03')
  await once(run, 'exit')
  expect(performance.now() - begin).toBeLessThan(END_MS)
  expect(said).not.toContain('no difference')
})

test('trace show, whose output nobody reads', async () => {
  start(['trace', 'show', big()])
  if (run.stdout !== null) await once(run.stdout, 'readable')
  await sleep(500)
  await endsInTime(BY_TERM)
})

test('a signal reaches what the entry point started', async () => {
  start(['--exec', 'node', MAIN, 'trace', 'show', big()], { program: BOOTSTRAP })
  await expect.poll(() => mark.processes.size).toBe(2)
  await sleep(1_000)
  await endsInTime(BY_TERM)
})

test.each<[string, readonly string[], number]>([
  ['faults check', ['faults', 'check'], BY_TERM],
  ['faults run', ['faults', 'run'], BY_INT],
  ['boot', ['boot', '--faults'], BY_INT],
])('%s, while rules are read on their thread', async (_name, args, code) => {
  start([...args, rules()], { env: loopingThreads() })
  heard()
  await works(2)
  await endsInTime(code)
})

test('serve, while rules are read on their thread', async () => {
  start(['serve', '--port', '0', '--no-sandbox'], { env: loopingThreads() })
  heard()
  await expect.poll(() => said).toMatch(/http:\S+/)
  const url = new URL('/api/v1/faults', /http:\S+/.exec(said)?.[0])
  const headers = { 'content-type': 'application/json' }
  const body = JSON.stringify({ text: readFileSync(rules(), 'utf8') })
  const answer = fetch(url, { method: 'POST', headers, body }).catch(() => {})
  expect(await Promise.race([answer, sleep(2_000, 'none yet')])).toBe('none yet')
  await endsInTime(0)
})

test.each<[string, () => readonly string[]]>([
  [
    'two jobs',
    () => ['--jobs', '2', '--hardware', 'all', '--quirk', 'queues-unshared', '--corpus', join(folder, 'corpus')],
  ],
  ['its policy loops', () => ['--jobs', '2', '--policy', looping('access')]],
  ['its policy loops when cases are performed again', () => ['--policy', looping('access'), '--corpus', CASES]],
  ['its policy loops before there is one', () => ['--jobs', '2', '--policy', looping('made')]],
  ['its policy loops while it is loaded', () => ['--jobs', '2', '--policy', looping('loaded')]],
])('attack: %s', async (_name, args) => {
  start(['attack', '--seconds', '600', ...args()])
  heard()
  await works(2)
  await endsInTime(BY_INT)
})

test('attack, while unit tests run on mutants', async () => {
  start(['attack', '--mutants', '2', '--ops', '1000000000'])
  heard()
  await expect.poll(() => [...mark.processes.values()]).toContainEqual(expect.stringContaining('vitest'))
  await sleep(2_000)
  await endsInTime(BY_INT)
})

test('fuzz', async () => {
  start(['fuzz', '--seconds', '600', '--save', join(folder, 'found')])
  heard()
  await works(2)
  await endsInTime(BY_INT)
})

/** A folder in front of PATH where a program does this. */
function program(name: string, text: string): NodeJS.ProcessEnv {
  const bin = join(folder, 'bin')
  mkdirSync(bin, { recursive: true })
  writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o700 })
  return { PATH: `${bin}:${process.env.PATH}`, XDG_CACHE_HOME: join(folder, 'cache') }
}

test.each<[string, string, readonly string[], number]>([
  ['setup', 'does as it is told', ['setup'], BY_INT],
  ['setup', 'does not end', ['setup'], BY_INT],
  ['boot', 'does not end', ['boot'], BY_INT],
  ['serve', 'does not end', ['serve', '--port', '0', '--no-sandbox', '--start'], 0],
])('%s: while something is downloaded by a program that, told to end, %s', async (_name, how, args, code) => {
  const deaf = how === 'does not end' ? 'trap "" TERM INT HUP' : ''
  const env = program('apt-get', `${deaf}\ntouch ${folder}/begun\nwhile :; do sleep 1; done`)
  start(args, { env })
  heard()
  await expect.poll(() => existsSync(join(folder, 'begun'))).toBe(true)
  await endsInTime(code)
})

test('setup: while another set-up is waited for', async () => {
  const cache = join(folder, 'cache/smmu-cosim')
  mkdirSync(cache, { recursive: true })
  const other = spawn('flock', [join(cache, 'lock'), 'sleep', '600'], { detached: true, stdio: 'ignore' })
  try {
    await sleep(300)
    start(['setup'], { env: { XDG_CACHE_HOME: join(folder, 'cache') } })
    heard()
    await expect.poll(() => said).toContain('waiting for another set-up')
    await endsInTime(BY_INT)
  } finally {
    process.kill(-(other.pid ?? 0), 'SIGKILL')
  }
})
