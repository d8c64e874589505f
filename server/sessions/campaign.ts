// SPDX-License-Identifier: Apache-2.0
/** Runs many sessions, several machines at a time. */
import { join } from 'node:path'
import { RamPool } from '../machine/guestRam.ts'
import { DEFAULTS } from '../run/options.ts'
import type { Transport } from '../trap/messages.ts'
import { type MachineOptions, type Prepared, prepare, savable } from './agentMachine.ts'
import { jobName } from './database.ts'
import { inLanes } from './lanes.ts'
import { checkMemory, fittingMachines, memoryProblem, SESSION_RAM } from './memoryLimit.ts'
import { bootsFresh, type Job, runSession, type SessionResult } from './session.ts'
import { ensureSnapshot, type Snapshot } from './snapshot.ts'
import type { CampaignOf, RowOf, Store, Stored } from './store.ts'

export interface CampaignOptions {
  readonly jobs: number
  readonly ramDir: string
  readonly transport?: Transport
  /** Whether QEMU is confined; default: it is. */
  readonly sandbox?: boolean
  readonly qemu?: string
  /** Where the files of sessions go, each in a folder of its own. */
  readonly folder: string
  readonly say: (line: string) => void
}

/** Machines of jobs: each is prepared, and booted for its snapshot, once. One that starts gets the RAM of one that has ended. */
export class Machines {
  readonly #ram = new RamPool()
  readonly #options: Pick<CampaignOptions, 'ramDir' | 'transport' | 'sandbox' | 'qemu' | 'say'>
  readonly #signal: AbortSignal
  readonly #prepared = new Map<string, Promise<Prepared>>()

  constructor(
    options: Pick<CampaignOptions, 'ramDir' | 'transport' | 'sandbox' | 'qemu' | 'say'>,
    signal: AbortSignal,
  ) {
    this.#options = options
    this.#signal = signal
  }

  /** @throws Error when set-up fails, or the guest does not become ready. */
  async of({ entry, kernel, until, machine }: Job): Promise<{ prepared: Prepared; snapshot: Snapshot | undefined }> {
    // Not every device can be saved.
    const fresh = bootsFresh(entry) || (machine?.devices ?? []).length > 0
    const { ramDir, transport = DEFAULTS.transport, sandbox = true, qemu } = this.#options
    const options: MachineOptions = {
      kernel,
      until,
      smp: entry.session?.smp ?? 1,
      fresh,
      el2: entry.session?.el2 ?? 'none',
      ramDir,
      transport,
      sandbox,
      ...(machine && { machine }),
      ...(qemu && { qemu }),
    }
    const key = JSON.stringify(options)
    let found = this.#prepared.get(key)
    if (found === undefined) {
      found = prepare(options, this.#signal)
      this.#prepared.set(key, found)
      // What failed once need not fail again: a download, a disk that was full.
      found.catch(() => this.#prepared.delete(key))
    }
    const prepared = { ...(await found), pool: this.#ram }
    const snapshot = fresh ? undefined : await ensureSnapshot(savable(prepared), this.#signal, this.#options.say)
    return { prepared, snapshot }
  }

  /** No machine is started any more. */
  close(): void {
    this.#ram.close()
  }
}

/** Runs jobs, here or elsewhere. It hands over what came of them, as it comes, and resolves when all are through. */
export type Runner<Job, Result> = (
  jobs: readonly Job[],
  take: (rows: readonly RowOf<Job, Result>[]) => void,
  signal: AbortSignal,
) => Promise<void>

/**
 * Runs the remaining jobs of a campaign; what comes of each is stored at once.
 * @throws what the runner throws, when it cannot go on
 */
export async function runJobs<J, R extends Stored>(
  database: Store<J, R>,
  campaign: CampaignOf<J>,
  runner: Runner<J, R>,
  signal: AbortSignal,
  done: (job: J, result: R, count: number, total: number) => void = () => {},
): Promise<void> {
  const waiting = database.remaining(campaign)
  const total = campaign.plan.length
  let count = total - waiting.length
  const take = (rows: readonly RowOf<J, R>[]) => {
    for (const { job, result } of database.addAll(campaign, rows)) done(job, result, ++count, total)
  }
  await runner(waiting, take, signal)
  database.finish(campaign)
}

/**
 * Runs jobs on this machine, so many at a time.
 * @param run aborted when another job fails; calls `over` when the next one of its lane may begin
 * @param ramOf what a job's machine has of RAM, bytes
 * @returns throws what a job threw, or Error when the machines do not fit into memory
 */
export const onThisMachine =
  <J, R>(
    lanes: number,
    run: (job: J, signal: AbortSignal, over: () => void) => Promise<R>,
    ramOf: (job: J) => number = () => SESSION_RAM,
  ): Runner<J, R> =>
  async (jobs, take, signal) => {
    const ram = jobs.reduce((most, job) => Math.max(most, ramOf(job)), 0)
    const problem = memoryProblem(ram, lanes)
    if (problem !== undefined) throw new Error(`--jobs ${lanes}: ${problem}`)
    checkMemory(lanes, undefined, ram)
    const failed = new AbortController()
    const either = AbortSignal.any([signal, failed.signal])
    // The verdict of one is found while the next one starts: two machines for each job.
    const overlap = fittingMachines(undefined, ram) >= 2 * lanes
    await inLanes(jobs, lanes, overlap, async (job, over) => {
      try {
        either.throwIfAborted()
        take([{ job, result: await run(job, either, over) }])
      } catch (error) {
        // The other machines end.
        failed.abort(error)
        throw error
      }
    })
  }

/** A folder for a session among those of others. */
export const sessionFolder = (folder: string, job: Job): string => join(folder, jobName(job).replace(/[^\w.-]+/g, '_'))

/** Runs sessions on this machine. It throws Error when a machine cannot be prepared. */
export const sessionsHere =
  (options: CampaignOptions): Runner<Job, SessionResult> =>
  async (jobs, take, signal) => {
    const held: { machines?: Machines } = {}
    const run = async (job: Job, either: AbortSignal, over: () => void) => {
      held.machines ??= new Machines(options, either)
      const { prepared, snapshot } = await held.machines.of(job)
      return runSession(job, prepared, snapshot, sessionFolder(options.folder, job), either, over)
    }
    try {
      await onThisMachine(options.jobs, run)(jobs, take, signal)
    } finally {
      held.machines?.close()
    }
  }
