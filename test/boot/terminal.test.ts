// SPDX-License-Identifier: Apache-2.0
/** `boot` and `dev` with `--interactive` on a real terminal: a pseudo-terminal made by script(1). */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { Report } from '../../server/run/runReport.ts'

const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
const BOOT_MS = 120_000
const STEP_MS = 30_000

/** A run of the command line with a terminal of its own. */
class Terminal {
  readonly folder = privateFolder(tmpdir(), 'terminal-')
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  shown = ''

  constructor(subcommand: 'boot' | 'dev', ...args: string[]) {
    const command = [process.execPath, MAIN, subcommand, '--report', join(this.folder, 'report.json'), ...args]
    const quoted = command.map(word => `'${word}'`).join(' ')
    // exec: the signals of the terminal reach the command itself.
    this.child = spawn('script', ['-qfec', `exec ${quoted}`, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.child.stdout?.setEncoding('latin1').on('data', text => {
      this.shown += text
    })
    this.ended = new Promise(resolve => this.child.once('close', resolve))
  }

  type(text: string): void {
    this.child.stdin?.write(text)
  }

  /** Waits for something on the screen, after `from` characters. */
  async sees(what: RegExp, ms = STEP_MS, from = 0): Promise<RegExpExecArray> {
    const end = Date.now() + ms
    for (;;) {
      const found = what.exec(this.shown.slice(from))
      if (found) return found
      if (Date.now() > end)
        throw new Error(`${what} is not on the screen after ${ms / 1000} s:\n${this.shown.slice(-2000)}`)
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }

  get report(): Report {
    return JSON.parse(readFileSync(join(this.folder, 'report.json'), 'utf8')) as Report
  }
}

let terminal: Terminal
afterEach(async () => {
  terminal.child.kill('SIGKILL')
  await terminal.ended
  rmSync(terminal.folder, { recursive: true })
})

/** With the question for the cursor's place that the shell asks its terminal. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: an escape sequence
const PROMPT = /~ # (\x1b\[6n)?$/

test('terminal and dashboard type into one console and both see it; Ctrl-C is the guest’s, Ctrl-] ends', async () => {
  terminal = new Terminal('boot', '--interactive', '--dashboard', '0')
  const [, url = ''] = await terminal.sees(/dashboard at (http:\S+)/, BOOT_MS)
  const socket = new WebSocket(new URL('/api/v1/stream', url.replace('http', 'ws')))
  let streamed = ''
  socket.on('open', () => socket.send(JSON.stringify({ type: 'subscribe', id: '1', stream: 'console', last: 100_000 })))
  socket.on('message', data => {
    const { items = [] } = JSON.parse(String(data)) as { items?: { text: string }[] }
    streamed += items.map(({ text }) => text).join('')
  })
  await terminal.sees(PROMPT, BOOT_MS)
  terminal.type('echo $((40 + 2))-terminal\r')
  await terminal.sees(/^42-terminal/m)
  const answer = await fetch(new URL('/api/v1/machine/console', url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ text: 'echo $((50 + 3))-dashboard\n' }),
  })
  expect(answer.status).toBe(204)
  await terminal.sees(/^53-dashboard/m)
  await expect.poll(() => streamed, { timeout: STEP_MS }).toMatch(/^42-terminal[\s\S]*^53-dashboard/m)

  const before = terminal.shown.length
  terminal.type('echo go-$((1 + 1)); sleep 1000\r')
  await terminal.sees(/^go-2/m, STEP_MS, before)
  // More than once: the first may come before the shell has handed the terminal over.
  const interrupted = () => {
    terminal.type('\x03')
    return PROMPT.test(terminal.shown.slice(before).replace(/^[\s\S]*go-2/, ''))
  }
  await expect.poll(interrupted, { timeout: STEP_MS, interval: 1_000 }).toBe(true)

  terminal.type('\x1d')
  expect(await terminal.ended).toBe(0)
  expect(terminal.report.outcome).toBe('ok')
  // The terminal is as it was: what comes after the raw mode has its line ends.
  expect(terminal.shown).toMatch(/smmu-cosim: ok\r\n/)
  socket.terminate()
})

test.each([
  ['whose next trap is held', '/break', {}],
  ['that stands at a breakpoint', '/breakpoints', { on: 'register', register: 'CMDQ_PROD', access: 'write' }],
])('Ctrl-] ends a machine %s', async (_, path, body) => {
  terminal = new Terminal('boot', '--interactive', '--dashboard', '0')
  const [, url = ''] = await terminal.sees(/dashboard at (http:\S+)/, BOOT_MS)
  await terminal.sees(PROMPT, BOOT_MS)
  const { ok } = await fetch(new URL(`/api/v1${path}`, url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  expect(ok).toBe(true)
  terminal.type('dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct\r')
  const state = async () => ((await (await fetch(new URL('/api/v1/machine', url))).json()) as { state: string }).state
  await expect.poll(state, { timeout: STEP_MS }).toBe('held')
  terminal.type('\x1d')
  expect(await terminal.ended).toBe(0)
  expect(terminal.report.outcome).toBe('ok')
})

test('Ctrl-] ends a machine in the middle of what a breakpoint makes it wait for', async () => {
  terminal = new Terminal('boot', '--interactive', '--dashboard', '0')
  const [, url = ''] = await terminal.sees(/dashboard at (http:\S+)/, BOOT_MS)
  await terminal.sees(PROMPT, BOOT_MS)
  // It never matches: each access is waited for, and none stands.
  const { ok } = await fetch(new URL('/api/v1/breakpoints', url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ on: 'register', register: 'CMDQ_PROD', value: '0xffffffff' }),
  })
  expect(ok).toBe(true)
  terminal.type('echo go-$((1 + 1)); while :; do dd if=/dev/vda of=/dev/null bs=4k iflag=direct 2>/dev/null; done\r')
  await terminal.sees(/^go-2/m)
  terminal.type('\x1d')
  expect(await terminal.ended).toBe(0)
  expect(terminal.report.outcome, terminal.shown.slice(-500)).toBe('ok')
})

test('Ctrl-C ends a machine that nobody types into', async () => {
  terminal = new Terminal('boot', '--dashboard', '0')
  await terminal.sees(/Booting Linux/, BOOT_MS)
  terminal.type('\x03')
  expect(await terminal.ended).toBe(130)
  expect(terminal.report.outcome).toBe('interrupted')
})

test('dev --refused reset: code that cannot go on from the state of the old gets a machine that starts anew', async () => {
  const folder = privateFolder(tmpdir(), 'policy-')
  const policy = join(folder, 'own.ts')
  const pkvm = fileURLToPath(new URL('../../server/hypervisor/pkvm/policy.ts', import.meta.url))
  const own = (name: string) =>
    writeFileSync(
      policy,
      `import { pkvm } from '${pkvm}'\nexport default (machine, context) => pkvm(machine, context, { name: '${name}' })\n`,
    )
  own('one')
  try {
    terminal = new Terminal('dev', '--interactive', '--policy', policy, '--refused', 'reset')
    await terminal.sees(PROMPT, BOOT_MS)
    const before = terminal.shown.length
    own('another')
    await terminal.sees(/runs under policy one[\s\S]*the machine is reset/, STEP_MS, before)
    await terminal.sees(/Booting Linux on physical CPU/, BOOT_MS, before)
    await terminal.sees(PROMPT, BOOT_MS, before)
    terminal.type('\x1d')
    expect(await terminal.ended).not.toBeNull()
    expect(terminal.report.policy).toBe(policy)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
