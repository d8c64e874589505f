// SPDX-License-Identifier: Apache-2.0
/** What may come over a queue: jobs and results are data, and nothing else than what the schema says. */
import { createHash } from 'node:crypto'
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { FEATURES } from '../../../server/attack/feedback.ts'
import type { WorkerOptions } from '../../../server/attack/messages.ts'
import { catalogue } from '../../../server/faults/catalogue.ts'
import { filesOf, MOST_BYTES } from '../../../server/fleet/artefacts.ts'
import { attackResult, attackWork } from '../../../server/fleet/attack.ts'
import { cellOf, cellResult, cellWork } from '../../../server/fleet/cell.ts'
import { difference, sourceIdentity } from '../../../server/fleet/identity.ts'
import { checkJob, deadlineOf } from '../../../server/fleet/job.ts'
import { filesFor, Own, type OwnOptions } from '../../../server/fleet/own.ts'
import { lostSession, sessionJob, sessionResult, sessionWork } from '../../../server/fleet/session.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { planOf } from '../../../server/sessions/database.ts'
import type { Cell } from '../../../server/sessions/matrix.ts'
import { firedOf } from '../../../server/sessions/verdict.ts'
import { IMAGE_MAGIC } from '../../../server/trace/kernelImage.ts'

const folder = privateFolder(tmpdir(), 'job-')
afterAll(() => rmSync(folder, { recursive: true }))

const IDENTITY = { source: 'a'.repeat(20), qemu: 'b'.repeat(20), kernel: 'c'.repeat(64) }
const OWN: OwnOptions = { jobs: 1, kernels: [], qemuArgs: [], ramDir: 'memory', transport: 'auto', sandbox: true }
const [plain] = planOf(catalogue(), ['6.12'], ['nested'], [1])
const work = sessionWork(plain)

