// SPDX-License-Identifier: Apache-2.0
/** OpenTelemetry: a job is one trace, from the process that sends it to the one that runs it. A collector is a server on loopback. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { openTracing } from '../../server/fleet/tracing.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { Database } from '../../server/sessions/database.ts'
import { RedisServer } from './redis.ts'
import { job } from './stub.ts'

/** As OTLP has it in JSON: kind 4 is a producer's, 5 a consumer's. */
interface Span {
  readonly name: string
  readonly traceId: string
  readonly kind: number
}
interface Export {
  readonly resourceSpans: readonly { readonly scopeSpans: readonly { readonly spans: readonly Span[] }[] }[]
}

test('nobody who wants traces: nothing is loaded', async () => {
  expect(await openTracing({})).toBeUndefined()
})

test('a job is one trace, from sender to worker', async () => {
  const folder = privateFolder(tmpdir(), 'tracing-')
  mkdirSync(join(folder, 'redis'))
  const redis = await RedisServer.start(join(folder, 'redis'))
  const spans: Span[] = []
  const collector = createServer((request, response) => {
    const parts: Buffer[] = []
    request.on('data', part => parts.push(part))
    request.on('end', () => {
      if (request.url === '/v1/traces') {
        const { resourceSpans } = JSON.parse(Buffer.concat(parts).toString()) as Export
        spans.push(...resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans)))
      }
      response.end('{}')
    })
  }).listen(0, '127.0.0.1')
  await once(collector, 'listening')
  const endpoint = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`
  const env = { ...process.env, OTEL_EXPORTER_OTLP_ENDPOINT: endpoint }
  const start = (file: string, words: readonly string[]) => {
    const child = spawn(process.execPath, [fileURLToPath(new URL(file, import.meta.url)), ...words], {
      env,
      stdio: 'ignore',
    })
    return { child, ended: once(child, 'exit') }
  }
  const database = join(folder, 'campaigns.db')
  const opened = new Database(database)
  const plan = [0, 1, 2].map(seed => job('stub', seed, 1))
  opened.begin('test', plan)
  opened.close()
  const port = String(redis.connection.port)
  const worker = start('./workerProcess.ts', ['one', port, '1', '5000'])
  try {
    const sender = start('./senderProcess.ts', [database, port])
    expect(await sender.ended).toEqual([0, null])
    worker.child.kill('SIGTERM')
    expect(await worker.ended).toEqual([0, null])
    const traces = (kind: number) => new Set(spans.filter(span => span.kind === kind).map(({ traceId }) => traceId))
    const [sent, ran] = [traces(4), traces(5)]
    // All jobs are sent in one go, and each is run by itself.
    expect(sent.size).toBeGreaterThan(0)
    expect([...ran].filter(trace => sent.has(trace)).length).toBeGreaterThan(0)
    const processed = spans.filter(({ kind, traceId }) => kind === 5 && sent.has(traceId))
    expect(processed.length).toBeGreaterThanOrEqual(plan.length)
  } finally {
    worker.child.kill('SIGKILL')
    collector.close()
    collector.closeAllConnections()
    await redis.kill()
    rmSync(folder, { recursive: true })
  }
}, 90_000)
