// SPDX-License-Identifier: Apache-2.0
/** What came of a job, from a worker to the sender: files by the hash of their content, in one key of Redis for each job. */
import { createHash } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzip, gzip } from 'node:zlib'
import type { Redis } from 'ioredis'
import { type Artefact, KEPT_S, MOST_ARTEFACTS } from './job.ts'
import { QUEUE_PREFIX } from './queue.ts'

/** Of one file, bytes; and of all that a job leaves. */
export const MOST_BYTES = 4 << 20
const MOST_OF_JOB = 8 << 20
/** Of a result and its files, bytes. What nothing makes smaller grows a little by its packing. */
const MOST_TOGETHER = MOST_BYTES + MOST_OF_JOB
const MOST_PACKED = MOST_TOGETHER + (1 << 16)

/** A file's content under the name that it is to have. */
export interface Content {
  readonly name: string
  readonly bytes: Buffer
}

/** Values of a hash, if it is one, unless they are longer together than ARGV[1] bytes: whoever writes to the queue decides how long they are. */
const BOUNDED_HMGET = `
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return false end
local found, room = {}, tonumber(ARGV[1])
for i = 2, #ARGV do
  room = room - redis.call('HSTRLEN', KEYS[1], ARGV[i])
  if room < 0 then return false end
  found[i - 1] = redis.call('HGET', KEYS[1], ARGV[i])
end
return found`

const keyOf = (id: string): string => `${QUEUE_PREFIX}:artefacts:${id}`
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

/** Keeps what came of a job. The same again changes nothing. */
export async function putArtefacts(redis: Redis, id: string, contents: readonly Content[]): Promise<Artefact[]> {
  const key = keyOf(id)
  const artefacts = contents.map(({ name, bytes }) => ({ name, sha256: sha256(bytes) }))
  const packed = await Promise.all(contents.map(({ bytes }) => promisify(gzip)(bytes)))
  const commands = redis.multi()
  for (const [i, { sha256 }] of artefacts.entries()) commands.hset(key, sha256, packed[i])
  commands.expire(key, KEPT_S)
  const results = (await commands.exec()) ?? []
  const [failed] = results.flatMap(([error]) => error ?? [])
  if (failed !== undefined) throw failed
  return artefacts
}

/** @returns undefined when one is not there any more, is not what its hash says, or is longer than any worker sends */
export async function getArtefacts(
  redis: Redis,
  id: string,
  artefacts: readonly Artefact[],
): Promise<Content[] | undefined> {
  const names = artefacts.map(({ sha256 }) => sha256)
  const packed = (await redis.callBuffer('EVAL', BOUNDED_HMGET, 1, keyOf(id), MOST_PACKED, ...names)) as
    | readonly (Buffer | null)[]
    | null
  const contents: Content[] = []
  let room = MOST_TOGETHER
  for (const [i, { name, sha256: expected }] of artefacts.entries()) {
    const value = packed?.[i]
    const maxOutputLength = Math.min(MOST_BYTES, room)
    const bytes = value && (await promisify(gunzip)(value, { maxOutputLength }).catch(() => undefined))
    if (!bytes || sha256(bytes) !== expected) return undefined
    room -= bytes.length
    contents.push({ name, bytes })
  }
  return contents
}

export async function removeArtefacts(redis: Redis, id: string): Promise<void> {
  await redis.del(keyOf(id))
}

/**
 * The files that a job left in its folder. Of a log that is too long there is its end; anything else that is too long, and links, stay where
 * they are.
 */
export function filesOf(folder: string): Content[] {
  let room = MOST_OF_JOB
  const found: Content[] = []
  for (const name of readdirSync(folder).sort()) {
    if (found.length >= MOST_ARTEFACTS - 1 || !/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/.test(name)) continue
    const bytes = endOf(join(folder, name), Math.min(MOST_BYTES, room), name.endsWith('.log'))
    if (bytes === undefined) continue
    room -= bytes.length
    found.push({ name, bytes })
  }
  return found
}

/** @param cut a longer file is told by its end */
function endOf(path: string, most: number, cut: boolean): Buffer | undefined {
  let fd: number
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch {
    return undefined // a link
  }
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile() || (stat.size > most && !cut)) return undefined
    const bytes = Buffer.alloc(Math.min(stat.size, most))
    const length = readSync(fd, bytes, 0, bytes.length, stat.size - bytes.length)
    return bytes.subarray(0, length)
  } finally {
    closeSync(fd)
  }
}
