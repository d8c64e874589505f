// SPDX-License-Identifier: Apache-2.0
/** `boot --exec` without a guest: what it is told depends on the terminal, and what becomes of it on who reads. A terminal that a test can
 * resize, and a reader that goes away in the middle, a boot does not have: so the agent is played. */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test, vi } from 'vitest'
import { execute } from '../../../server/cli/exec.ts'
import { type GuestAgent, MachineEnded, type TakeOutput } from '../../../server/machine/guestAgent.ts'

const { stdout } = process
const before = { isTTY: stdout.isTTY, columns: stdout.columns, rows: stdout.rows }
afterEach(() => {
  Object.assign(stdout, before)
  vi.restoreAllMocks()
})

/** An agent that says `output` and ends with code 3, or with 137 when it is told to stop. */
function player(output: string) {
  const scripts: string[] = []
  const agent = {
    ready: Promise.resolve(),
    end: vi.fn(),
    async run(script: string, take: TakeOutput, signal?: AbortSignal): Promise<number> {
      scripts.push(script)
      if (output !== '') await take('stdout', Buffer.from(output))
      return signal?.aborted ? 137 : 3
    },
  }
  return { agent: agent as unknown as GuestAgent, scripts, end: agent.end }
}

test.each([
  ['a terminal', { isTTY: true, columns: 132, rows: 43 }, false, 'export COLUMNS=132 LINES=43\nls'],
  ['a pipe', { isTTY: false, columns: 0, rows: 0 }, false, 'ls'],
  ['a folder that is shared', { isTTY: false, columns: 0, rows: 0 }, true, 'cd /share\nls'],
  ['both', { isTTY: true, columns: 80, rows: 24 }, true, 'export COLUMNS=80 LINES=24\ncd /share\nls'],
])('the guest is told of %s', async (_name, terminal, shared, script) => {
  Object.assign(stdout, terminal)
  const { agent, scripts, end } = player('')
  expect(await execute(agent, 'ls', shared)).toBe(3)
  expect(scripts).toEqual([script])
  expect(end).toHaveBeenCalledOnce()
})

test('output is passed on as it is', async () => {
  const write = vi.spyOn(stdout, 'write').mockImplementation((_chunk, done) => {
    ;(done as unknown as () => void)()
    return true
  })
  const { agent } = player('\x1b[1mbold\0')
  expect(await execute(agent, 'ls', false)).toBe(3)
  expect(String(write.mock.calls[0]?.[0])).toBe('\x1b[1mbold\0')
})

test('a command whose output nobody reads any more is ended', async () => {
  vi.spyOn(stdout, 'write').mockImplementation((_chunk, done) => {
    ;(done as unknown as (error: Error) => void)(new Error('EPIPE'))
    return false
  })
  expect(await execute(player('much').agent, 'yes', false)).toBe(137)
})

test('a machine that ends first', async () => {
  const { agent } = player('')
  const gone = {
    ...agent,
    ready: Promise.reject(new MachineEnded()),
    end: vi.fn(),
  } as unknown as GuestAgent
  expect(await execute(gone, 'ls', false)).toBeUndefined()
})

test('an agent that fails in a machine that runs is an error: nobody else would end that machine', async () => {
  const run = () => Promise.reject(new Error("the guest's agent broke the protocol"))
  const broken = { ...player('').agent, run } as unknown as GuestAgent
  await expect(execute(broken, 'ls', false)).rejects.toThrow('broke the protocol')
})

test('a reader that goes away is no error of the process, also where threads write to standard output', () => {
  const terminal = fileURLToPath(new URL('../../../server/cli/terminal.ts', import.meta.url))
  const script = `
    import { Worker } from 'node:worker_threads'
    import { pass } from ${JSON.stringify(terminal)}
    new Worker('', { eval: true })
    try {
      for (;;) await pass('stdout', Buffer.alloc(65536, 'y'))
    } catch { process.exitCode = 7 }`
  const { stderr, status } = spawnSync(
    'bash',
    ['-c', 'set -o pipefail; "$0" --input-type=module -e "$1" | head -c 1 >/dev/null', process.execPath, script],
    { encoding: 'utf8' },
  )
  expect(stderr).toBe('')
  expect(status).toBe(7)
})
