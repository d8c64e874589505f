// SPDX-License-Identifier: Apache-2.0
/**
 * Campaigns and what came of their sessions, in one file. A session is there as a whole or not at all: each is one
 * transaction, on disk before the next one counts as done, so that a campaign that was killed goes on where it was.
 *
 * SQLite finds damage to its own structures, and none to what is in them: every row has a sum, and every campaign the number
 * of its sessions. A file is looked through when it is opened, and is used whole or not at all. There is no write-ahead log:
 * damage to one looks as if what was in it had never been written.
 */
import { createHash } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, openSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { counted } from '../trace/words.ts'

const SCHEMA_VERSION = 2
/** Of a file of version 1 that is brought up to date: no sum, and no session that was counted. */
const NEW_COLUMNS = `
  ALTER TABLE campaigns ADD COLUMN sessions INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE campaigns ADD COLUMN sum TEXT NOT NULL DEFAULT '';
  ALTER TABLE sessions ADD COLUMN sum TEXT NOT NULL DEFAULT '';`
const SCHEMA = `
  CREATE TABLE campaigns (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    finished TEXT,
    what TEXT NOT NULL,
    plan TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    sum TEXT NOT NULL
  ) STRICT;
  CREATE TABLE sessions (
    campaign INTEGER NOT NULL REFERENCES campaigns(id),
    job TEXT NOT NULL,
    verdict TEXT NOT NULL,
    expected INTEGER NOT NULL,
    ms INTEGER NOT NULL,
    finished TEXT NOT NULL,
    result TEXT NOT NULL,
    sum TEXT NOT NULL,
    PRIMARY KEY (campaign, job)
  ) STRICT, WITHOUT ROWID;`

/** A row of `campaigns`, and one of `sessions`, as they are in the file. */
interface CampaignRow {
  readonly id: number
  readonly started: string
  readonly finished: string | null
  readonly what: string
  readonly plan: string
  readonly sessions: number
}
interface SessionRow {
  readonly campaign: number
  readonly job: string
  readonly verdict: string
  readonly expected: number
  readonly ms: number
  readonly finished: string
  readonly result: string
}

const sum = (...values: readonly unknown[]): string =>
  createHash('sha256').update(JSON.stringify(values)).digest('hex').slice(0, 32)

// Every field is named, so that one that comes new does not stay out of the sums.
export function campaignSum({ id, started, finished, what, plan, sessions, ...rest }: CampaignRow): string {
  return sum(id, started, finished, what, plan, sessions, rest satisfies Record<string, never>)
}
function sessionSum({ campaign, job, verdict, expected, ms, finished, result, ...rest }: SessionRow): string {
  return sum(campaign, job, verdict, expected, ms, finished, result, rest satisfies Record<string, never>)
}

/** What every result has; the rest is its kind's. */
export interface Stored {
  readonly verdict: string
  readonly asExpected: boolean
  readonly ms: number
}

/**
 * Of what came of a job: that nothing is known of it. Where that is not what is expected, the job is run again when its campaign is gone on with,
 * and what comes of it then stands for it.
 */
const UNKNOWN = `verdict = 'harness-error' AND expected = 0`

/** What the jobs of a file are. */
export interface Kind<Job> {
  /** Of a job: unique in its campaign, the same in each. */
  readonly nameOf: (job: Job) => string
  /** A plan is data: it is checked before any of it is run. */
  readonly isPlan: (plan: unknown) => plan is readonly Job[]
  /** What a campaign is called. */
  readonly noun: string
  /** The command that lists campaigns, and the one that saves what can be read of a damaged file. */
  readonly list: string
  readonly salvage: string
}

/** A campaign: the plan is kept whole, so that resuming it does not depend on later changes of the catalogue. */
export interface CampaignOf<Job> {
  readonly id: number
  readonly started: string
  /** null: interrupted, or still running. */
  readonly finished: string | null
  /** The command that started it. */
  readonly what: string
  readonly plan: readonly Job[]
}

/** A finished session. */
export interface RowOf<Job, Result> {
  readonly job: Job
  readonly result: Result
}

/** A campaign without its plan. */
export interface CampaignSummary {
  readonly id: number
  readonly started: string
  readonly finished: string | null
  readonly what: string
  readonly planned: number
  readonly done: number
  readonly asExpected: number
}

/** Something in the file is not as it was written. */
export class DamagedDatabase extends Error {
  override readonly name = 'DamagedDatabase'
}

export class Store<Job, Result extends Stored> {
  readonly #kind: Kind<Job>
  readonly path: string
  readonly #db: DatabaseSync

