// SPDX-License-Identifier: Apache-2.0
/** Attacks that are started over the API: a process of their own, what it says, and its end. */
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { afterEach, expect, test } from 'vitest'
import { AttackRun } from '../../../server/api/attackRun.ts'
import { FEATURES, kindOf } from '../../../server/attack/feedback.ts'

let run: AttackRun
afterEach(() => run.close())

const until = async (done: () => boolean): Promise<void> => {
  const end = Date.now() + 60_000
  while (!done()) {
    if (Date.now() > end) throw new Error(`still ${JSON.stringify(run.view())}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

/** Of this process: ids of those that attack. */
function children(): number[] {
  const text = execFileSync('ps', ['-o', 'pid=,args=', '--ppid', String(process.pid)], { encoding: 'utf8' })
  return text
    .split('\n')
    .filter(line => line.includes('attack/process.ts'))
    .map(line => Number.parseInt(line, 10))
}

test('a known defect is found, with the line that decided each step; then it is stopped', async () => {
  run = new AttackRun()
  expect(run.view()).toMatchObject({ state: 'none', run: 0, findings: [] })
  run.start({ quirks: ['queues-unshared'], seed: 1, seconds: 600 })
  expect(run.view()).toMatchObject({ state: 'running', run: 1, options: { quirks: ['queues-unshared'], seed: 1 } })
  expect(() => run.start({})).toThrow('an attack runs already')
  const [pid] = children()
  await until(() => run.view().found > 0 && run.view().operations > 0)
  // The lowest priority, and its threads as well.
  const niceOf = (path: string) => readFileSync(`${path}/stat`, 'utf8').split(') ')[1].split(' ')[16]
  expect(niceOf(`/proc/${pid}`)).toBe('19')
  const tasks = readdirSync(`/proc/${pid}/task`).map(task => niceOf(`/proc/${pid}/task/${task}`))
  expect(tasks.filter(nice => nice === '19').length).toBeGreaterThan(1)
  const { operations, judged, coverage, corpus, findings } = run.view()
  expect([operations, judged, corpus].every(n => n > 0)).toBe(true)
  expect(coverage.map(({ what }) => what)).toEqual([...FEATURES])
  expect(coverage.every(({ count }) => count >= 0) && coverage.some(({ count }) => count > 0)).toBe(true)
  const { lines } = run.finding(findings[0].n)
  expect(lines.some(line => /decided at server\/hypervisor\/pkvm\/\w+\.ts:\d+/.test(line))).toBe(true)
  expect(lines.some(line => line.startsWith('found: '))).toBe(true)
  expect(() => run.finding(10 ** 6)).toThrow('no finding 1000000 is kept')
  await run.stop()
  expect(run.view()).toMatchObject({ state: 'done', message: null })
  expect(children()).toEqual([])
  await expect(run.stop()).rejects.toThrow('no attack runs')
})

test('one that comes to its end by itself, and another after it', async () => {
  run = new AttackRun()
  for (const n of [1, 2]) {
    run.start({ seed: 3, seconds: 1, hardware: ['msi'] })
    await until(() => run.view().state === 'done')
    expect(run.view()).toMatchObject({ run: n, found: 0, findings: [] })
    expect(run.view().programs).toBeGreaterThan(0)
  }
})

test('tables of EL2 that are shared', async () => {
  run = new AttackRun()
  run.start({ seed: 3, seconds: 600, hardware: ['ats'], stage2: 'shared', populate: 'never' })
  await until(() => run.view().judged > 0)
  expect(run.view()).toMatchObject({ options: { stage2: 'shared', populate: 'never' }, found: 0 })
  // What EL2 does shows as transfers of pages, which nobody else makes here.
  await until(() => (run.view().coverage[FEATURES.indexOf('transfer of pages and its result')]?.count ?? 0) > 0)
  await run.stop()
  // The hypervisor's own tables, by name.
  run.start({ seed: 3, seconds: 600, stage2: 'own' })
  await run.stop()
  expect(run.view()).toMatchObject({ state: 'done', options: { stage2: 'own' } })
})

test('a process that is killed: why, and nothing is left', async () => {
  run = new AttackRun()
  run.start({ seconds: 600 })
  await until(() => run.view().operations > 0)
  process.kill(children()[0], 'SIGKILL')
  await until(() => run.view().state === 'failed')
  expect(run.view().message).toMatch(/^its process ended with SIGKILL/)
  expect(children()).toEqual([])
})

test.each([
  [{ quirks: ['queue-unshared'] }, /did you mean queues-unshared\?/],
  [{ policy: 'own' }, /the server was started without a policy file/],
  [{ populate: 'never' }, /populate: only with stage2 shared/],
  [{ stage2: 'shared', policy: 'passthrough' }, /policy passthrough has no second stage/],
  [{ stage2: 'shared', until: 'strtab' }, /until strtab there is no second stage/],
  [{ stage2: 'shared', blocks: true }, /EL2 says what is mapped in blocks/],
  [{ stage2: 'shared', power: 'any' }, /not with power/],
] as const)('%j is refused', (body, reason) => {
  run = new AttackRun()
  expect(() => run.start(body)).toThrow(reason)
  expect(run.view().state).toBe('none')
})

test('a policy file that fails says why', async () => {
  run = new AttackRun('/nowhere/policy.ts')
  run.start({ policy: 'own' })
  await until(() => run.view().state === 'failed')
  expect(run.view().message).toBe('policy file /nowhere/policy.ts does not exist')
})

test('a feature tells what it is about', () => {
  expect([0, 0x2000_0000, 0xffff_ffff].map(kindOf)).toEqual([0, 1, 7])
})
