// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { run } from '../../../scripts/setup/run.ts'

let dir: string
let log: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'smmu-cosim-run-'))
  log = join(dir, 'log/step.log')
})
afterEach(() => rmSync(dir, { recursive: true }))

test('stdout is returned, line by line, and all output is logged', async () => {
  const lines: string[] = []
  const options = { step: 'talking', log, onLine: (line: string) => lines.push(line) }
  expect(await run('sh', ['-c', 'echo one; echo two; echo three >&2'], options)).toBe('one\ntwo')
  expect(lines).toEqual(['one', 'two'])
  expect(readFileSync(log, 'utf8')).toContain('three')
})

test('a failure names step, command and log, and shows what the command said last', async () => {
  const failing = run('sh', ['-c', 'echo why; exit 3'], { step: 'talking', log })
  await expect(failing).rejects.toThrow(
    `talking failed (exit code 3)\n  command: sh -c echo why; exit 3\n  log:     ${log}\n  | why`,
  )
})

test.each([
  ['cp: error writing: No space left on device', 'the disk is full'],
  ['E: Failed to fetch: Could not connect to 127.0.0.1:1 (127.0.0.1)', 'the package mirror cannot be reached'],
  ['sudo: a terminal is required to read the password', 'sudo needs a password'],
])('the reason behind "%s" is told', async (output, reason) => {
  await expect(run('sh', ['-c', `echo "${output}"; false`], { step: 'trying', log })).rejects.toThrow(reason)
})

test('a program that is not there is a failure like others', async () => {
  await expect(run('no-such-program', [], { step: 'trying', log })).rejects.toThrow('trying failed (cannot run it')
})

test('an abort kills the command and its children', async () => {
  const abort = new AbortController()
  let child = 0
  const onLine = (line: string) => {
    child = Number(line)
    abort.abort()
  }
  const script = 'sleep 60 & echo $!; wait'
  await expect(run('sh', ['-c', script], { step: 'sleeping', log, signal: abort.signal, onLine })).rejects.toThrow(
    /abort/,
  )
  await expect.poll(() => isRunning(child)).toBe(false)
})

/** A killed process that nobody has waited for is still there, as a zombie. */
function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}