  /**
   * Opens a file, or makes one.
   * @throws Error when the file is not a database, or of a newer version; DamagedDatabase with what can be saved of it
   */
  constructor(path: string, kind: Kind<Job>) {
    this.#kind = kind
    this.path = path
    // A server that is confined may look into the folder, and make none.
    if (!existsSync(dirname(path))) mkdirSync(dirname(path), { recursive: true })
    try {
      this.#db = new DatabaseSync(path, { timeout: 10_000 })
    } catch (error) {
      throw new Error(`${path}: ${(error as Error).message}`)
    }
    try {
      this.#begin()
    } catch (error) {
      this.#db.close()
      throw refusal(path, kind, error as Error & { errcode?: number })
    }
  }

  #begin(): void {
    this.#db.exec('PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL')
    // One process at a time makes or changes the tables.
    this.#transaction(() => {
      const version = Number(this.#db.prepare('PRAGMA user_version').get()?.user_version)
      if (version > SCHEMA_VERSION) {
        throw new Error(`made by a newer version (${version}, this one reads ${SCHEMA_VERSION})`)
      }
      const tables = Number(this.#db.prepare('SELECT count(*) AS n FROM sqlite_schema').get()?.n)
      if (version === 0 && tables === 0) this.#db.exec(`${SCHEMA}; PRAGMA user_version = ${SCHEMA_VERSION}`)
      this.#checkStructure()
      if (version === 1) this.#addSums()
      this.#checkRows()
    })
  }

  /** All of it or nothing; within another one, it is a part of that. */
  #transaction(work: () => void): void {
    if (this.#db.isTransaction) return work()
    this.#db.exec('BEGIN IMMEDIATE')
    try {
      work()
      this.#db.exec('COMMIT')
    } catch (error) {
      try {
        this.#db.exec('ROLLBACK')
      } catch {} // SQLite did so by itself
      throw error
    }
  }

  #checkStructure(): void {
    const [found] = this.#db.prepare('PRAGMA integrity_check(1)').all()
    if (found?.integrity_check !== 'ok') throw new DamagedDatabase(String(found?.integrity_check))
  }

  #checkRows(): void {
    const rowsOf = this.#db.prepare('SELECT count(*) AS n FROM sessions WHERE campaign = ?')
    let sessions = 0
    for (const row of this.#db.prepare('SELECT * FROM campaigns').iterate()) {
      const campaign = campaignRow(row)
      const n = Number(rowsOf.get(campaign.id)?.n)
      if (n !== campaign.sessions) {
        throw new DamagedDatabase(`campaign ${campaign.id} has ${n} sessions, not ${campaign.sessions}`)
      }
      sessions += n
    }
    let found = 0
    for (const row of this.#db.prepare('SELECT * FROM sessions').iterate()) {
      sessionRow(row)
      found++
    }
    if (found !== sessions) throw new DamagedDatabase(`there are ${found} sessions, ${sessions} in campaigns`)
  }

  /** Of version 1: what is there is taken for what was written. */
  #addSums(): void {
    this.#db.exec(`${NEW_COLUMNS} PRAGMA user_version = ${SCHEMA_VERSION}`)
    this.#db.exec('UPDATE campaigns SET sessions = (SELECT count(*) FROM sessions WHERE campaign = id)')
    for (const { sum: _, ...row } of this.#db.prepare('SELECT * FROM sessions').all()) {
      const session = row as unknown as SessionRow
      this.#db
        .prepare('UPDATE sessions SET sum = ? WHERE campaign = ? AND job = ?')
        .run(sessionSum(session), session.campaign, session.job)
    }
    for (const { id } of this.#db.prepare('SELECT id FROM campaigns').all()) this.#sign(Number(id))
  }

  /** A campaign was changed. */
  #sign(id: number): void {
    const { sum: _, ...row } = this.#db.prepare('SELECT * FROM campaigns WHERE id = ?').get(id) ?? {}
    this.#db.prepare('UPDATE campaigns SET sum = ? WHERE id = ?').run(campaignSum(row as unknown as CampaignRow), id)
  }

  close(): void {
    this.#db.close()
  }

  begin(what: string, plan: readonly Job[]): CampaignOf<Job> {
    return this.#insert({ started: new Date().toISOString(), finished: null, what, plan })
  }

  #insert(campaign: Omit<CampaignOf<Job>, 'id'>): CampaignOf<Job> {
    const { started, finished, what, plan } = campaign
    let id = 0
    this.#transaction(() => {
      const { lastInsertRowid } = this.#db
        .prepare(`INSERT INTO campaigns (started, finished, what, plan, sessions, sum) VALUES (?, ?, ?, ?, 0, '')`)
        .run(started, finished, what, JSON.stringify(plan))
      id = Number(lastInsertRowid)
      this.#sign(id)
    })
    return { id, ...campaign }
  }

  /** @throws Error when there is no such campaign, or its plan is malformed. */
  campaign(id: number): CampaignOf<Job> {
    const row = this.#db.prepare('SELECT id, started, finished, what, plan FROM campaigns WHERE id = ?').get(id)
    if (row === undefined)
      throw new Error(`${this.path}: no ${this.#kind.noun} ${id}; "smmu-cosim ${this.#kind.list}" lists them`)
    const plan: unknown = JSON.parse(String(row.plan))
    if (!this.#kind.isPlan(plan)) throw new Error(`${this.path}: the plan of ${this.#kind.noun} ${id} is damaged`)
    return { ...(row as unknown as Omit<CampaignOf<Job>, 'plan'>), plan }
  }

  /** The newest campaign that was not finished; undefined: there is none. */
  unfinished(): number | undefined {
    const row = this.#db.prepare('SELECT max(id) AS id FROM campaigns WHERE finished IS NULL').get()
    return row?.id === null || row === undefined ? undefined : Number(row.id)
  }

  list(): CampaignSummary[] {
    return summaries(this.#db, -1)
  }

  /** Jobs of the plan that are not done yet, or came to nothing. */
  remaining(campaign: CampaignOf<Job>): Job[] {
    const rows = this.#db.prepare(`SELECT job FROM sessions WHERE campaign = ? AND NOT (${UNKNOWN})`).all(campaign.id)
    const done = new Set(rows.map(({ job }) => job))
    return campaign.plan.filter(job => !done.has(this.#kind.nameOf(job)))
  }

  /** Stores a session, unless it is stored already. @returns whether it was new */
  add(campaign: CampaignOf<Job>, job: Job, result: Result): boolean {
    return this.addAll(campaign, [{ job, result }]).length === 1
  }

  /** Stores sessions, all of them at once, but for those of which something is known already. @returns those that were new */
  addAll(campaign: CampaignOf<Job>, rows: readonly RowOf<Job, Result>[]): RowOf<Job, Result>[] {
    let isNew: RowOf<Job, Result>[] = []
    this.#transaction(() => {
      const forget = this.#db.prepare(`DELETE FROM sessions WHERE campaign = ? AND job = ? AND ${UNKNOWN}`)
      const forgotten = rows.reduce(
        (n, { job }) => n + Number(forget.run(campaign.id, this.#kind.nameOf(job)).changes),
        0,
      )
      isNew = rows.filter(({ job, result }) =>
        this.#insertSession({
          campaign: campaign.id,
          job: this.#kind.nameOf(job),
          verdict: result.verdict,
          expected: result.asExpected ? 1 : 0,
          ms: Math.round(result.ms),
          finished: new Date().toISOString(),
          result: JSON.stringify(result),
        }),
      )
      this.#count(campaign.id, isNew.length - forgotten)
    })
    return isNew
  }

  /** @returns whether it was new */
  #insertSession(row: SessionRow): boolean {
    const { campaign, job, verdict, expected, ms, finished, result } = row
    const { changes } = this.#db
      .prepare(
        'INSERT OR IGNORE INTO sessions (campaign, job, verdict, expected, ms, finished, result, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
      )
      .run(campaign, job, verdict, expected, ms, finished, result, sessionSum(row))
    return changes === 1
  }

  /** A campaign has so many sessions more. */
  #count(campaign: number, more: number): void {
    this.#db.prepare('UPDATE campaigns SET sessions = sessions + ? WHERE id = ?').run(more, campaign)
    this.#sign(campaign)
  }

  finish(campaign: CampaignOf<Job>): void {
    this.#transaction(() => {
      this.#db.prepare('UPDATE campaigns SET finished = ? WHERE id = ?').run(new Date().toISOString(), campaign.id)
      this.#sign(campaign.id)
    })
  }

  /** Takes over campaigns of another file. */
  restore(saved: readonly Saved[]): void {
    this.#transaction(() => {
      for (const { campaign, rows } of saved) {
        const { started, what, plan, sessions } = campaign
        const finished = rows.length === sessions ? campaign.finished : null
        const { id } = this.#insert({ started, finished, what, plan: JSON.parse(plan) as Job[] })
        this.#count(id, rows.filter(row => this.#insertSession({ ...row, campaign: id })).length)
      }
    })
  }

  /** Finished sessions, in the order of the plan. */
  rows(campaign: CampaignOf<Job>): RowOf<Job, Result>[] {
    const statement = this.#db.prepare('SELECT result FROM sessions WHERE campaign = ? AND job = ?')
    return campaign.plan.flatMap(job => {
      const row = statement.get(campaign.id, this.#kind.nameOf(job))
      return row === undefined ? [] : [{ job, result: JSON.parse(String(row.result)) as Result }]
    })
  }
}

