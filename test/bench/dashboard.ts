// SPDX-License-Identifier: Apache-2.0
/** What somebody who watches costs: boots with a client on the trap stream, and boots without a dashboard. */
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import type { Report } from '../../server/run/runReport.ts'
import { bootOnce } from './boots.ts'
import type { Context, Part } from './figure.ts'
import { inPairs } from './stats.ts'

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Connects as soon as somebody listens. @returns undefined when `signal` aborted. */
async function connect(port: number, signal: AbortSignal): Promise<WebSocket | undefined> {
  while (!signal.aborted) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/api/v1/stream`)
    try {
      await once(socket, 'open')
      return socket
    } catch {
      await sleep(50)
    }
  }
  return undefined
}

/** Follows the traps as the dashboard's page does, without painting them. @returns the number seen, or told of. */
async function watch(port: number, ended: AbortSignal): Promise<number> {
  const socket = await connect(port, ended)
  if (socket === undefined) return 0
  let seen = 0
  socket.on('error', () => {})
  socket.on('message', data => {
    const message = JSON.parse(String(data)) as { type: string; items?: unknown[]; dropped?: number }
    seen += (message.items?.length ?? 0) + (message.dropped ?? 0)
  })
  socket.send(JSON.stringify({ type: 'subscribe', id: '1', stream: 'traps', last: 3_000, lag: 100 }))
  if (socket.readyState !== WebSocket.CLOSED) {
    ended.addEventListener('abort', () => socket.terminate(), { once: true })
    if (ended.aborted) socket.terminate()
    await once(socket, 'close')
  }
  return seen
}

/** A boot with a client on its stream of traps. */
export async function watched(context: Context, ...args: string[]): Promise<Report> {
  const port = await freePort()
  const ended = new AbortController()
  const watching = watch(port, ended.signal)
  try {
    const report = await bootOnce(context, '--dashboard', String(port), ...args)
    ended.abort()
    const seen = await watching
    const total = report.traps?.total ?? 0
    if (seen < total / 2) throw new Error(`the client saw, or was told of, ${seen} of ${total} traps`)
    return report
  } finally {
    ended.abort()
    await watching.catch(() => {})
  }
}

export async function benchDashboard(context: Context): Promise<Part> {
  const { scale, signal, say } = context
  if (scale.warmUp) {
    say('dashboard: warm-up')
    await watched(context)
  }
  const { a, b } = await inPairs(
    scale.pairs,
    signal,
    pair => {
      say(`dashboard: pair ${pair + 1} of ${scale.pairs}`)
      return watched(context)
    },
    () => bootOnce(context),
  )
  const quantile = (runs: readonly Report[], q: 'p50' | 'p99') => runs.map(({ traps }) => traps?.latencyUs[q] ?? 0)
  const figure = (q: 'p50' | 'p99') => ({
    bench: 'dashboard' as const,
    what: `trap while somebody watches, ${q}`,
    unit: 'µs',
    a: { label: 'trap stream watched', values: quantile(a, q) },
    b: { label: 'no dashboard', values: quantile(b, q) },
  })
  return { figures: [{ ...figure('p99'), target: '≤ 1.1 ×' }, figure('p50')] }
}
