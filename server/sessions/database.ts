// SPDX-License-Identifier: Apache-2.0
/** Fault campaigns: sessions in one file (store.ts). */
import { dirname, join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { Type } from 'typebox'
import { Compile } from 'typebox/compile'
import { type CatalogueEntry, RuleSchema, SessionSchema, VERDICTS } from '../faults/rule.ts'
import { DEVICE_NAMES } from '../machine/devices.ts'
import { runsFolder } from '../machine/runs.ts'
import { SERIES_STEPS } from '../policy/policy.ts'
import { EL2_KERNEL } from '../run/el2.ts'
import type { JobMachine } from './agentMachine.ts'
import type { Job, SessionResult } from './session.ts'
import {
  type CampaignOf,
  type Kind,
  type RowOf,
  readCampaign as readStored,
  Store,
  salvage as salvageStore,
} from './store.ts'

const Words = Type.Array(Type.String())

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
      machine: Type.Optional(
        Type.Object({
          modules: Type.Optional(Type.String()),
          initrd: Type.Optional(Type.String()),
          append: Type.Optional(Type.String()),
          devices: Type.Optional(Type.Array(Type.Enum([...DEVICE_NAMES]))),
          qemuArgs: Type.Optional(Words),
        }),
      ),
    }),
  ),
)

/** A campaign: the plan is kept whole, so that resuming it does not depend on later changes of the catalogue. */
export type Campaign = CampaignOf<Job>
/** A finished session. */
export type Row = RowOf<Job, SessionResult>

/** A job's name: unique in its campaign, the same in each. */
export const jobName = ({ entry, kernel, until, seed }: Job): string => `${entry.name} ${kernel} ${until} ${seed}`

/** Default file of campaigns. */
export const defaultDatabase = (): string => join(dirname(runsFolder()), 'campaigns.db')

const SESSIONS: Kind<Job> = {
  nameOf: jobName,
  isPlan: (plan): plan is readonly Job[] => Plan.Check(plan),
  noun: 'campaign',
  list: 'faults campaigns',
  salvage: 'faults salvage',
}

export class Database extends Store<Job, SessionResult> {
  /** @throws as `Store` */
  constructor(path: string) {
    super(path, SESSIONS)
  }
}

/** For who only looks. @throws as `readCampaign` of store.ts */
export const readCampaign = (path: string, id: number) => readStored<Job, SessionResult>(path, id, SESSIONS)

export const salvage = (from: string, to: string) => salvageStore(from, to, SESSIONS)

/**
 * All combinations, kernel by kernel; one that comes twice, because its entry says the kernel or the prefix, is one job.
 * @param machine of all jobs
 * @throws Error when two entries have one name: a job is known by it
 */
export function planOf(
  entries: readonly CatalogueEntry[],
  kernels: readonly string[],
  stages: readonly Job['until'][],
  seeds: readonly number[],
  machine: JobMachine = {},
): Job[] {
  const jobs: Job[] = []
  const names = new Map<string, CatalogueEntry>()
  const asked = Object.keys(machine).length > 0 && { machine }
  for (const kernel of kernels) {
    for (const until of stages) {
      for (const entry of entries) {
        for (const seed of seeds) {
          const { kernel: own = entry.session?.el2 === 'pkvm' ? EL2_KERNEL : kernel } = entry.session ?? {}
          const job = { entry, kernel: own, until: entry.session?.until ?? until, seed, ...asked }
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
