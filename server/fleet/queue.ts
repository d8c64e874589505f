// SPDX-License-Identifier: Apache-2.0
/** Where a fleet's queue is: a Redis, or a Valkey, that senders of jobs and workers have in common. */
import { isIP } from 'node:net'

/** Every key in Redis begins so: an ACL names them as `~smmu-cosim:*`. */
export const QUEUE_PREFIX = 'smmu-cosim'
/** BullMQ's name of the queue. */
export const QUEUE_NAME = 'jobs'
/** Environment variable with the password, where a file is not at hand. */
export const QUEUE_PASSWORD = 'SMMU_COSIM_QUEUE_PASSWORD'

/** How Redis is reached, as ioredis takes it. */
export interface QueueConnection {
  readonly host: string
  readonly port: number
  /** Number of the database. */
  readonly db: number
  /** Of an ACL; absent: Redis's `default`. */
  readonly username?: string
  readonly password?: string
  /** Absent: in clear text. */
  readonly tls?: QueueTls
}

/** PEM files. */
export interface QueueTls {
  /** Who may have signed the server's certificate; absent: whom Node trusts. */
  readonly ca?: Buffer
  readonly cert?: Buffer
  readonly key?: Buffer
  /** That the certificate has to be for; absent: the host's address. */
  readonly servername?: string
}

const PORT = 6379
const MAX_DB = 65_535

/**
 * `redis://[USER@]HOST[:PORT][/DB]`, or `rediss://…` for TLS.
 * @throws Error for anything else, and for a password: whoever may list processes would read it
 */
export function parseQueue(text: string): QueueConnection {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const encrypted = url?.protocol === 'rediss:'
  if (url === undefined || url.hostname === '' || (!encrypted && url.protocol !== 'redis:')) {
    throw new Error('expected redis://[USER@]HOST[:PORT][/DB], or rediss://… with TLS')
  }
  if (url.password !== '') {
    throw new Error('a password in the URL is seen by whoever may list processes; a file or the environment has it')
  }
  const [, digits = ''] = /^\/?(\d{0,5})$/.exec(url.pathname) ?? []
  const db = Number(digits)
  if (url.search !== '' || url.hash !== '' || url.pathname.replace('/', '') !== digits || db > MAX_DB) {
    throw new Error(`expected nothing behind the host but the number of a database, up to ${MAX_DB}`)
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  return {
    ...{ host, port: url.port === '' ? PORT : Number(url.port), db },
    ...(url.username !== '' && { username: decoded(url.username) }),
    ...(encrypted && { tls: { ...(isIP(host) === 0 && { servername: host }) } }),
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Error(`"${text}" is not the name of a user`)
  }
}
