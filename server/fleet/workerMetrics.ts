// SPDX-License-Identifier: Apache-2.0
/** What a worker did so far, for Prometheus. */
import { type EventEmitter, once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { EXPOSITION_TYPE, family, type Sample } from './exposition.ts'

interface Sum {
  readonly job: string
  readonly result: string
  count: number
  ms: number
}

export class WorkerMetrics {
  readonly #sums = new Map<string, Sum>()
  #running = 0
  #stalled = 0
  #errors = 0

  /** What BullMQ's worker tells by itself. */
  watch(worker: EventEmitter): void {
    worker.on('stalled', () => this.#stalled++)
    worker.on('error', () => this.#errors++)
  }

  /**
   * Runs a job, and counts how it ended.
   * @param kind of job
   * @param how what an error means
   */
  async of<T>(kind: string, how: (error: unknown) => string, work: () => Promise<T>): Promise<T> {
    const begun = performance.now()
    let result = 'completed'
    this.#running++
    try {
      return await work()
    } catch (error) {
      result = how(error)
      throw error
    } finally {
      this.#running--
      const key = `${kind}\n${result}`
      const sum = this.#sums.get(key) ?? { job: kind, result, count: 0, ms: 0 }
      this.#sums.set(key, sum)
      sum.count++
      sum.ms += performance.now() - begun
    }
  }

  text(): string {
    const metric = (name: string, type: 'counter' | 'gauge', help: string, samples: readonly Sample[]) =>
      family(`smmu_cosim_worker_${name}`, type, help, samples)
    const done = [...this.#sums.values()]
    return [
      metric('jobs_running', 'gauge', 'Jobs at this moment', [[{}, this.#running]]),
      metric(
        'jobs_total',
        'counter',
        'Jobs that this worker has brought to an end, failed at, left to others, or dropped because nobody waits for them',
        done.map(({ job, result, count }) => [{ job, result }, count]),
      ),
      metric(
        'job_seconds_total',
        'counter',
        'Time that these jobs took',
        done.map(({ job, result, ms }) => [{ job, result }, ms / 1000]),
      ),
      metric('jobs_stalled_total', 'counter', 'Jobs of workers that were lost, as this one found', [
        [{}, this.#stalled],
      ]),
      metric('queue_errors_total', 'counter', 'Errors of the connection to the queue', [[{}, this.#errors]]),
      family('process_resident_memory_bytes', 'gauge', 'Of the worker', [[{}, process.memoryUsage.rss()]]),
    ].join('')
  }
}

/** Answers `GET /metrics` with a text, and nothing else. @returns where, and what ends it @throws Error when it cannot listen */
export async function serveMetrics(
  host: string,
  port: number,
  text: () => string,
): Promise<{ readonly port: number; close(): void }> {
  const server = createServer({ headersTimeout: 5_000, requestTimeout: 5_000 }, (request, response) => {
    const known = request.url === '/metrics' && request.method === 'GET'
    response.writeHead(known ? 200 : 404, { 'content-type': known ? EXPOSITION_TYPE : 'text/plain' })
    response.end(known ? text() : 'GET /metrics\n')
  })
  server.maxConnections = 16
  server.listen(port, host)
  await once(server, 'listening')
  return { port: (server.address() as AddressInfo).port, close: () => server.close() && server.closeAllConnections() }
}
