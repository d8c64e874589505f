// SPDX-License-Identifier: Apache-2.0
/** Recordings and files that requests name: what is in the folder, and nothing besides. */
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { beforeEach, describe, expect, test } from 'vitest'
import { createApp } from '../../../server/api/app.ts'
import { MachineManager } from '../../../server/api/machineManager.ts'
import { fileNames, namedFile } from '../../../server/api/namedFiles.ts'
import { Recordings } from '../../../server/api/recordings.ts'
import { LockedFolder } from '../../../server/machine/lockedFolder.ts'
import { Database } from '../../../server/sessions/database.ts'
import { campaignFile } from '../sessions/campaignFile.ts'
import { bootRecording, folder, scriptedBoot } from '../trace/synthetic.ts'

let base: string
let runs: string
beforeEach(() => {
  base = folder()
  runs = join(base, 'runs')
  mkdirSync(runs)
})

async function run(name: string, rounds = 2): Promise<void> {
  mkdirSync(join(runs, name))
  await bootRecording(join(runs, name, 'trace'), {}, bench => scriptedBoot(bench, rounds))
}

describe('recordings', () => {
  test('the newest first; what is none is left out', async () => {
    await run('2026-01-01')
    await run('2026-01-02')
    mkdirSync(join(runs, '2026-01-03'))
    writeFileSync(join(runs, '2026-01-03', 'trace'), 'no recording')
    mkdirSync(join(runs, '2026-01-04'))
    const list = await new Recordings(runs).list()
    expect(list.map(({ name }) => name)).toEqual(['2026-01-02', '2026-01-01'])
    expect(list[0]).toMatchObject({ policy: 'pkvm', kernel: '6.12.0-test-arm64', bytes: expect.any(Number) })
  })

  test('no folder, no campaigns', async () => {
    const none = new Recordings(join(base, 'nowhere', 'runs'))
    expect([await none.list(), none.campaigns()]).toEqual([[], []])
  })

  test('a link leads to nothing that could be read', async () => {
    await run('real')
    symlinkSync(join(runs, 'real'), join(runs, 'linked-folder'))
    mkdirSync(join(runs, 'linked-file'))
    symlinkSync(join(runs, 'real', 'trace'), join(runs, 'linked-file', 'trace'))
    const recordings = new Recordings(runs)
    expect((await recordings.list()).map(({ name }) => name)).toEqual(['real'])
    for (const name of ['linked-folder', 'linked-file']) {
      expect(() => recordings.replay(name)).toThrow(`no recording ${name}`)
      await expect(recordings.file(name)).rejects.toThrow(`no recording ${name}`)
    }
  })

  test('as a file: what is on the disk', async () => {
    await run('real')
    const parts: Buffer[] = []
    for await (const part of await new Recordings(runs).file('real')) parts.push(part)
    expect(Buffer.concat(parts)).toEqual(readFileSync(join(runs, 'real', 'trace')))
  })

  test.each(['..', '.', '', '../runs/real', 'real/../real', '/etc', 'real\0', '.hidden'])(
    '%j is no name',
    async name => {
      await run('real')
      expect(() => new Recordings(runs).replay(name)).toThrow(/^no recording/)
      expect(() => new Recordings(runs).compare('real', name)).toThrow(/^no recording/)
      await expect(new Recordings(runs).file(name)).rejects.toThrow(/^no recording/)
    },
  )

  test('replayed: the same decisions; one at a time', async () => {
    await run('a')
    const recordings = new Recordings(runs)
    const first = recordings.replay('a')
    await expect(recordings.replay('a')).rejects.toMatchObject({ status: 409 })
    const { same, lines } = await first
    expect(lines.join('\n')).toMatch(/traps replayed in/)
    expect(same).toBe(true)
  })

  test('the server ends: a replay does not keep it', async () => {
    await run('a')
    const manager = new MachineManager({ runsFolder: runs })
    const replay = manager.recordings.replay('a')
    const refused = expect(replay).rejects.toMatchObject({ status: 503, message: 'the server ends' })
    await manager.close()
    await refused
  })

  test('what cannot be replayed is no difference: it says why', async () => {
    mkdirSync(join(runs, 'own'))
    await bootRecording(join(runs, 'own', 'trace'), {}, bench => scriptedBoot(bench, 1), { policy: '/x/own.ts' })
    await expect(new Recordings(runs).replay('own')).rejects.toMatchObject({
      status: 422,
      message: expect.stringMatching(/a policy of its own/),
    })
  })

  test.each([1, 300, 5_000])(
    'of a machine that runs it is said that it runs, wherever it ends: %i bytes fewer',
    async less => {
      const folder = LockedFolder.make(runs, '2026-01-01')
      const name = basename(folder.path)
      const path = join(folder.path, 'trace')
      await bootRecording(path, {}, bench => scriptedBoot(bench, 2))
      truncateSync(path, statSync(path).size - less)
      const recordings = new Recordings(runs)
      const itRuns = `smmu-cosim: ${path}: its machine runs: this is what was recorded so far`
      const replayed = await recordings.replay(name)
      expect(replayed).toMatchObject({ same: true, lines: expect.arrayContaining([itRuns, 'no difference']) })
      expect(replayed.lines.join('\n')).not.toMatch(/cut off|not ended/)
      expect(await recordings.compare(name, name)).toEqual({ same: true, lines: [itRuns, itRuns, 'no difference'] })
      // Of one that was killed there is nothing more to come.
      folder.release()
      await expect(recordings.replay(name)).rejects.toMatchObject({
        status: 422,
        message: expect.stringMatching(/cut off/),
      })
    },
  )

  test('what is damaged, or was killed, is no difference either, and is told', async () => {
    await run('a', 2)
    await run('b', 3)
    for (const name of ['a', 'b']) {
      const path = join(runs, name, 'trace')
      truncateSync(path, statSync(path).size - 1)
    }
    const recordings = new Recordings(runs)
    const refused = {
      status: 422,
      message: expect.stringMatching(/damaged or cut off; no difference in what can be read$/),
    }
    await expect(recordings.replay('a')).rejects.toMatchObject(refused)
    await expect(recordings.compare('a', 'a')).rejects.toMatchObject(refused)
    const { same, lines } = await recordings.compare('a', 'b')
    expect(same).toBe(false)
    expect(lines[0]).toMatch(/^smmu-cosim: .*b\/trace: byte [0-9]+: the end of the file is damaged or cut off$/)
    expect(lines).toContainEqual(expect.stringMatching(/^--- /))
  })

  test('compared: none with itself, one with another', async () => {
    await run('a', 2)
    await run('b', 3)
    const recordings = new Recordings(runs)
    expect(await recordings.compare('a', 'a')).toEqual({ same: true, lines: ['no difference'] })
    const { same, lines } = await recordings.compare('a', 'b')
    expect(same).toBe(false)
    expect(lines[0]).toMatch(/^--- /)
  })

  test('campaigns of the database beside the folder, the newest first', () => {
    const path = join(base, 'campaigns.db')
    const database = new Database(path)
    const first = database.begin('faults campaign a', [])
    database.finish(first)
    database.begin('faults campaign b', [])
    database.close()
    chmodSync(path, 0o444)
    const before = readFileSync(path)
    expect(new Recordings(runs).campaigns()).toMatchObject([
      { id: 2, what: 'faults campaign b', finished: null, planned: 0, done: 0 },
      { id: 1, what: 'faults campaign a', finished: expect.any(String) },
    ])
    // Nothing is written, and nothing is made beside it.
    expect(readFileSync(path)).toEqual(before)
    expect(readdirSync(base).sort()).toEqual(['campaigns.db', 'runs'])
    const { DatabaseSync } = process.getBuiltinModule('node:sqlite')
    chmodSync(path, 0o644)
    const raw = new DatabaseSync(path)
    raw.exec("UPDATE campaigns SET what = 'other' WHERE id = 1")
    raw.close()
    const refused = {
      status: 422,
      message: expect.stringMatching(/campaigns.db is damaged .*campaign 1 has another sum/),
    }
    expect(() => new Recordings(runs).campaigns()).toThrow(expect.objectContaining(refused))
  })

  test('a database that is being written is not waited for long', () => {
    const path = join(base, 'campaigns.db')
    new Database(path).close()
    const { DatabaseSync } = process.getBuiltinModule('node:sqlite')
    const writer = new DatabaseSync(path)
    writer.exec('BEGIN EXCLUSIVE')
    const start = performance.now()
    expect(() => new Recordings(runs).campaigns()).toThrow(/database is locked/)
    expect(performance.now() - start).toBeLessThan(5_000)
    writer.close()
  })

  test('the newest 200, packed ones too, and no more is read of any than its beginning', async () => {
    await run('2026-01-01')
    const recorded = readFileSync(join(runs, '2026-01-01', 'trace'))
    for (let i = 0; i < 210; i++) {
      const name = `2026-02-${String(i).padStart(3, '0')}`
      mkdirSync(join(runs, name))
      writeFileSync(join(runs, name, 'trace'), i === 209 ? gzipSync(recorded) : recorded)
    }
    // A hole of 64 GiB behind it.
    truncateSync(join(runs, '2026-02-208', 'trace'), 2 ** 36)
    const names = (await new Recordings(runs).list()).map(({ name }) => name)
    expect(names).toHaveLength(200)
    expect([names[0], names[1], names.at(-1)]).toEqual(['2026-02-209', '2026-02-208', '2026-02-010'])
  })

  test('a database that is none is told', () => {
    writeFileSync(join(base, 'campaigns.db'), 'no database at all. '.repeat(100))
    const refused = { status: 422, message: expect.stringMatching(/campaigns.db is damaged .*not a database/) }
    expect(() => new Recordings(runs).campaigns()).toThrow(expect.objectContaining(refused))
  })
})

