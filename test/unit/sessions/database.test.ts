// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { CatalogueEntry } from '../../../server/faults/rule.ts'
import {
  escapeXml,
  htmlPage,
  inOrder,
  junitXml,
  repeatCommand,
  tableText,
} from '../../../server/sessions/campaignReport.ts'
import { type Campaign, Database, jobName, planOf, readCampaign, salvage } from '../../../server/sessions/database.ts'
import { salvageMatrices } from '../../../server/sessions/matrix.ts'
import type { SessionResult } from '../../../server/sessions/session.ts'
import { campaignSum, DamagedDatabase, readCampaign as readStored } from '../../../server/sessions/store.ts'
import { counted } from '../../../server/trace/words.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-db-`))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const entry = (name: string): CatalogueEntry => ({
  name,
  summary: 'a <fault> & "more"',
  expect: 'recovered',
  why: 'because',
  rules: [],
})

const result = (verdict: SessionResult['verdict'], asExpected: boolean): SessionResult => ({
  verdict,
  asExpected,
  findings: [{ verdict, text: 'line with \u0007 bell, ]]> and <tag>' }],
  evidence: {} as SessionResult['evidence'],
  timeline: [{ ms: 12, text: '<script>' }],
  console: ['\u001b[31mred'],
  trace: [],
  before: { accesses: 0, digest: '' },
  ms: 1500,
  folder: '/tmp/x',
})

const plan = planOf([entry('a'), entry('b'), entry('c')], ['6.12'], ['nested'], [1, 2])

