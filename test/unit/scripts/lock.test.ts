// SPDX-License-Identifier: Apache-2.0
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'

const cacheHome = mkdtempSync(join(tmpdir(), 'smmu-cosim-lock-'))
let exclusively: typeof import('../../../scripts/setup/lock.ts').exclusively

beforeAll(async () => {
  vi.stubEnv('XDG_CACHE_HOME', cacheHome)
  exclusively = (await import('../../../scripts/setup/lock.ts')).exclusively
})
afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(cacheHome, { recursive: true })
})

test('of two set-ups at the same time the second waits for the first, and says so', async () => {
  const events: string[] = []
  const work = (name: string) => async () => {
    events.push(`${name} begins`)
    await sleep(800)
    events.push(`${name} ends`)
  }
  const notes: string[] = []
  const options = { progress: (line: string) => notes.push(line) }
  await Promise.all([exclusively(options, work('one')), exclusively(options, work('two'))])
  const [first = ''] = events[0]?.split(' ') ?? []
  const second = first === 'one' ? 'two' : 'one'
  expect(events).toEqual([`${first} begins`, `${first} ends`, `${second} begins`, `${second} ends`])
  expect(notes).toEqual(['set-up: waiting for another set-up to finish'])
})

test('the scratch folder is empty at first, and gone after a failure, with the lock', async () => {
  let scratch = ''
  const failing = exclusively({}, async context => {
    scratch = context.scratch
    expect(readdirSync(scratch)).toEqual([])
    writeFileSync(join(scratch, 'half-made'), '')
    throw new Error('no luck')
  })
  await expect(failing).rejects.toThrow('no luck')
  expect(existsSync(scratch)).toBe(false)
  expect(await exclusively({}, async () => 'next')).toBe('next')
})

test('waiting for the lock can be given up', async () => {
  const abort = new AbortController()
  await exclusively({}, async () => {
    const waiting = exclusively({ signal: abort.signal }, async () => 'never')
    setTimeout(() => abort.abort(), 100)
    await expect(waiting).rejects.toThrow(/abort/)
  })
})

test('a full disk and a forbidden folder are errors for the user', async () => {
  const error = (code: string) => Object.assign(new Error(code), { code, path: '/some/where' })
  await expect(exclusively({}, () => Promise.reject(error('ENOSPC')))).rejects.toThrow('the disk is full: /some/where')
  await expect(exclusively({}, () => Promise.reject(error('EACCES')))).rejects.toThrow('cannot write /some/where')
})
