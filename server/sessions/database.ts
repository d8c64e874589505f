// SPDX-License-Identifier: Apache-2.0
/**
 * Campaigns and what came of their sessions, in one file. A session is there as a whole or not at all: each is one
 * transaction, on disk before the next one counts as done, so that a campaign that was killed goes on where it was.
 */
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { isDeepStrictEqual } from 'node:util'
import { Type } from 'typebox'
import { Compile } from 'typebox/compile'
import { type CatalogueEntry, RuleSchema, SessionSchema, VERDICTS } from '../faults/rule.ts'
import { runsFolder } from '../machine/scratch.ts'
import { SERIES_STEPS } from '../policy/policy.ts'
import type { Job, SessionResult } from './session.ts'

const SCHEMA_VERSION = 1
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS campaigns (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    finished TEXT,
    what TEXT NOT NULL,
    plan TEXT NOT NULL
  ) STRICT;
  CREATE TABLE IF NOT EXISTS sessions (
    campaign INTEGER NOT NULL REFERENCES campaigns(id),
    job TEXT NOT NULL,
    verdict TEXT NOT NULL,
    expected INTEGER NOT NULL,
    ms INTEGER NOT NULL,
    finished TEXT NOT NULL,
    result TEXT NOT NULL,
    PRIMARY KEY (campaign, job)
  ) STRICT, WITHOUT ROWID;`

/** Schema of a plan; it is checked before any of it is run. */
const Plan = Compile(
  Type.Array(
    Type.Object({
      entry: Type.Object({
        name: Type.String(),
        summary: Type.String(),
        expect: Type.Union([Type.Enum([...VERDICTS]), Type.Array(Type.Enum([...VERDICTS]))]),
        why: Type.String(),
        session: Type.Optional(SessionSchema),
        source: Type.Optional(Type.String()),
        rules: Type.Array(RuleSchema),
      }),
      kernel: Type.String(),
      until: Type.Enum([...SERIES_STEPS]),
      seed: Type.Integer({ minimum: 0 }),
    }),
  ),
)

/** A campaign: the plan is kept whole, so that resuming it does not depend on later changes of the catalogue. */
export interface Campaign {
  readonly id: number
  readonly started: string
  /** null: interrupted, or still running. */
  readonly finished: string | null
  /** The command that started it. */
  readonly what: string
  readonly plan: readonly Job[]
}

/** A finished session. */
export interface Row {
  readonly job: Job
  readonly result: SessionResult
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

/** A job's name: unique in its campaign, the same in each. */
export const jobName = ({ entry, kernel, until, seed }: Job): string => `${entry.name} ${kernel} ${until} ${seed}`

/** Default file of campaigns. */
export const defaultDatabase = (): string => join(dirname(runsFolder()), 'campaigns.db')

export class Database {
  readonly path: string
  readonly #db: DatabaseSync

  /** @throws Error when the file is not a database, or of a newer version. */
  constructor(path: string) {
    this.path = path
    mkdirSync(dirname(path), { recursive: true })
    try {
      this.#db = new DatabaseSync(path, { timeout: 10_000 })
      const version = Number(this.#db.prepare('PRAGMA user_version').get()?.user_version)
      if (version > SCHEMA_VERSION)
        throw new Error(`made by a newer version (${version}, this one reads ${SCHEMA_VERSION})`)
      this.#db.exec(
        `PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; ${SCHEMA}; PRAGMA user_version = ${SCHEMA_VERSION}`,
      )
    } catch (error) {
      throw new Error(`${path}: ${(error as Error).message}`)
    }
  }

  close(): void {
    this.#db.close()
  }

  begin(what: string, plan: readonly Job[]): Campaign {
    const started = new Date().toISOString()
    const statement = this.#db.prepare('INSERT INTO campaigns (started, what, plan) VALUES (?, ?, ?)')
    const { lastInsertRowid } = statement.run(started, what, JSON.stringify(plan))
    return { id: Number(lastInsertRowid), started, finished: null, what, plan }
  }

  /** @throws Error when there is no such campaign, or its plan is malformed. */
  campaign(id: number): Campaign {
    const row = this.#db.prepare('SELECT id, started, finished, what, plan FROM campaigns WHERE id = ?').get(id)
    if (row === undefined) throw new Error(`${this.path}: no campaign ${id}; "smmu-cosim faults campaigns" lists them`)
    const plan: unknown = JSON.parse(String(row.plan))
    if (!Plan.Check(plan)) throw new Error(`${this.path}: the plan of campaign ${id} is damaged`)
    return { ...(row as unknown as Omit<Campaign, 'plan'>), plan: plan as readonly Job[] }
  }

  /** The newest campaign that was not finished; undefined: there is none. */
  unfinished(): number | undefined {
    const row = this.#db.prepare('SELECT max(id) AS id FROM campaigns WHERE finished IS NULL').get()
    return row?.id === null || row === undefined ? undefined : Number(row.id)
  }

  list(): CampaignSummary[] {
    const rows = this.#db
      .prepare(
        `SELECT id, started, c.finished AS finished, what, json_array_length(plan) AS planned, count(job) AS done,
         coalesce(sum(expected), 0) AS asExpected
         FROM campaigns c LEFT JOIN sessions ON campaign = id GROUP BY id ORDER BY id`,
      )
      .all()
    return rows.map(row => ({ ...row }) as unknown as CampaignSummary)
  }

  /** Jobs of the plan that are not done yet. */
  remaining(campaign: Campaign): Job[] {
    const rows = this.#db.prepare('SELECT job FROM sessions WHERE campaign = ?').all(campaign.id)
    const done = new Set(rows.map(({ job }) => job))
    return campaign.plan.filter(job => !done.has(jobName(job)))
  }

  /** Stores a session, unless it is stored already. @returns whether it was new */
  add(campaign: Campaign, job: Job, result: SessionResult): boolean {
    const statement = this.#db.prepare(
      'INSERT OR IGNORE INTO sessions (campaign, job, verdict, expected, ms, finished, result) VALUES (?, ?, ?, ?, ?, ?, ?)',
    )
    const { changes } = statement.run(
      campaign.id,
      jobName(job),
      result.verdict,
      result.asExpected ? 1 : 0,
      Math.round(result.ms),
      new Date().toISOString(),
      JSON.stringify(result),
    )
    return changes === 1
  }

  finish(campaign: Campaign): void {
    this.#db.prepare('UPDATE campaigns SET finished = ? WHERE id = ?').run(new Date().toISOString(), campaign.id)
  }

  /** Finished sessions, in the order of the plan. */
  rows(campaign: Campaign): Row[] {
    const statement = this.#db.prepare('SELECT result FROM sessions WHERE campaign = ? AND job = ?')
    return campaign.plan.flatMap(job => {
      const row = statement.get(campaign.id, jobName(job))
      return row === undefined ? [] : [{ job, result: JSON.parse(String(row.result)) as SessionResult }]
    })
  }
}

/**
 * All combinations, kernel by kernel; one that comes twice, because its entry says the kernel or the prefix, is one job.
 * @throws Error when two entries have one name: a job is known by it
 */
export function planOf(
  entries: readonly CatalogueEntry[],
  kernels: readonly string[],
  stages: readonly Job['until'][],
  seeds: readonly number[],
): Job[] {
  const jobs: Job[] = []
  const names = new Map<string, CatalogueEntry>()
  for (const kernel of kernels) {
    for (const until of stages) {
      for (const entry of entries) {
        for (const seed of seeds) {
          const job = { entry, kernel: entry.session?.kernel ?? kernel, until: entry.session?.until ?? until, seed }
          const same = names.get(jobName(job))
          if (same !== undefined && !isDeepStrictEqual(same, entry)) {
            throw new Error(`two entries are called "${entry.name}": their sessions could not be told apart`)
          }
          if (same !== undefined) continue
          names.set(jobName(job), entry)
          jobs.push(job)
        }
      }
    }
  }
  return jobs
}