describe('campaigns', () => {
  test('the plan is the matrix; entries with a kernel of their own come once', () => {
    const own = { ...entry('own'), session: { kernel: '6.1' } }
    const names = planOf([entry('a'), own], ['6.12', '6.1'], ['cmdq', 'nested'], [1]).map(jobName)
    expect(names).toHaveLength(6)
    expect(new Set(names).size).toBe(6)
    expect(names.filter(name => name.startsWith('own'))).toEqual(['own 6.1 cmdq 1', 'own 6.1 nested 1'])
  })

  test('one entry twice is one job; two entries of one name are refused', () => {
    expect(planOf([entry('a'), entry('a')], ['6.12'], ['nested'], [1])).toHaveLength(1)
    const other = { ...entry('a'), summary: 'something else' }
    expect(() => planOf([entry('a'), other], ['6.12'], ['nested'], [1])).toThrow(/two entries are called "a"/)
  })

  test('the command that repeats a session', () => {
    const job = { entry: entry('a'), kernel: '/my kernels/Image', until: 'nested', seed: 3 } as const
    const run = 'npm run smmu-cosim -- faults run'
    expect(repeatCommand(job)).toBe(`${run} a --seed 3 --kernel '/my kernels/Image' --until nested`)
    expect(repeatCommand({ ...job, entry: entry('a-again') })).toContain(`${run} a --seed`)
    expect(repeatCommand({ ...job, entry: { ...entry('a'), source: "it's.yaml" } })).toContain(
      `${run} 'it'\\''s.yaml' `,
    )
  })

  test('of what came to nothing the next result stands, unless that was expected', () => {
    const path = join(folder, 'db')
    const database = new Database(path)
    const campaign = database.begin('test', plan)
    const [nothing, expected] = plan
    database.add(campaign, nothing, result('harness-error', false))
    database.add(campaign, expected, result('harness-error', true))
    database.finish(campaign)
    expect(database.remaining(campaign)).not.toContainEqual(expected)
    expect(database.remaining(campaign)).toContainEqual(nothing)
    expect(database.add(campaign, nothing, result('recovered', true))).toBe(true)
    expect(database.add(campaign, nothing, result('harness-error', false))).toBe(false)
    expect(database.add(campaign, expected, result('recovered', false))).toBe(false)
    database.close()
    // What is counted is what is there.
    const again = new Database(path)
    expect(again.rows(campaign).map(({ result }) => result.verdict)).toEqual(['recovered', 'harness-error'])
    again.close()
  })

  test('what is done is kept, once, and only the rest remains', () => {
    const path = join(folder, 'db')
    const first = new Database(path)
    const campaign = first.begin('test', plan)
    expect(first.add(campaign, plan[1], result('recovered', true))).toBe(true)
    expect(first.add(campaign, plan[1], result('guest-oops', false))).toBe(false)
    first.close()
    const again = new Database(path)
    const same = again.campaign(campaign.id)
    expect(again.remaining(same).map(jobName)).toEqual([0, 2, 3, 4, 5].map(i => jobName(plan[i])))
    expect(again.rows(same)[0].result.verdict).toBe('recovered')
    expect(again.unfinished()).toBe(campaign.id)
    again.finish(same)
    expect(again.unfinished()).toBeUndefined()
    expect(again.list()).toMatchObject([{ planned: 6, done: 1, asExpected: 1 }])
    expect(() => again.campaign(99)).toThrow(/no campaign 99/)
    again.close()
  })

  test('one campaign, for who only looks: what is done, in the order of the plan', () => {
    const path = join(folder, 'db')
    const database = new Database(path)
    database.begin('another', plan)
    const campaign = database.begin('test', plan)
    database.add(campaign, plan[4], result('guest-oops', false))
    database.add(campaign, plan[1], result('recovered', true))
    const rows = database.rows(campaign)
    database.close()
    const before = readFileSync(path)
    expect(readCampaign(path, 2)).toEqual({ campaign: { ...campaign, id: 2, finished: null, plan }, rows })
    expect(readCampaign(path, 1)?.rows).toEqual([])
    expect(readCampaign(path, 3)).toBeUndefined()
    expect(readFileSync(path)).toEqual(before)
  })

  test('one campaign of a file of the first version, whose rows have no sums', () => {
    const path = join(folder, 'db')
    const old = new DatabaseSync(path)
    old.exec(`CREATE TABLE campaigns (id INTEGER PRIMARY KEY, started TEXT NOT NULL, finished TEXT, what TEXT NOT NULL, plan TEXT NOT NULL) STRICT;
      CREATE TABLE sessions (campaign INTEGER NOT NULL, job TEXT NOT NULL, verdict TEXT NOT NULL, expected INTEGER NOT NULL, ms INTEGER NOT NULL,
        finished TEXT NOT NULL, result TEXT NOT NULL, PRIMARY KEY (campaign, job)) STRICT, WITHOUT ROWID; PRAGMA user_version = 1`)
    old.prepare("INSERT INTO campaigns VALUES (1, 'then', NULL, 'old', ?)").run(JSON.stringify(plan))
    old
      .prepare("INSERT INTO sessions VALUES (1, ?, 'recovered', 1, 1500, 'then', ?)")
      .run(jobName(plan[0]), JSON.stringify(result('recovered', true)))
    old.close()
    expect(readCampaign(path, 1)?.rows).toEqual([{ job: plan[0], result: result('recovered', true) }])
  })

  test('one campaign is read as it is at one moment: what is added meanwhile is no damage', () => {
    const path = join(folder, 'db')
    const database = new Database(path)
    const campaign = database.begin('test', plan)
    database.add(campaign, plan[0], result('recovered', true))
    database.close()
    // Between the row of the campaign and those of its sessions.
    const meanwhile = (): string => {
      const writer = new DatabaseSync(path, { timeout: 0 })
      try {
        writer.exec('DELETE FROM sessions')
        return 'deleted'
      } catch (error) {
        return (error as Error).message
      } finally {
        writer.close()
      }
    }
    let said: string | undefined
    const kind = {
      ...{ nameOf: jobName, noun: 'campaign', list: '', salvage: '' },
      isPlan: (_plan: unknown): _plan is typeof plan => {
        said = meanwhile()
        return true
      },
    }
    expect(readStored(path, 1, kind)?.rows).toHaveLength(1)
    expect(said).toBe('database is locked')
  })

  test.each([
    ["UPDATE campaigns SET what = 'other'", /is damaged \(campaign 1 has another sum\)$/],
    [
      "UPDATE sessions SET verdict = 'recovered'",
      /is damaged \(session a 6\.12 nested 1 of campaign 1 has another sum\)$/,
    ],
    ['DELETE FROM sessions', /is damaged \(campaign 1 has 0 sessions, not 1\)$/],
    ['DROP TABLE sessions', /is damaged \(no such table: sessions\)$/],
    ['PRAGMA user_version = 99', /made by a newer version/],
  ])('one campaign of a damaged file: %s', (damage, expected) => {
    const path = join(folder, 'db')
    const database = new Database(path)
    database.add(database.begin('test', plan), plan[0], result('guest-oops', false))
    database.close()
    const raw = new DatabaseSync(path)
    raw.exec(damage)
    raw.close()
    expect(() => readCampaign(path, 1)).toThrow(expected)
  })

  test('a process that is killed while it writes leaves whole sessions', async () => {
    const path = join(folder, 'db')
    const source = new URL('../../../server/sessions/database.ts', import.meta.url)
    const script = join(folder, 'writer.ts')
    writeFileSync(
      script,
      `const { Database } = await import(${JSON.stringify(source.href)})
       const plan = Array.from({ length: 100000 }, (_, i) => ({ entry: { name: 'e' + i, summary: '', expect: [], why: '', rules: [] }, kernel: 'k', until: 'nested', seed: 1 }))
       const db = new Database(${JSON.stringify(path)})
       const campaign = db.begin('killed', plan)
       for (const job of plan) {
         db.add(campaign, job, { verdict: 'recovered', asExpected: true, ms: 1 })
         process.stdout.write('.')
       }`,
    )
    const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] })
    let told = 0
    child.stdout.on('data', (dots: Buffer) => {
      told += dots.length
      if (told > 20) child.kill('SIGKILL')
    })
    await once(child, 'close')
    const database = new Database(path)
    const campaign = database.campaign(database.unfinished() ?? 0)
    const rows = database.rows({ ...campaign, plan: campaign.plan.slice(0, told + 1000) })
    expect(told).toBeGreaterThan(20)
    expect(rows.length).toBeGreaterThanOrEqual(told)
    expect(database.remaining(campaign)).toHaveLength(100_000 - rows.length)
    database.close()
  })

  /** Of all campaigns what can be asked for, as text. */
  const dump = (path: string) => {
    const database = new Database(path)
    try {
      const all = database.list().map(({ id, ...about }) => {
        const campaign = database.campaign(id)
        return { id, ...about, plan: campaign.plan, rows: database.rows(campaign) }
      })
      return JSON.stringify(all)
    } finally {
      database.close()
    }
  }

  /** Three campaigns with 30 sessions each. @returns the file's bytes */
  const sample = (path: string): Buffer => {
    const database = new Database(path)
    for (const what of ['one', 'two', 'three']) {
      const entries = Array.from({ length: 30 }, (_, i) => entry(`${what}-${i}`))
      const campaign = database.begin(what, planOf(entries, ['6.12'], ['nested'], [1]))
      for (const [i, job] of campaign.plan.entries()) {
        const text = `${what} ${i} `.repeat(i * 20)
        database.add(campaign, job, { ...result('recovered', true), console: [text], ms: 1000 + i })
      }
      if (what !== 'three') database.finish(campaign)
    }
    database.close()
    return readFileSync(path)
  }

  test('600 kinds of damage: nothing is wrong, nothing is missing, and what is saved is right', () => {
    const path = join(folder, 'db')
    const whole = sample(path)
    const before = dump(path)
    expect(before.length).toBeGreaterThan(100_000)
    const PAGE = 4096
    let seed = 12345
    const random = (below: number) => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
      return Math.floor((seed / 2 ** 32) * below)
    }
    const page = () => PAGE * random(whole.length / PAGE)
    const put = (bytes: Buffer, at: number, change: (value: number) => number) => {
      bytes[at] = change(bytes[at])
      return bytes
    }
    const kinds: readonly ((bytes: Buffer) => Buffer | undefined)[] = [
      bytes => put(bytes, random(bytes.length), value => value ^ (1 << random(8))),
      bytes => void bytes.fill(0, page(), page() + 512),
      bytes => void bytes.fill(random(256), random(bytes.length), random(bytes.length)),
      bytes => bytes.subarray(0, random(bytes.length)),
      bytes => void bytes.copy(bytes, page(), page(), page() + PAGE),
      // Where SQLite keeps its own: the header, and the first bytes of a page.
      bytes => put(bytes, random(100), () => random(256)),
      bytes => put(bytes, page() + random(12), () => random(256)),
    ]
    const damaged = join(folder, 'damaged')
    const rowsOf = (text: string) =>
      new Set((JSON.parse(text) as { rows: unknown[] }[]).flatMap(({ rows }) => rows.map(row => JSON.stringify(row))))
    const right = rowsOf(before)
    let refused = 0
    let saved = 0
    for (let i = 0; i < 600; i++) {
      const bytes = Buffer.from(whole)
      const after = kinds[i % kinds.length]?.(bytes) ?? bytes
      if (after.equals(whole)) continue
      writeFileSync(damaged, after)
      let now: string | undefined
      try {
        now = dump(damaged)
      } catch (error) {
        const { message } = error as Error
        expect(message).toContain(damaged)
        refused++
        const to = join(folder, `saved-${i}`)
        let sessions: number
        try {
          ;({ sessions } = salvage(damaged, to))
        } catch (nothing) {
          expect((nothing as Error).message).toBe(`${damaged}: no campaign can be read, or this is no database`)
          expect(message).not.toContain('can be saved:')
          expect(existsSync(to)).toBe(false)
          continue
        }
        if (sessions > 0 && error instanceof DamagedDatabase)
          expect(message).toContain(`${counted(sessions, 'session')} of it can be saved`)
        const rows = rowsOf(dump(to))
        expect(rows.size).toBe(sessions)
        for (const row of rows) expect(right.has(row)).toBe(true)
        saved += sessions
        rmSync(to)
      }
      // An empty file is a new database, and says that there is nothing in it.
      if (now !== undefined && after.length > 0) expect(now).toBe(before)
    }
    expect(refused).toBeGreaterThan(300)
    expect(saved / refused).toBeGreaterThan(20)
  })

  test('a campaign that lost sessions is gone on with in the new file', () => {
    const path = join(folder, 'db')
    sample(path)
    const db = new DatabaseSync(path)
    db.exec("UPDATE sessions SET verdict = 'guest-oops' WHERE job = 'one-3 6.12 nested 1'")
    db.exec("DELETE FROM sessions WHERE job = 'two-4 6.12 nested 1'")
    db.close()
    const to = join(folder, 'new')
    expect(() => new Database(path)).toThrow(
      `${path} is damaged (campaign 2 has 29 sessions, not 30); 88 sessions of it can be saved: ` +
        `"smmu-cosim faults salvage ${path} NEW-FILE" does`,
    )
    expect(salvage(path, to)).toEqual({ campaigns: 3, sessions: 88 })
    const database = new Database(to)
    expect(database.list().map(({ what, done, finished }) => [what, done, finished === null])).toEqual([
      ['one', 29, true],
      ['two', 29, true],
      ['three', 30, true],
    ])
    expect(database.remaining(database.campaign(1)).map(jobName)).toEqual(['one-3 6.12 nested 1'])
    database.close()
    expect(() => salvage(path, to)).toThrow(`${to} exists already`)
  })

  test('what is no database is not salvaged, and nothing is left of the new one', () => {
    const path = join(folder, 'notes.txt')
    const to = join(folder, 'new')
    for (const content of ['', 'no database', 'SQLite format 3\0']) {
      writeFileSync(path, content)
      expect(() => salvage(path, to)).toThrow(`${path}: no campaign can be read, or this is no database`)
      expect(() => salvageMatrices(path, to)).toThrow(`${path}: no matrix can be read, or this is no database`)
      expect(existsSync(to)).toBe(false)
    }
    // A plan that is none, with the right sum, is found only while it is put into the new one.
    const other = join(folder, 'db')
    sample(other)
    const db = new DatabaseSync(other)
    const { sum: _, ...row } = db.prepare('SELECT * FROM campaigns WHERE id = 2').get() ?? {}
    const hostile = { ...(row as unknown as Parameters<typeof campaignSum>[0]), plan: '{' }
    db.prepare('UPDATE campaigns SET plan = ?, sum = ? WHERE id = 2').run(hostile.plan, campaignSum(hostile))
    db.close()
    expect(() => salvage(other, to)).toThrow('JSON')
    expect(existsSync(to)).toBe(false)
  })

  test('a file of the first version is brought up to date, once', () => {
    const path = join(folder, 'db')
    const db = new DatabaseSync(path)
    db.exec(`PRAGMA journal_mode = WAL;
      CREATE TABLE campaigns (id INTEGER PRIMARY KEY, started TEXT NOT NULL, finished TEXT, what TEXT NOT NULL,
        plan TEXT NOT NULL) STRICT;
      CREATE TABLE sessions (campaign INTEGER NOT NULL REFERENCES campaigns(id), job TEXT NOT NULL, verdict TEXT NOT NULL,
        expected INTEGER NOT NULL, ms INTEGER NOT NULL, finished TEXT NOT NULL, result TEXT NOT NULL,
        PRIMARY KEY (campaign, job)) STRICT, WITHOUT ROWID;
      PRAGMA user_version = 1`)
    db.prepare('INSERT INTO campaigns VALUES (1, ?, NULL, ?, ?)').run('2026-01-01', 'old', JSON.stringify(plan))
    const old = result('recovered', true)
    db.prepare('INSERT INTO sessions VALUES (1, ?, ?, 1, 1500, ?, ?)').run(
      jobName(plan[0]),
      'recovered',
      '2026-01-01',
      JSON.stringify(old),
    )
    db.close()
    const database = new Database(path)
    const campaign = database.campaign(1)
    expect(database.rows(campaign)).toEqual([{ job: plan[0], result: old }])
    expect(database.add(campaign, plan[1], old)).toBe(true)
    database.close()
    expect(existsSync(`${path}-wal`)).toBe(false)
    expect(JSON.parse(dump(path))).toMatchObject([{ planned: 6, done: 2, asExpected: 2 }])
  })

  test('a file that is no database is refused by name', () => {
    const path = join(folder, 'text')
    writeFileSync(path, 'this is no database, and long enough to be sure of that'.repeat(100))
    expect(() => new Database(path)).toThrow(path)
  })
})

