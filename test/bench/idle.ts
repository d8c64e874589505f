// SPDX-License-Identifier: Apache-2.0
/** What a server costs that has nothing to do: processor time while a guest stands at its prompt. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { MAIN } from './boots.ts'
import type { Context, Part } from './figure.ts'
import { repeat } from './stats.ts'

/** A server that was busy a moment ago may look for its next trap for a while. */
const REST_MS = 5_000
const BOOT_MS = 300_000
/** Of a child that was told to end. */
const END_MS = 30_000
/** Clock ticks a second in /proc: the kernel's constant for programs. */
const TICKS = 100

/** Processor time of all threads of a process, s. */
function processorSeconds(pid: number): number {
  // The name in parentheses may hold anything, spaces too.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / TICKS
}

/** Processor time of the server ÷ time, %, while the guest waits for a line on its console. */
async function idle(seconds: number, signal: AbortSignal): Promise<number> {
  signal.throwIfAborted()
  // No timeout: the guest never ends.
  const args = [MAIN, 'boot', '--timeout', '0', '--append', 'cosim.run=agent']
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] })
  const ended = once(child, 'close')
  const { pid = 0 } = child
  const limit = AbortSignal.any([signal, AbortSignal.timeout(BOOT_MS + REST_MS + 1000 * seconds)])
  const stop = () => child.kill('SIGTERM')
  limit.addEventListener('abort', stop)
  let timer: NodeJS.Timeout | undefined
  try {
    const ready = new Promise<void>(resolve => {
      createInterface(child.stdout).on('line', line => {
        if (line.includes('"event":"ready"')) resolve()
      })
    })
    const late = once(limit, 'abort').then(() => Promise.reject(limit.reason))
    late.catch(() => {})
    await Promise.race([
      ready,
      late,
      ended.then(() => Promise.reject(new Error('the machine ended before its prompt'))),
    ])
    await sleep(REST_MS, undefined, { signal })
    const [begin, before] = [performance.now(), processorSeconds(pid)]
    await sleep(1000 * seconds, undefined, { signal })
    const used = processorSeconds(pid) - before
    return (100_000 * used) / (performance.now() - begin)
  } finally {
    limit.removeEventListener('abort', stop)
    stop()
    timer = setTimeout(() => child.kill('SIGKILL'), END_MS)
    await ended.finally(() => clearTimeout(timer))
  }
}

export async function benchIdle({ scale, signal, say }: Context): Promise<Part> {
  const { idleSeconds } = scale
  // Minutes each: not as often as what takes seconds.
  const values = await repeat(Math.min(scale.pairs, 3), signal, n => {
    say(`idle: run ${n + 1}, ${idleSeconds} s at the prompt`)
    return idle(idleSeconds, signal)
  })
  const what = `server’s processor time at an idle prompt, ${idleSeconds} s`
  return { figures: [{ bench: 'idle', what, unit: '%', a: { label: 'one processor', values }, target: '< 1 %' }] }
}
