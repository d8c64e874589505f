// SPDX-License-Identifier: Apache-2.0
/** For what is measured by hand with a Redis and workers: however it ends, none of it stays. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { act } from '../../server/cli/exit.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { RedisServer } from './redis.ts'

/** Until a worker that was told to end is killed, ms. */
const KILL_MS = 10_000

/** A worker that is told to end takes its processes and its folder along. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  const late = setTimeout(() => child.kill('SIGKILL'), KILL_MS)
  await ended
  clearTimeout(late)
}

/**
 * @param name of the folder
 * @param settings of Redis, as in its configuration
 * @param measure gets a folder of its own; SIGINT and SIGTERM abort it
 */
export const withRedis = (
  name: string,
  settings: string,
  measure: (folder: string, redis: RedisServer, signal: AbortSignal) => Promise<void>,
): Promise<void> =>
  act(async signal => {
    const folder = privateFolder(tmpdir(), `${name}-`)
    let redis: RedisServer | undefined
    try {
      mkdirSync(join(folder, 'redis'))
      redis = await RedisServer.start(join(folder, 'redis'), settings)
      signal.throwIfAborted()
      await measure(folder, redis, signal)
    } finally {
      await redis?.kill()
      rmSync(folder, { recursive: true })
    }
  })