/** The newest `limit` of them, the oldest first; −1: all. */
function summaries(db: DatabaseSync, limit: number): CampaignSummary[] {
  const rows = db
    .prepare(
      `SELECT id, started, c.finished AS finished, what, json_array_length(plan) AS planned, count(job) AS done,
       coalesce(sum(expected), 0) AS asExpected
       FROM campaigns c LEFT JOIN sessions ON campaign = id GROUP BY id ORDER BY id DESC LIMIT ?`,
    )
    .all(limit)
  return rows.map(row => ({ ...row }) as unknown as CampaignSummary).reverse()
}

/**
 * For who only looks: nothing is written, made or brought up to date, and nothing is looked through but what is asked for. A file that is
 * being written is waited for shortly.
 * @param work sees the file as it is at one moment; it is also told whether rows have sums: those of version 1 have none
 * @throws Error when the file cannot be read, or is of a newer version; DamagedDatabase
 */
function look<T>(path: string, work: (db: DatabaseSync, summed: boolean) => T): T {
  let db: DatabaseSync
  try {
    db = new DatabaseSync(path, { readOnly: true, timeout: 200 })
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message}`)
  }
  try {
    // A session that is added between two queries is no damage. Closing ends it.
    db.exec('BEGIN')
    const version = Number(db.prepare('PRAGMA user_version').get()?.user_version)
    if (version > SCHEMA_VERSION) {
      throw new Error(`made by a newer version (${version}, this one reads ${SCHEMA_VERSION})`)
    }
    return work(db, version === SCHEMA_VERSION)
  } catch (error) {
    const { errcode = 0, message } = error as Error & { readonly errcode?: number }
    const damaged = error instanceof DamagedDatabase || DAMAGE.has(errcode & 0xff)
    throw damaged ? new DamagedDatabase(`${path} is damaged (${message})`) : new Error(`${path}: ${message}`)
  } finally {
    db.close()
  }
}

/** @param summed whether there is a sum to check. @throws DamagedDatabase */
function campaignRow({ sum: found, ...row }: Record<string, unknown>, summed = true): CampaignRow {
  const campaign = row as unknown as CampaignRow
  if (summed && campaignSum(campaign) !== found) throw new DamagedDatabase(`campaign ${campaign.id} has another sum`)
  return campaign
}

/** As `campaignRow`. */
function sessionRow({ sum: found, ...row }: Record<string, unknown>, summed = true): SessionRow {
  const session = row as unknown as SessionRow
  if (summed && sessionSum(session) !== found) {
    throw new DamagedDatabase(`session ${session.job} of campaign ${session.campaign} has another sum`)
  }
  return session
}

/** The newest campaigns of a file, the oldest first. @throws as `look` */
export function listCampaigns(path: string, limit: number): CampaignSummary[] {
  return look(path, (db, summed) => {
    const newest = db.prepare('SELECT * FROM campaigns ORDER BY id DESC LIMIT ?')
    for (const row of newest.iterate(limit)) campaignRow(row, summed)
    return summaries(db, limit)
  })
}

/**
 * One campaign of a file with its finished sessions, in the order of the plan; undefined: there is none of that number.
 * @throws as `look`; Error when the plan is none
 */
export function readCampaign<Job, Result extends Stored>(
  path: string,
  id: number,
  kind: Kind<Job>,
): { readonly campaign: CampaignOf<Job>; readonly rows: readonly RowOf<Job, Result>[] } | undefined {
  return look(path, (db, summed) => {
    const found = db.prepare('SELECT * FROM campaigns WHERE id = ?').get(id)
    if (found === undefined) return undefined
    const { started, finished, what, plan: text, sessions } = campaignRow(found, summed)
    const plan: unknown = JSON.parse(text)
    if (!kind.isPlan(plan)) throw new DamagedDatabase(`the plan of ${kind.noun} ${id} is none`)
    const results = new Map<string, Result>()
    for (const row of db.prepare('SELECT * FROM sessions WHERE campaign = ?').iterate(id)) {
      const { job, result } = sessionRow(row, summed)
      results.set(job, JSON.parse(result) as Result)
    }
    if (summed && results.size !== sessions) {
      throw new DamagedDatabase(`campaign ${id} has ${results.size} sessions, not ${sessions}`)
    }
    const rows = plan.flatMap(job => {
      const result = results.get(kind.nameOf(job))
      return result === undefined ? [] : [{ job, result }]
    })
    return { campaign: { id, started, finished, what, plan }, rows }
  })
}

/** What is said instead of opening a file. */
function refusal<Job>(path: string, kind: Kind<Job>, error: Error & { readonly errcode?: number }): Error {
  if (!(error instanceof DamagedDatabase) && !DAMAGE.has((error.errcode ?? 0) & 0xff)) {
    return new Error(`${path}: ${error.message}`)
  }
  const sessions = readable(path, kind).reduce((n, { rows }) => n + rows.length, 0)
  const rest =
    sessions === 0
      ? 'nothing of it can be saved'
      : `${counted(sessions, 'session')} of it can be saved: "smmu-cosim ${kind.salvage} ${path} NEW-FILE" does`
  return new DamagedDatabase(`${path} is damaged (${error.message}); ${rest}`)
}

/** A campaign of a damaged file, and its sessions that are as they were written. */
interface Saved {
  readonly campaign: CampaignRow
  readonly rows: readonly SessionRow[]
}

/** SQLite's SQLITE_ERROR (a table that is not there), SQLITE_CORRUPT and SQLITE_NOTADB. */
const DAMAGE: ReadonlySet<number> = new Set([1, 11, 26])

/** What is as it was written: campaigns, each with its sessions. */
function readable<Job>(path: string, kind: Kind<Job>): Saved[] {
  const attempt = <T>(work: () => T): T | undefined => {
    try {
      return work()
    } catch {
      return undefined // that page is damaged
    }
  }
  const db = attempt(() => new DatabaseSync(path, { readOnly: true, timeout: 10_000 }))
  if (db === undefined) return []
  try {
    const ids = new Set<number>()
    // From both ends: in the middle there may be a page that cannot be read.
    for (const order of ['', 'DESC']) {
      attempt(() => {
        for (const { id } of db.prepare(`SELECT id FROM campaigns ORDER BY id ${order}`).iterate()) ids.add(Number(id))
      })
    }
    return [...ids]
      .sort((a, b) => a - b)
      .flatMap(id => {
        const { sum: expected, ...row } =
          attempt(() => db.prepare('SELECT * FROM campaigns WHERE id = ?').get(id)) ?? {}
        const campaign = row as unknown as CampaignRow
        if (expected === undefined || attempt(() => campaignSum(campaign)) !== expected) return []
        // Each by its name: a page that is damaged costs only what is in it.
        const rows = planned(campaign, kind).flatMap(job => {
          const { sum: found, ...session } =
            attempt(() => db.prepare('SELECT * FROM sessions WHERE campaign = ? AND job = ?').get(id, job)) ?? {}
          const row = session as unknown as SessionRow
          // A damaged tree may lead to another row, which is as it was written.
          const is = found !== undefined && row.campaign === id && row.job === job && sessionSum(row) === found
          return is ? [row] : []
        })
        return [{ campaign, rows }]
      })
  } finally {
    db.close()
  }
}

/** Names of the jobs of a plan; none when it is no plan. */
function planned<Job>({ plan }: CampaignRow, kind: Kind<Job>): string[] {
  try {
    return (JSON.parse(plan) as Job[]).map(kind.nameOf)
  } catch {
    return []
  }
}

/**
 * Puts what can be read of a damaged file into a new one. A campaign that lost sessions counts as unfinished, so that they can
 * be run again.
 * @returns campaigns and sessions that were saved
 * @throws Error when the new file is there already, or when there is nothing to put into it: it is not made then
 */
export function salvage<Job>(
  from: string,
  to: string,
  kind: Kind<Job>,
): { readonly campaigns: number; readonly sessions: number } {
  if (!existsSync(from)) throw new Error(`${from} does not exist`)
  if (existsSync(to)) throw new Error(`${to} exists already`)
  const found = readable(from, kind)
  if (found.length === 0) throw new Error(`${from}: no ${kind.noun} can be read, or this is no database`)
  // What is removed when this fails is nobody else's: an empty file is an empty database.
  mkdirSync(dirname(to), { recursive: true })
  closeSync(openSync(to, 'wx'))
  try {
    const database = new Store(to, kind)
    try {
      database.restore(found)
    } finally {
      database.close()
    }
  } catch (error) {
    rmSync(to, { force: true })
    throw error
  }
  return { campaigns: found.length, sessions: found.reduce((n, { rows }) => n + rows.length, 0) }
}