describe('jobs', () => {
  test('every entry of the catalogue is one, and is the same on a worker', () => {
    for (const job of planOf(catalogue(), ['6.12'], ['nested'], [1, 2])) {
      const sent = checkJob(JSON.parse(JSON.stringify({ identity: IDENTITY, work: sessionWork(job) })))
      if (sent.work.do !== 'session') throw new Error('another kind')
      expect(sessionJob(sent.work, { kernel: job.kernel })).toEqual(job)
    }
  })

  test('paths of the sender stay with it', () => {
    const entry = { ...plain.entry, source: '/home/me/mine.yaml' }
    const machine = { modules: '/m', initrd: '/i', append: 'debug', qemuArgs: ['-d'] }
    const sent = sessionWork({ ...plain, entry, machine })
    expect(JSON.stringify(sent)).not.toMatch(/mine|"\/m"|"\/i"/)
    const own = { modules: '/mine/m', initrd: '/mine/i' }
    expect(sessionJob(sent, { kernel: '/mine/Image', ...own }).machine).toEqual({
      ...{ ...own, append: 'debug', qemuArgs: ['-d'] },
    })
    expect(filesFor('/mine/Image', own)).toEqual(own)
    // Debian's kernels have their own modules.
    expect(filesFor('6.1', own)).toEqual({ initrd: '/mine/i' })
  })

  test.each([
    ['nothing', null],
    ['no identity', { work }],
    ['a kind that there is not', { identity: IDENTITY, work: { ...work, do: 'exec' } }],
    ['a word more', { identity: IDENTITY, work: { ...work, module: '/tmp/x.ts' } }],
    ['a path in it', { identity: IDENTITY, work: { ...work, qemu: '/bin/sh' } }],
    ['a device that there is not', { identity: IDENTITY, work: { ...work, devices: ['vfio-pci'] } }],
    [
      'a rule that is none',
      { identity: IDENTITY, work: { ...work, entry: { ...work.entry, rules: [{ do: 'eval' }] } } },
    ],
    ['too many words', { identity: IDENTITY, work: { ...work, qemuArgs: Array(65).fill('-d') } }],
    ['a hash that is none', { identity: { ...IDENTITY, kernel: '../x' }, work }],
  ])('%s: refused', (_what, data) => {
    expect(() => checkJob(data)).toThrow(/^no job: \//)
  })
})

describe('a worker', () => {
  const signal = new AbortController().signal

  test('refuses other code, and tells both hashes', async () => {
    const own = await sourceIdentity()
    expect(await new Own(OWN, signal).answer({ identity: IDENTITY, work }, signal)).toEqual({
      refused: `source tree: the job is of ${IDENTITY.source}, this worker has ${own}`,
    })
  })

  test('refuses words for QEMU that it was not started with', async () => {
    const identity = { ...IDENTITY, source: await sourceIdentity() }
    const asked = { ...work, qemuArgs: ['-drive', 'file=/etc/passwd'] }
    expect(await new Own(OWN, signal).answer({ identity, work: asked }, signal)).toEqual({
      refused:
        'the job asks for --qemu-arg=-drive --qemu-arg=file=/etc/passwd, this worker was started with no --qemu-arg',
    })
  })

  test('refuses a machine with more RAM than there is', async () => {
    const identity = { ...IDENTITY, source: await sourceIdentity() }
    const machine = { policy: 'pkvm', memory: '4096T', smp: 1, timeout: 300 }
    const asked = cellWork({
      ...{ kernel: '6.12', devices: ['ahci'], until: 'nested', translate: 'hardware', granule: 4096, machine },
    })
    expect(await new Own(OWN, signal).answer({ identity, work: asked }, signal)).toEqual({
      refused: expect.stringMatching(
        /^a machine with 4,194,304.0 GiB of RAM takes 4,194,304.4 GiB; there are [\d.]+ GiB$/,
      ),
    })
    // More than a half of it.
    const half = { ...asked, memory: `${Math.ceil(totalmem() / 2 ** 21) + 1}M` }
    expect(await new Own({ ...OWN, jobs: 2 }, signal).answer({ identity, work: half }, signal)).toEqual({
      refused: expect.stringMatching(/there are [\d.]+ GiB, [\d.]+ GiB for each of 2 at a time$/),
    })
  })

  test('tries set-up again that failed, and does not give it up with a job', async () => {
    const identity = { ...IDENTITY, source: await sourceIdentity() }
    const worker = new AbortController()
    const job = new AbortController()
    const signals: unknown[] = []
    const image = join(folder, 'tried')
    const header = Buffer.alloc(64)
    header.write(IMAGE_MAGIC, 56)
    writeFileSync(image, header)
    const kernel = createHash('sha256').update(header).digest('hex')
    let tries = 0
    const mine = new Own({ ...OWN, kernels: [image] }, worker.signal, undefined, async options => {
      signals.push(options?.signal)
      if (++tries === 1) throw new Error('no network')
      return image
    })
    const ask = () => mine.answer({ identity: { ...identity, kernel }, work: { ...work, kernel: image } }, job.signal)
    await expect(ask()).rejects.toThrow('no network')
    // A binary without a record of what it was built from has its hash.
    expect(await ask()).toEqual({ refused: `QEMU: the job is of ${IDENTITY.qemu}, this worker has ${kernel}` })
    await ask()
    expect(signals).toEqual([worker.signal, worker.signal])
  })

  test('refuses a kernel that it was not given, wherever it lies', async () => {
    const identity = { ...IDENTITY, source: await sourceIdentity() }
    const image = join(folder, 'Image')
    writeFileSync(image, 'no matter')
    const answer = await new Own(OWN, signal).answer({ identity, work: { ...work, kernel: image } }, signal)
    expect(answer).toEqual({
      refused: `kernel: the job is of ${IDENTITY.kernel} (${image}), --kernel of this worker is none, and it has no --kernels-from`,
    })
  })
})

describe('identities', () => {
  test('of the source tree: the same for the same content, and another one when a file changes', async () => {
    const root = join(folder, 'tree')
    for (const name of ['protocol', 'qemu-patches', 'scripts', 'server/web', 'server/smmu']) {
      mkdirSync(join(root, name), { recursive: true })
    }
    for (const name of ['package.json', 'package-lock.json', 'server/smmu/a.ts']) writeFileSync(join(root, name), '1')
    const before = await sourceIdentity(root)
    expect(before).toMatch(/^[0-9a-f]{20}$/)
    writeFileSync(join(root, 'server/README.md'), 'words')
    writeFileSync(join(root, 'server/web/a.ts'), 'dashboard')
    expect(await sourceIdentity(root)).toBe(before)
    writeFileSync(join(root, 'server/smmu/a.ts'), '2')
    const after = await sourceIdentity(root)
    expect(after).not.toBe(before)
    writeFileSync(join(root, 'server/smmu/b.ts'), '')
    expect(await sourceIdentity(root)).not.toBe(after)
  })

  test('what differs is told with both hashes', () => {
    expect(difference(IDENTITY, IDENTITY)).toBe('')
    expect(difference(IDENTITY, { ...IDENTITY, qemu: 'd'.repeat(20), initrd: 'e'.repeat(64) })).toBe(
      `QEMU: the job is of ${IDENTITY.qemu}, this worker has ${'d'.repeat(20)}; ` +
        `initramfs: the job is of none, this worker has ${'e'.repeat(64)}`,
    )
  })
})

describe('results', () => {
  const { folder: _, asExpected: __, ...result } = lostSession('why', '/there')

  test('whether one is as expected is not for the worker to say', () => {
    const sent = { ...result, verdict: 'recovered', asExpected: true, folder: '/etc' }
    const entry = { ...plain.entry, expect: 'io-error' as const }
    expect(sessionResult(sent, { ...plain, entry }, '/here')).toMatchObject({
      ...{ verdict: 'recovered', asExpected: false, folder: '/here' },
    })
  })

  test('what a session keeps of a rule that fired is one, whatever the control thread had to do about it', () => {
    const firing = { rule: 'r', n: 1, trap: 2, time: 3, what: 'reset' }
    const actions = [undefined, { do: 'reset' }, { do: 'pause', ms: 20 }] as const
    const firings = actions.map(action => firedOf({ ...firing, ...(action && { action }) }))
    const sent = { ...result, evidence: { ...result.evidence, firings } }
    expect(sessionResult(sent, plain, '/here').evidence.firings).toEqual([firing, firing, firing])
  })

  test.each([
    ['nothing', undefined],
    ['a verdict that there is not', { ...result, verdict: 'fine' }],
    ['a console that is none', { ...result, console: [1] }],
    ['a time before it began', { ...result, ms: -1 }],
    ['too many lines', { ...result, trace: Array(1001).fill('') }],
  ])('%s: refused', (_what, value) => {
    expect(() => sessionResult(value, plain, '/here')).toThrow('no result of a session')
  })
})

describe('an attack', () => {
  const thread: WorkerOptions = {
    ...{ policy: 'pkvm', quirks: [], until: 'nested', hardware: ['ats'], seed: 1, seconds: 10, operations: undefined },
    known: [{ kind: 'x', why: 'y', case: '/home/me/case.json' }],
    programs: Array.from({ length: 10_000 }, (_, seed) => ({
      ...{ mode: 'hostile' as const, seed, interleaving: 0, operations: [{ name: 'boot', seed }] },
    })),
  }

  test('is a job, with the newest of its programs that there is room for, and no path', () => {
    const { work } = checkJob(
      JSON.parse(JSON.stringify({ identity: { source: IDENTITY.source }, work: attackWork(thread) })),
    )
    if (work.do !== 'attack') throw new Error('another kind')
    expect(JSON.stringify(work)).not.toContain('/home/me')
    expect(JSON.stringify(work.programs).length).toBeLessThan(300_000)
    expect(work.programs.at(-1)).toEqual(thread.programs.at(-1))
    expect(work.programs.length).toBeGreaterThan(1000)
  })

  test('without an end is none', () => {
    const { seconds: _, ...endless } = attackWork({ ...thread, programs: [] })
    const identity = { source: IDENTITY.source }
    expect(() => checkJob({ identity, work: endless })).toThrow('neither seconds nor operations')
    expect(deadlineOf({ ...endless, operations: 1000 })).toBeLessThan(deadlineOf({ ...endless, operations: 10_000 }))
    expect(deadlineOf({ ...endless, seconds: 1000 })).toBeGreaterThan(1000)
    // Of a session: four times its own, where others use the processors.
    const long = { ...work, entry: { ...work.entry, session: { timeout: 86_400 } } }
    expect(deadlineOf(long)).toBeGreaterThan(4 * 86_400)
  })

  test('of a policy in a file is none: that is code', () => {
    expect(() => attackWork({ ...thread, policy: '/tmp/policy.ts' })).toThrow('workers have the policies')
    const work = { ...attackWork(thread), policy: '/tmp/policy.ts' }
    expect(() => checkJob({ identity: { source: IDENTITY.source }, work })).toThrow('no job')
  })

  test('a result without the case that it speaks of is none', () => {
    const stats = {
      ...{ steps: 0, operations: 0, cases: 0, judged: 0, features: 0, corpus: 0, cleans: 0, cleanedLines: 0, lost: 0 },
      ...{ coverage: FEATURES.map(() => 0), kinds: [['dma', 1]] },
    }
    expect(attackResult({ stats, seconds: [], programs: [] }, []).stats.kinds.get('dma')).toBe(1)
    expect(() => attackResult({ stats, seconds: [1], programs: [] }, [])).toThrow('case-000.json is missing')
    expect(() =>
      attackResult({ stats, seconds: [1], programs: [] }, [{ name: 'case-000.json', bytes: Buffer.from('{}') }]),
    ).toThrow('case-000.json: /')
    expect(() => attackResult({ stats, seconds: [], programs: [{ mode: 'eval' }] }, [])).toThrow('no programs')
  })
})

test('a cell is the same on a worker, with the files of the worker', () => {
  const machine = { policy: 'pkvm', memory: '1G', smp: 1, timeout: 300, modules: '/m', append: 'debug' }
  const cell: Cell = {
    ...{ kernel: '/home/me/Image', devices: ['ahci'], until: 'nested', translate: 'hardware', granule: 4096, machine },
  }
  const { work } = checkJob(JSON.parse(JSON.stringify({ identity: IDENTITY, work: cellWork(cell) })))
  if (work.do !== 'cell') throw new Error('another kind')
  const { modules: _, ...rest } = machine
  expect(cellOf(work, { kernel: '/mine/Image', modules: '/mine/m' })).toEqual({
    ...{ ...cell, kernel: '/mine/Image', machine: { ...rest, modules: '/mine/m' } },
  })
  expect(() => cellWork({ ...cell, machine: { ...machine, policy: '/tmp/p.ts' } })).toThrow('workers have the policies')
  expect(() => cellResult({ verdict: 'fine' })).toThrow('no result of a cell')
})

test('files of a job: no links, no folders, no names that lead elsewhere; of a long log, its end', () => {
  const left = join(folder, 'left')
  mkdirSync(join(left, 'sub'), { recursive: true })
  writeFileSync(join(left, 'console.log'), Buffer.alloc(MOST_BYTES + 10, 'x'))
  writeFileSync(join(left, 'long.json'), Buffer.alloc(MOST_BYTES + 10, 'x'))
  writeFileSync(join(left, 'report.json'), '{}')
  writeFileSync(join(left, '.lock'), '')
  symlinkSync('/etc/passwd', join(left, 'secret.log'))
  const found = filesOf(left)
  expect(found.map(({ name, bytes }) => [name, bytes.length])).toEqual([
    ['console.log', MOST_BYTES],
    ['report.json', 2],
  ])
})
