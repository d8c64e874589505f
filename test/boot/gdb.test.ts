// SPDX-License-Identifier: Apache-2.0
/** A real gdb on a real Linux whose trap is held; who caused a trap, in `break on function` and in a recording. */
import { execFile } from 'node:child_process'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ensureDebugger } from '../../scripts/setup/index.ts'
import type { GdbView, HeldView } from '../../server/api/schemas/lifecycle.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { cosim } from './cli.ts'

const FUNCTION = 'arm_smmu_attach_dev'
const folder = privateFolder(tmpdir(), 'gdb-')
beforeAll(() => ensureDebugger())
afterAll(() => rmSync(folder, { recursive: true }))

/** Carries out the line that was printed, with further commands, and leaves. */
async function gdb(line: string, ...commands: readonly string[]): Promise<string> {
  const rest = [...commands, 'detach'].map(command => `-ex '${command}'`).join(' ')
  const command = line.replace(/^gdb-multiarch /, 'gdb-multiarch -nx -batch ')
  const { stdout, stderr } = await promisify(execFile)('sh', ['-c', `${command} ${rest}`], { timeout: 60_000 })
  return `${stdout}\n${stderr}`
}

test('break in a kernel function, look with gdb at what is held, let it go on; the recording knows who called', async () => {
  const file = join(folder, 'trace')
  const args = ['boot', '--kernel', '7.3', '--gdb', '--call-stacks', '--dashboard', '0', '--quiet', '--record', file]
  const done: { held?: HeldView; view?: GdbView; seen?: string; error?: unknown } = {}

  async function debug(url: string): Promise<void> {
    const api = async (method: string, path: string, body?: object) => {
      const init = body && { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
      const response = await fetch(new URL(`/api/v1/${path}`, url), { method, ...init })
      if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`)
      return response.status === 204 ? undefined : await response.json()
    }
    const held = async (): Promise<HeldView> => {
      for (;;) {
        const found = (await api('GET', 'held')) as HeldView | null
        if (found !== null) return found
        await new Promise(resolve => setTimeout(resolve, 100))
      }
    }
    // The machine is about to be started. Its first trap waits until the functions of its kernel are known.
    while (
      await api('POST', 'break', {}).then(
        () => false,
        () => true,
      )
    ) {
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    await held()
    await api('POST', 'breakpoints', { on: 'function', function: FUNCTION, once: true })
    await api('POST', 'held/release', { action: 'continue' })
    done.held = await held()
    done.view = (await api('POST', 'machine/gdb', {})) as GdbView
    done.seen = await gdb(
      done.view.command,
      'info registers pc',
      'info symbol $pc',
      'x/i $pc',
      'x/s &linux_banner',
      'info symbol *(unsigned long *)($x29 + 8)',
    )
    // By now it is known where the kernel is.
    done.held = await held()
    await api('POST', 'held/release', { action: 'continue' })
  }

  let started = false
  const { report, stdout, stderr, said } = await cosim(args, {
    deadlineMs: 280_000,
    onErrors(text, child) {
      const url = /dashboard at (http:\S+)/.exec(text)?.[1]
      if (url === undefined || started) return
      started = true
      debug(url).catch(error => {
        done.error = error
        child.kill('SIGINT')
      })
    },
  })
  expect(done.error, said).toBeUndefined()
  expect(report?.outcome, said).toBe('ok')

  const { held, view, seen = '' } = done
  const { trap, where = '', callers = [] } = held ?? {}
  expect(where).toMatch(/arm_smmu_/)
  expect(callers.some(caller => caller.startsWith(`${FUNCTION}+`))).toBe(true)
  const pc = trap && (BigInt(trap.pcHi) << 32n) | BigInt(trap.pcLo)
  expect(seen).toContain(`0x${pc?.toString(16)}`)
  // What gdb reads in the file with symbols is what the API says.
  expect(seen).toMatch(new RegExp(`^${where} \\+ \\d+ in section \\.text`, 'm'))
  expect(seen).toMatch(/=> 0x[0-9a-f]+ <[^>]+>:\s+(str|ldr)\s/)
  expect(seen).toContain('Linux version 7.3')
  expect(callers[0]?.split('+')[0]).toBe(
    /^(\S+) (?:\+ \d+ )?in section/gm.exec(seen.slice(seen.indexOf('Linux version')))?.[1],
  )
  // The command line says the same as the API, once it is known where the kernel is.
  expect(`${stdout}${stderr}`).toContain(`gdb with symbols: ${view?.command}`)

  const flame = await cosim(['trace', 'flame', file])
  const stacks = flame.stdout.split('\n').filter(line => line.includes(`;${FUNCTION};`))
  expect(
    stacks.some(line => /;\w*arm_smmu_\w+;W CMDQ_PROD \d+$/.test(line)),
    flame.said,
  ).toBe(true)
  const replayed = await cosim(['replay', file])
  expect(replayed.code, replayed.said).toBe(0)
})
