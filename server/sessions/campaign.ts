// SPDX-License-Identifier: Apache-2.0
/** Runs many sessions, several machines at a time. */
import { join } from 'node:path'
import { RamPool } from '../machine/guestRam.ts'
import { DEFAULTS } from '../run/options.ts'
import type { Transport } from '../trap/messages.ts'
import { type MachineOptions, type Prepared, prepare, savable } from './agentMachine.ts'
import { type Campaign, type Database, jobName } from './database.ts'
import { inLanes } from './lanes.ts'
import { checkMemory, fittingMachines } from './memoryLimit.ts'
import { bootsFresh, type Job, runSession, type SessionResult } from './session.ts'
import { ensureSnapshot, type Snapshot } from './snapshot.ts'
import type { CampaignOf, Store, Stored } from './store.ts'

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
  readonly done?: (job: Job, result: SessionResult, count: number, total: number) => void
  readonly started?: (job: Job) => void
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

/**
 * Runs the remaining jobs of a campaign, so many at a time; each is stored when it is done.
 * @param run aborted when another job fails; calls `over` when the next one of its lane may begin
 * @throws what a job threw, or Error when the machines do not fit into memory
 */
export async function runJobs<J, R extends Stored>(
  database: Store<J, R>,
  campaign: CampaignOf<J>,
  lanes: number,
  signal: AbortSignal,
  run: (job: J, signal: AbortSignal, over: () => void) => Promise<R>,
  done: (job: J, result: R, count: number, total: number) => void = () => {},
): Promise<void> {
  const waiting = database.remaining(campaign)
  const total = campaign.plan.length
  let count = total - waiting.length
  checkMemory(lanes)
  const failed = new AbortController()
  const either = AbortSignal.any([signal, failed.signal])
  // The verdict of one is found while the next one starts: two machines for each job.
  const overlap = fittingMachines() >= 2 * lanes
  await inLanes(waiting, lanes, overlap, async (job, over) => {
    try {
      either.throwIfAborted()
      const result = await run(job, either, over)
      database.add(campaign, job, result)
      done(job, result, ++count, total)
    } catch (error) {
      // The other machines end.
      failed.abort(error)
      throw error
    }
  })
  database.finish(campaign)
}

/** Runs the remaining sessions of a campaign. @throws Error when `signal` aborts, or a machine cannot be prepared. */
export async function runCampaign(
  database: Database,
  campaign: Campaign,
  options: CampaignOptions,
  signal: AbortSignal,
): Promise<void> {
  const held: { machines?: Machines } = {}
  const run = async (job: Job, either: AbortSignal, over: () => void) => {
    held.machines ??= new Machines(options, either)
    const { prepared, snapshot } = await held.machines.of(job)
    options.started?.(job)
    const folder = join(options.folder, jobName(job).replace(/[^\w.-]+/g, '_'))
    return runSession(job, prepared, snapshot, folder, either, over)
  }
  try {
    await runJobs(database, campaign, options.jobs, signal, run, options.done)
  } finally {
    held.machines?.close()
  }
}
