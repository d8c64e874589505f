// SPDX-License-Identifier: Apache-2.0
/** Runs jobs for a worker, in a process of its own: a job that ends it takes no other one along, and no connection to the queue. */
import { once } from 'node:events'
import { Machines } from '../sessions/campaign.ts'
import { ownWords, runCell } from '../sessions/matrix.ts'
import { runSession } from '../sessions/session.ts'
import { runAttack } from './attack.ts'
import { cellOf } from './cell.ts'
import type { SessionWork } from './job.ts'
import { type Order, type RunJob, serveJobs } from './jobServer.ts'
import { sessionJob } from './session.ts'

/** What machines need is kept from one job to the next, and not given up with one of them. */
let machines: Machines | undefined
const always = new AbortController().signal

async function session(work: SessionWork, order: Order, say: (line: string) => void, signal: AbortSignal) {
  const { files, own, folder } = order
  const { ramDir, transport, sandbox, qemu } = own
  machines ??= new Machines({ ramDir, transport, sandbox, say, ...(qemu !== undefined && { qemu }) }, always)
  const job = sessionJob(work, files)
  const stopped = once(signal, 'abort').then(() => Promise.reject(signal.reason))
  const { prepared, snapshot } = await Promise.race([machines.of(job), stopped])
  const { folder: _, ...result } = await runSession(job, prepared, snapshot, folder, signal)
  return result
}

const run: RunJob = (order, say, signal) => {
  const { work, files, own, folder } = order
  if (work.do === 'session') return session(work, order, say, signal)
  if (work.do === 'attack') return runAttack(work, folder, signal)
  return runCell(cellOf(work, files), ownWords(own), signal, folder)
}

serveJobs(run)
