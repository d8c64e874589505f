// SPDX-License-Identifier: Apache-2.0
/** The measurement of a queue's throughput is ended in the middle: nothing of it stays. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { privateFolder } from '../../server/machine/scratch.ts'

const THROUGHPUT = fileURLToPath(new URL('./throughput.ts', import.meta.url))

const folder = privateFolder(tmpdir(), 'ended-')
afterAll(() => rmSync(folder, { recursive: true }))

/** Of a process, in /proc; undefined: it has ended. */
function read(pid: string | number, name: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8')
  } catch {
    return undefined
  }
}

/** One that has ended may be there until its parent has asked for it. */
const runs = (pid: string): boolean => !/\) (Z|X) \d+ /.test(read(pid, 'stat') ?? ') X 0 ')

/** All processes that a process has started, and those have, with what they are called with. */
function descendants(of: string): { readonly pid: string; readonly words: string }[] {
  const parents = readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(pid => ({ pid, parent: /\) \w (\d+) /.exec(read(pid, 'stat') ?? '')?.[1] }))
  const below = (pid: string): string[] =>
    parents.filter(({ parent }) => parent === pid).flatMap(child => [child.pid, ...below(child.pid)])
  return below(of).map(pid => ({ pid, words: (read(pid, 'cmdline') ?? '').replaceAll('\0', ' ') }))
}

test.each(['SIGTERM', 'SIGINT'] as const)('%s ends its workers, their processes, and its Redis', async name => {
  const scratch = join(folder, name)
  mkdirSync(scratch)
  const child = spawn(process.execPath, [THROUGHPUT, '10000', '2', '1'], {
    env: { ...process.env, TMPDIR: scratch },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  // Not `close`: what stays behind holds its standard error.
  const ended = once(child, 'exit')
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  let all: ReturnType<typeof descendants> = []
  try {
    await expect
      .poll(() => {
        all = descendants(String(child.pid))
        return ['redis-server', 'workerProcess', 'stubProcess'].filter(what => all.some(p => p.words.includes(what)))
      })
      .toHaveLength(3)
    child.kill(name)
    const [code] = await ended
    expect([code, said]).toEqual([130, 'smmu-cosim: interrupted\n'])
    // Processes of a worker's jobs end when they notice that it has gone.
    await expect.poll(() => all.filter(({ pid }) => runs(pid))).toEqual([])
    expect(readdirSync(scratch)).toEqual([])
  } finally {
    child.kill('SIGKILL')
    for (const { pid, words } of all)
      if (runs(pid) && read(pid, 'cmdline')?.replaceAll('\0', ' ') === words) process.kill(Number(pid), 'SIGKILL')
  }
})
