// SPDX-License-Identifier: Apache-2.0
/**
 * Whose jobs are in a queue, and whether somebody waits for them: a sender says so again and again. What nobody waits for is not begun by
 * workers, and what they run of it ends.
 */
import type { JobType, Queue } from 'bullmq'
import type { Redis } from 'ioredis'
import { contentKey } from '../../scripts/setup/cache.ts'
import { removeArtefacts } from './artefacts.ts'
import { KEPT_S } from './job.ts'
import { QUEUE_PREFIX } from './queue.ts'

/** A sender that was not heard of for so long is not coming back by itself, s. */
export const GONE_S = 3600

const wantedKey = (campaign: string): string => `${QUEUE_PREFIX}:wanted:${campaign}`
const aboutKey = (campaign: string): string => `${QUEUE_PREFIX}:campaign:${campaign}`

/** Values of the first one; without any, nobody waits. */
const WANTED = 'wanted'
const PURGED = 'purged'

/** The name of a campaign, by what its sender calls it. */
export const campaignKey = (what: string): string => contentKey([what])

/** The names of its jobs begin so. */
export const jobId = (campaign: string, ...parts: readonly string[]): string => `job-${campaign}-${contentKey(parts)}`

/** Undefined: no sender of ours has made up that name. */
export const campaignOf = (id: string): string | undefined => /^job-([0-9a-f]{20})-[0-9a-f]{20}$/.exec(id)?.[1]

/** A sender begins, or goes on. @param about what it is, for people */
export async function begin(redis: Redis, campaign: string, about: string): Promise<void> {
  await redis.set(aboutKey(campaign), about, 'EX', KEPT_S)
  await redis.set(wantedKey(campaign), WANTED, 'EX', GONE_S)
}

/** Whatever somebody has put there that is no value. */
const WANT = `
if redis.pcall('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1`

/** Its sender is still there. @returns false when somebody has purged it meanwhile */
export const want = async (redis: Redis, campaign: string): Promise<boolean> =>
  (await redis.eval(WANT, 1, wantedKey(campaign), PURGED, WANTED, GONE_S)) === 1

/** Its sender ends. */
export async function leave(redis: Redis, campaign: string): Promise<void> {
  await redis.del(wantedKey(campaign))
}

/** Whether somebody waits for a job. What cannot be told is no reason to end it. */
export async function isWanted(redis: Redis, id: string): Promise<boolean> {
  const campaign = campaignOf(id)
  if (campaign === undefined) return true
  return (await redis.get(wantedKey(campaign)).catch(() => WANTED)) === WANTED
}

const WAITING = ['wait', 'delayed', 'prioritized'] as const
const ENDED = ['completed', 'failed'] as const

/** A campaign that has jobs in a queue. */
export interface QueuedCampaign {
  readonly campaign: string
  /** Empty: not known any more. */
  readonly about: string
  /** When its sender was heard of last, s ago; undefined: there is none, by all that is known. */
  readonly heardS: number | undefined
  readonly waiting: number
  readonly running: number
  /** Results that were not collected. */
  readonly ended: number
}

/** Those that have jobs in a queue, by name. */
export async function campaignsIn(queue: Queue, redis: Redis): Promise<QueuedCampaign[]> {
  const counts = new Map<string, { waiting: number; running: number; ended: number }>()
  const count = async (what: 'waiting' | 'running' | 'ended', states: readonly JobType[]) => {
    for (const id of await queue.getRanges([...states], 0, -1)) {
      const campaign = campaignOf(id)
      if (campaign === undefined) continue
      const of = counts.get(campaign) ?? { waiting: 0, running: 0, ended: 0 }
      of[what]++
      counts.set(campaign, of)
    }
  }
  await Promise.all([count('waiting', WAITING), count('running', ['active']), count('ended', ENDED)])
  return Promise.all(
    [...counts].sort().map(async ([campaign, counts]) => {
      const [about, wanted] = await Promise.all(
        [aboutKey(campaign), wantedKey(campaign)].map(key => redis.get(key).catch(() => null)),
      )
      const left = await redis.ttl(wantedKey(campaign))
      const heardS = wanted === WANTED && left >= 0 ? Math.max(0, GONE_S - left) : undefined
      return { campaign, about: about ?? '', heardS, ...counts }
    }),
  )
}

/**
 * Removes a campaign's jobs, results that were not collected included. Workers end those that run, and a sender that is still there ends.
 * @returns how many were removed, and how many ran
 */
export async function purge(
  queue: Queue,
  redis: Redis,
  campaign: string,
): Promise<{ readonly removed: number; readonly running: number }> {
  const of = async (states: readonly JobType[]) =>
    (await queue.getRanges([...states], 0, -1)).filter(id => campaignOf(id) === campaign)
  const running = await of(['active'])
  // Before the others are looked for: what a worker takes from now on it leaves alone.
  await redis.set(wantedKey(campaign), PURGED, 'EX', KEPT_S)
  let removed = 0
  for (const id of await of([...WAITING, ...ENDED])) {
    removed += await queue.remove(id).catch(() => 0) // somebody has written over it
    await removeArtefacts(redis, id)
  }
  return { removed, running: running.length }
}
