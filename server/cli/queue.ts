// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim queue`: whose jobs are in a queue, and no more of them. */

import type { Queue } from 'bullmq'
import { type Command, InvalidArgumentError } from 'commander'
import type { Redis } from 'ioredis'
import type { QueuedCampaign } from '../fleet/campaigns.ts'
import { counted, grouped } from '../trace/words.ts'
import { act, UsageError } from './exit.ts'
import { connectionOf, endSoon, type QueueOptions, queueOptions } from './queueOptions.ts'
import { print, say } from './terminal.ts'

function campaign(text: string, before: readonly string[] = []): string[] {
  if (!/^[0-9a-f]{20}$/.test(text))
    throw new InvalidArgumentError('expected a name as "queue list" has it, 20 hexadecimal digits')
  return [...before, text]
}

export function queueCommand(program: Command): void {
  const queue = program.command('queue').description('whose jobs are in a queue, and no more of them')
  queueOptions(queue.command('list'), 'where they are')
    .description('campaigns, matrices and attacks that have jobs or results in a queue')
    .action((options: QueueOptions) =>
      act(signal =>
        on(options, signal, async (queue, redis) => {
          const { campaignsIn } = await import('../fleet/campaigns.ts')
          const found = await campaignsIn(queue, redis)
          if (found.length === 0) say('there are no jobs')
          for (const one of found) print(lineOf(one))
        }),
      ),
    )
  queueOptions(queue.command('purge').argument('<campaign...>', 'as "queue list" names it', campaign), 'where they are')
    .description('remove all of a campaign from a queue: what waits, what runs, and results that were not collected')
    .action((campaigns: readonly string[], options: QueueOptions) =>
      act(signal =>
        on(options, signal, async (queue, redis) => {
          const { purge } = await import('../fleet/campaigns.ts')
          for (const campaign of campaigns) {
            const { removed, running } = await purge(queue, redis, campaign)
            const rest = running === 0 ? '' : `; workers end ${grouped(running)} more, which run`
            say(`${campaign}: ${counted(removed, 'job')} removed${rest}`)
          }
        }),
      ),
    )
}

/** For people: what it is, how it stands, and whether somebody waits for it. */
function lineOf({ campaign, about, heardS, waiting, running, ended }: QueuedCampaign): string {
  const stands = `${grouped(waiting)} wait, ${grouped(running)} run, ${counted(ended, 'result')} not collected`
  const sender = heardS === undefined ? 'no sender' : `sender heard of ${counted(heardS, 'second')} ago`
  return `${campaign}  ${stands}; ${sender}${about === '' ? '' : `; ${about}`}`
}

/** What talks to a queue is loaded when there is one. */
async function on(
  options: QueueOptions,
  signal: AbortSignal,
  work: (queue: Queue, redis: Redis) => Promise<void>,
): Promise<void> {
  const connection = connectionOf(options)
  if (connection === undefined) throw new UsageError('--queue is missing: where are the jobs?')
  const { Queue } = await import('bullmq')
  const { inTime } = await import('../control/inTime.ts')
  const { QUEUE_NAME, QUEUE_PREFIX } = await import('../fleet/queue.ts')
  const { connect } = await import('../fleet/redis.ts')
  const redis = await connect(connection, false, say, signal)
  const queue = new Queue(QUEUE_NAME, { connection: redis, prefix: QUEUE_PREFIX })
  queue.on('error', () => {}) // told by our connection
  try {
    await inTime(work(queue, redis), signal)
  } finally {
    redis.disconnect()
    endSoon()
  }
}