describe('campaigns', () => {
  const ask = async (url: string) => {
    const manager = new MachineManager({ runsFolder: runs })
    const { app } = await createApp({ manager, access: { host: '127.0.0.1' }, version: 'test' })
    const { statusCode, body } = await app.inject({ url: `/api/v1${url}`, headers: { host: '127.0.0.1' } })
    await app.close()
    await manager.close()
    return { status: statusCode, json: JSON.parse(body) as unknown }
  }
  const path = () => join(base, 'campaigns.db')

  test('what came of the sessions of one, with what was expected of each', async () => {
    campaignFile(path())
    expect(await ask('/campaigns')).toMatchObject({
      json: {
        items: [
          { id: 3, done: 0 },
          { id: 2, planned: 10, done: 10, asExpected: 2 },
          { id: 1, asExpected: 10 },
        ],
      },
    })
    const { status, json } = await ask('/campaigns/2')
    expect([status, json]).toMatchObject([200, { id: 2, what: 'after', planned: 10, done: 10, asExpected: 2 }])
    const { sessions } = json as { sessions: object[] }
    expect(sessions).toHaveLength(10)
    const one = { entry: 'tlbi-late', kernel: '6.12', until: 'nested', ms: 1500, expected: ['recovered'] }
    expect([sessions[0], sessions[9]]).toEqual([
      { ...one, seed: 1, verdict: 'guest-hung', asExpected: false },
      { ...one, seed: 10, verdict: 'recovered', asExpected: true },
    ])
  })

  test('what has changed from one to another', async () => {
    campaignFile(path())
    expect(await ask('/campaigns/1/compare/2')).toMatchObject({
      status: 200,
      json: {
        same: false,
        lines: [
          expect.stringMatching(
            /^tlbi-late 6\.12 nested: worse, p = [\d.]+: recovered 10 → guest-hung 8, recovered 2; /,
          ),
          expect.stringMatching(/^flaky: /),
          expect.stringMatching(/^0 the same, 1 different, of these 1 worse and 0 better by more than chance/),
        ],
      },
    })
    expect(await ask('/campaigns/2/compare/2')).toMatchObject({ json: { same: true } })
  })

  test.each([
    ['/campaigns/4', 404, 'no campaign 4'],
    ['/campaigns/9007199254740993', 404, 'no campaign 9007199254740992'],
    ['/campaigns/1/compare/4', 404, 'no campaign 4'],
    ['/campaigns/4/compare/1', 404, 'no campaign 4'],
    ['/campaigns/0', 400, 'params/id must be >= 1'],
    ['/campaigns/-1', 400, 'params/id must be >= 1'],
    ['/campaigns/1.5', 400, 'params/id must be integer'],
    ['/campaigns/latest', 400, 'params/id must be integer'],
    ['/campaigns/1/compare/x', 400, 'params/other must be integer'],
  ])('%s: %i', async (url, status, detail) => {
    campaignFile(path())
    expect(await ask(url)).toMatchObject({ status, json: { detail: expect.stringContaining(detail) } })
  })

  test('without a database there is none', async () => {
    expect(await ask('/campaigns/1')).toMatchObject({ status: 404, json: { detail: 'no campaign 1' } })
    expect(readdirSync(base)).toEqual(['runs'])
  })

  test('a damaged one is told, with its file; another campaign of the file can be read', async () => {
    campaignFile(path())
    const { DatabaseSync } = process.getBuiltinModule('node:sqlite')
    const raw = new DatabaseSync(path())
    raw.exec("UPDATE sessions SET verdict = 'recovered' WHERE campaign = 2")
    raw.close()
    const detail = expect.stringMatching(
      /campaigns\.db is damaged \(session tlbi-late .* of campaign 2 has another sum\)$/,
    )
    for (const url of ['/campaigns/2', '/campaigns/1/compare/2', '/campaigns/2/compare/1']) {
      expect(await ask(url)).toMatchObject({ status: 422, json: { detail } })
    }
    expect(await ask('/campaigns/1')).toMatchObject({ status: 200, json: { asExpected: 10 } })
  })
})

describe('files of a folder', () => {
  beforeEach(() => {
    writeFileSync(join(base, 'Image-6.18'), 'kernel')
    writeFileSync(join(base, '.secret'), '')
    symlinkSync('/etc/passwd', join(base, 'link'))
  })

  test('plain files by name', () => {
    expect(fileNames(base)).toEqual(['Image-6.18'])
    expect(namedFile(base, 'Image-6.18', 'image')).toBe(join(base, 'Image-6.18'))
    expect(fileNames(undefined)).toEqual([])
  })

  test.each(['link', '.secret', 'runs', '../Image-6.18', 'runs/../Image-6.18', 'nothing', '', '..'])('not %j', name => {
    expect(() => namedFile(base, name, 'image')).toThrow(`image ${name}: no such file in the folder of images`)
  })

  test('without a folder, none', () => {
    expect(() => namedFile(undefined, 'Image', 'image')).toThrow(/started without a folder of images/)
  })
})
