// SPDX-License-Identifier: Apache-2.0
/**
 * Looks whether what answers at an address is a Redis, before anything waits for it: ioredis would try again, for ever, what will never be
 * one.
 */
import { connect as connectTcp } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type { QueueConnection } from './queue.ts'

/** For a connection, and then for an answer, ms. */
export const PROBE_MS = 5_000
const PING = '*1\r\n$4\r\nPING\r\n'
/** Letters of an answer that are looked at, and told. */
const MOST_TOLD = 100
/** A Redis that will be ready some day says so. */
const LATER = /^-(LOADING|MASTERDOWN|MISCONF|BUSY|TRYAGAIN|ERR max number of clients)/
/** One that wants to know who asks. */
const ASKS = /^-(NOAUTH|NOPERM|WRONGPASS)/
/** What TLS finds wrong: whether it is a lost connection or this is said by the code of the error. */
const OF_TLS = /^EPROTO$|^ERR_(SSL|TLS|OSSL)|CERT|SELF_SIGNED|VERIFY|SIGNATURE/

/** First byte of an alert and of a handshake; the version's first one is 3. */
const TLS_RECORDS = [0x15, 0x16]

/** Whether there is one. `hopeless`: what is there will be none later, either. */
export type Probed =
  | { readonly there: true }
  | { readonly there: false; readonly hopeless: boolean; readonly why: string }

const no = (why: string, hopeless = false): Probed => ({ there: false, hopeless, why })

/** @param ms until something happens @throws the signal's reason */
export function probe(connection: QueueConnection, signal: AbortSignal, ms = PROBE_MS): Promise<Probed> {
  const { host, port, tls } = connection
  return new Promise((resolve, reject) => {
    let silent = `no connection within ${ms / 1000} s`
    const socket = tls === undefined ? connectTcp({ host, port }) : connectTls({ host, port, ...tls })
    let heard = Buffer.alloc(0)
    const over = (why: string) => end(heard.length > 0 ? judged(heard) : no(why))
    const timer = setTimeout(() => over(silent), ms)
    const abort = () => {
      end(no(''))
      reject(signal.reason)
    }
    function end(probed: Probed): void {
      clearTimeout(timer)
      signal.removeEventListener('abort', abort)
      socket.destroy()
      if (signal.aborted) reject(signal.reason)
      else resolve(probed)
    }
    socket.once('connect', () => {
      timer.refresh()
      silent = `it takes connections, and answers nothing within ${ms / 1000} s`
    })
    socket.once(tls === undefined ? 'connect' : 'secureConnect', () => socket.write(PING))
    socket.on('data', (bytes: Buffer) => {
      // A line may come in pieces; TLS has none.
      heard = Buffer.concat([heard, bytes.subarray(0, MOST_TOLD - heard.length)])
      const whole = heard.length === MOST_TOLD || /[\r\n]/.test(heard.toString('latin1'))
      if (whole || isTls(heard)) end(judged(heard))
    })
    socket.on('error', error => end(failed(error)))
    const hint = tls === undefined ? ', as one with TLS (rediss://) does' : ''
    socket.once('close', () => over(`it ends connections without an answer${hint}`))
    signal.addEventListener('abort', abort, { once: true })
    if (signal.aborted) abort()
  })
}

const isTls = (bytes: Buffer): boolean => TLS_RECORDS.includes(bytes[0] ?? 0) && bytes[1] === 3

/** What the first bytes of an answer say. */
function judged(bytes: Buffer): Probed {
  const [line = ''] = bytes.toString('latin1', 0, MOST_TOLD).split(/[\r\n]/)
  if (line === '+PONG' || ASKS.test(line)) return { there: true }
  if (line.startsWith('-')) return no(line.slice(1), !LATER.test(line))
  if (isTls(bytes)) return no('it speaks TLS: rediss:// does as well', true)
  return no(`it is no Redis: it answers ${JSON.stringify(line)}`, true)
}

function failed(error: NodeJS.ErrnoException): Probed {
  const { code = '', message } = error
  // Of a name with several addresses, each has its own.
  const why = error instanceof AggregateError ? error.errors.map(({ message }: Error) => message).join(', ') : message
  if (!OF_TLS.test(code)) return no(why || code)
  return no(
    /WRONG_VERSION|PACKET_LENGTH|RECORD|EPROTO/.test(code) ? `it speaks no TLS that we know (${why})` : why,
    true,
  )
}
