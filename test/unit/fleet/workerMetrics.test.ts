// SPDX-License-Identifier: Apache-2.0
import { EventEmitter } from 'node:events'
import { expect, test } from 'vitest'
import { family } from '../../../server/fleet/exposition.ts'
import { serveMetrics, WorkerMetrics } from '../../../server/fleet/workerMetrics.ts'

const samples = (text: string) => text.split('\n').filter(line => line !== '' && !line.startsWith('#'))

test('labels are escaped, and a family has its type', () => {
  expect(family('a_total', 'counter', 'Help', [[{ name: 'say "x\\y"\nz' }, 3]])).toBe(
    '# HELP a_total Help\n# TYPE a_total counter\na_total{name="say \\"x\\\\y\\"\\nz"} 3\n',
  )
})

test('what a worker did is counted by kind and result', async () => {
  const worker = new EventEmitter()
  const metrics = new WorkerMetrics()
  metrics.watch(worker)
  const never = () => 'failed'
  const gate = Promise.withResolvers<string>()
  const waiting = metrics.of('session', never, () => gate.promise)
  expect(samples(metrics.text())).toContain('smmu_cosim_worker_jobs_running 1')
  expect(await metrics.of('session', never, async () => 7)).toBe(7)
  const lost = new Error('lost')
  const back = new Error('another one is to have it')
  const fails = (error: Error) =>
    metrics.of(
      'cell',
      one => (one === back ? 'returned' : 'failed'),
      () => Promise.reject(error),
    )
  await expect(fails(lost)).rejects.toBe(lost)
  await expect(fails(back)).rejects.toBe(back)
  gate.resolve('done')
  expect(await waiting).toBe('done')
  worker.emit('stalled', '9', 'active')
  worker.emit('error', new Error('connection lost'))
  const found = samples(metrics.text())
  expect(found).toEqual(
    expect.arrayContaining([
      'smmu_cosim_worker_jobs_running 0',
      'smmu_cosim_worker_jobs_total{job="session",result="completed"} 2',
      'smmu_cosim_worker_jobs_total{job="cell",result="failed"} 1',
      'smmu_cosim_worker_jobs_total{job="cell",result="returned"} 1',
      'smmu_cosim_worker_jobs_stalled_total 1',
      'smmu_cosim_worker_queue_errors_total 1',
    ]),
  )
  const seconds = found.find(line => line.startsWith('smmu_cosim_worker_job_seconds_total{job="session"'))
  expect(Number(seconds?.split(' ')[1])).toBeGreaterThanOrEqual(0)
})

test('they are at /metrics, and nothing else is there', async () => {
  const served = await serveMetrics('127.0.0.1', 0, () => 'x 1\n')
  try {
    const at = (path: string, method = 'GET') => fetch(`http://127.0.0.1:${served.port}${path}`, { method })
    const answer = await at('/metrics')
    expect([answer.status, await answer.text()]).toEqual([200, 'x 1\n'])
    expect(answer.headers.get('content-type')).toContain('version=0.0.4')
    for (const [path, method] of [
      ['/', 'GET'],
      ['/metrics', 'POST'],
      ['/metrics/../etc', 'GET'],
    ] as const) {
      expect((await at(path, method)).status, path).toBe(404)
    }
    await expect(serveMetrics('127.0.0.1', served.port, () => '')).rejects.toThrow('EADDRINUSE')
  } finally {
    served.close()
  }
})
