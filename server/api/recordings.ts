// SPDX-License-Identifier: Apache-2.0
/** Recordings in the folder of runs. Requests name a run's folder, never a path. */
import { execFile } from 'node:child_process'
import { createReadStream, existsSync, lstatSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { runsFolder } from '../machine/runs.ts'
import { compareCampaigns } from '../sessions/campaignReport.ts'
import { comparisonText } from '../sessions/compare.ts'
import { defaultDatabase, readCampaign } from '../sessions/database.ts'
import { listCampaigns } from '../sessions/store.ts'
import { expectedOf } from '../sessions/verdict.ts'
import { headerOf } from '../trace/headerOf.ts'
import { Problem } from './problem.ts'
import { FILE_NAME } from './schemas/fields.ts'
import type { CampaignView, RecordingView, ReportView, ResultsView } from './schemas/recordings.ts'

const MAIN = fileURLToPath(new URL('../cli/main.ts', import.meta.url))
const NAME = new RegExp(FILE_NAME)
/** Of the server's own options for Node, those that confine it. */
const CONFINES = /^--(permission$|allow-|disable-warning=)/
/** A replay takes no longer, ms. */
const MOST_MS = 120_000
const MOST_BYTES = 1 << 20
const MOST_LINES = 400
/** Bytes of a file that is sent; what a page reads. */
const MOST_FILE = 256 << 20
/** What is listed: the newest. */
const MOST_RECORDINGS = 200
const MOST_CAMPAIGNS = 200
/** As `diff`: 1 is a difference, more is trouble. */
const DIFFERENT = 1

/** @throws Problem with what `read` complains about */
function legible<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new Problem(422, (error as Error).message)
  }
}

export class Recordings {
  readonly #folder: string
  readonly #database: string
  readonly #closing: AbortSignal
  #busy = false

  /** @param folder of runs; campaigns are kept beside it @param closing aborted when the server ends */
  constructor(folder = runsFolder(), closing: AbortSignal = new AbortController().signal) {
    this.#folder = folder
    this.#closing = closing
    this.#database = join(dirname(folder), basename(defaultDatabase()))
  }

  /** The newest first, so many at most; what cannot be read is no recording. */
  async list(): Promise<RecordingView[]> {
    const names = await readdir(this.#folder).catch(() => [])
    const found: RecordingView[] = []
    // In folders without a recording nothing is read, so all of them may be looked at.
    for (const name of names.sort().reverse()) {
      if (found.length === MOST_RECORDINGS) break
      const path = this.#pathOf(name)
      const recording = path === undefined ? undefined : await headerOf(path)
      if (recording === undefined) continue
      const { created, policy, kernel } = recording.header
      found.push({ name, created, policy, kernel, bytes: recording.bytes })
    }
    return found
  }

  /** Its first file, which a recording that was cut into several has the beginning in. */
  async file(name: string): Promise<Readable> {
    return createReadStream(this.#recording(name), { end: MOST_FILE - 1 })
  }

  replay(name: string): Promise<ReportView> {
    return this.#run(['replay', this.#recording(name)])
  }

  compare(name: string, other: string): Promise<ReportView> {
    return this.#run(['trace', 'diff', this.#recording(name), this.#recording(other)])
  }

  /** The newest first. @throws Problem when the database cannot be read */
  campaigns(): CampaignView[] {
    if (!existsSync(this.#database)) return []
    return legible(() => listCampaigns(this.#database, MOST_CAMPAIGNS))
      .map(({ id, started, finished, what, planned, done, asExpected }) => ({
        ...{ id, started, finished, what, planned, done, asExpected },
      }))
      .reverse()
  }

  /** @throws Problem when there is none, or the database cannot be read */
  campaign(id: number): ResultsView {
    const { campaign, rows } = this.#campaign(id)
    const { started, finished, what, plan } = campaign
    return {
      ...{ id, started, finished, what, planned: plan.length, done: rows.length },
      asExpected: rows.filter(({ result }) => result.asExpected).length,
      sessions: rows.map(({ job: { entry, kernel, until, seed }, result: { verdict, asExpected, ms } }) => ({
        ...{ entry: entry.name, kernel, until, seed, verdict, asExpected, ms },
        expected: [...expectedOf(entry)],
      })),
    }
  }

  /** @throws as `campaign` */
  compareCampaigns(id: number, other: number): ReportView {
    const [comparison, notes] = compareCampaigns(this.#campaign(id).rows, this.#campaign(other).rows)
    const lines = comparisonText(comparison, notes).split('\n')
    return { same: comparison.differences.length === 0, lines: lines.slice(0, MOST_LINES) }
  }

  #campaign(id: number) {
    const found = existsSync(this.#database) ? legible(() => readCampaign(this.#database, id)) : undefined
    if (found === undefined) throw new Problem(404, `no campaign ${id}`)
    return found
  }

  /** No link, neither to a folder nor to a file: what it leads to was not recorded here. */
  #pathOf(name: string): string | undefined {
    if (!NAME.test(name)) return undefined
    const folder = join(this.#folder, name)
    if (lstatSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true) return undefined
    const path = join(folder, 'trace')
    return lstatSync(path, { throwIfNoEntry: false })?.isFile() === true ? path : undefined
  }

  /** @throws Problem */
  #recording(name: string): string {
    const path = this.#pathOf(name)
    if (path === undefined) throw new Problem(404, `no recording ${name}`)
    return path
  }

  /** Reading a recording is work for a processor: the server's own thread goes on. @throws Problem */
  async #run(words: readonly string[]): Promise<ReportView> {
    if (this.#busy) throw new Problem(409, 'a recording is being read already')
    this.#busy = true
    try {
      const execArgv = process.execArgv.filter(word => CONFINES.test(word))
      const { code, text } = await finished([...execArgv, MAIN, ...words], this.#closing)
      this.#closing.throwIfAborted()
      const lines = text.trimEnd().split('\n')
      if (code !== 0 && code !== DIFFERENT) throw new Problem(422, lines.slice(-3).join('; ').slice(0, 500))
      return { same: code === 0, lines: lines.slice(0, MOST_LINES) }
    } finally {
      this.#busy = false
    }
  }
}

/** @returns exit code, and what it printed; of a failure, what it complained about */
function finished(
  words: readonly string[],
  signal: AbortSignal,
): Promise<{ readonly code: number; readonly text: string }> {
  const options = { signal, timeout: MOST_MS, maxBuffer: MOST_BYTES, encoding: 'utf8' } as const
  return new Promise(resolve => {
    execFile(process.execPath, words, options, (error, stdout, stderr) => {
      // What of the recording cannot be read is part of what came of it.
      const said = stderr.split('\n').filter(line => line.startsWith('smmu-cosim: '))
      if (error === null) return resolve({ code: 0, text: [...said, stdout].join('\n') })
      // What is more than can be kept is a difference that is long.
      if (String(error.code) === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER') return resolve({ code: DIFFERENT, text: stdout })
      if (error.killed) return resolve({ code: 2, text: `not done after ${MOST_MS / 1000} s` })
      // A replay that could not be made says why, and reports nothing.
      if (error.code !== DIFFERENT || stdout.trim() === '') return resolve({ code: 2, text: stderr || stdout })
      // The same code says that the recording is damaged, or not finished yet: that is no difference.
      const same = /^no difference$/m.test(stdout)
      if (same) return resolve({ code: 2, text: [...said, 'no difference in what can be read'].join('\n') })
      resolve({ code: DIFFERENT, text: [...said, stdout].join('\n') })
    })
  })
}