describe('reports', () => {
  const rows = [
    { job: plan[0], result: result('recovered', true) },
    { job: plan[2], result: result('guest-oops', false) },
    { job: plan[4], result: result('harness-error', false) },
  ]
  const campaign: Campaign = { id: 7, started: '2026-01-01T00:00:00.000Z', finished: null, what: 'a & b', plan }

  test('what is not as expected comes first', () => {
    expect(inOrder(rows).map(({ result }) => result.asExpected)).toEqual([false, false, true])
    expect(tableText(rows)).toMatch(/^UNEXPECTED .*guest-oops +expected recovered/)
    expect(tableText(rows)).toMatch(/3 sessions, 2 not as expected$/)
  })

  test('JUnit XML is well-formed and counts', () => {
    const xml = junitXml(campaign, rows)
    const open: string[] = []
    for (const [, close, name, rest] of xml
      .replace(/<\?.*?\?>/, '')
      .matchAll(/<(\/?)([a-z-]+)((?:\s+[a-z]+="[^"<]*")*)\s*>/g)) {
      if (close) expect(open.pop()).toBe(name)
      else open.push(name)
      expect(rest).not.toMatch(/&(?!amp;|lt;|gt;|quot;|#39;)/)
    }
    expect(open).toEqual([])
    // Nothing is left that looks like markup and was not taken for it above.
    expect(xml.replace(/<\?.*?\?>/, '').replaceAll(/<\/?[a-z-]+(?:\s+[a-z]+="[^"<]*")*\s*>/g, '')).not.toMatch(/[<>]/)
    expect(xml).toContain('tests="3" failures="1" errors="1"')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what it is about
    expect(xml).not.toMatch(/[\u0000-\u0008\u000e-\u001f]/)
  })

  test('the page carries nothing of the guest as markup, and needs nothing else', () => {
    const html = htmlPage(campaign, rows)
    expect(html).not.toContain('<script')
    expect(html).not.toMatch(/(src|href)=/)
    expect(html).toContain('faults run b --seed 1 --kernel 6.12 --until nested')
    expect(escapeXml('\ud800<')).toBe('\ufffd&lt;')
  })
})
