// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { GuestConsole } from '../../../server/machine/console.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'smmu-cosim-console-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

test('every byte to the log, whole lines to listeners', async () => {
  const stream = new PassThrough()
  const guest = new GuestConsole(stream, join(folder, 'log'))
  const lines: string[] = []
  guest.on('line', line => lines.push(line))
  stream.write('one\r\ntw')
  stream.write('o\nrest')
  stream.end()
  stream.destroy()
  await expect.poll(() => lines).toEqual(['one', 'two', 'rest'])
  await expect.poll(() => readFileSync(join(folder, 'log'), 'utf8')).toBe('one\r\ntwo\nrest')
})

test('a guest that writes faster than the log waits, and goes on', async () => {
  const path = join(folder, 'log')
  // A log that nobody takes anything of yet.
  execFileSync('mkfifo', [path])
  const stream = new PassThrough()
  const guest = new GuestConsole(stream, path)
  let lines = 0
  guest.on('line', () => lines++)
  const line = `${'x'.repeat(1023)}\n`
  for (let i = 0; i < 1000; i++) stream.write(line)
  await expect.poll(() => stream.isPaused()).toBe(true)
  expect(lines).toBeLessThan(100)
  stream.end()
  const log = await readFile(path, 'latin1')
  expect(log).toHaveLength(1000 * line.length)
  expect(lines).toBe(1000)
}, 20_000)

test('a log that cannot be written to does not stop the guest', async () => {
  const stream = new PassThrough()
  const guest = new GuestConsole(stream, '/dev/full')
  let lines = 0
  guest.on('line', () => lines++)
  for (let i = 0; i < 1000; i++) stream.write(`${'x'.repeat(1023)}\n`)
  await expect.poll(() => lines).toBe(1000)
})

test('nothing is lost on who listens late, while it is held', async () => {
  const stream = new PassThrough()
  const guest = new GuestConsole(stream, join(folder, 'log'))
  guest.hold()
  stream.write('first\n')
  await new Promise(setImmediate)
  const lines: string[] = []
  guest.on('line', line => lines.push(line))
  guest.release()
  stream.write('second\n')
  await expect.poll(() => lines).toEqual(['first', 'second'])
})
