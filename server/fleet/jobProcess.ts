// SPDX-License-Identifier: Apache-2.0
/** Runs jobs for a worker, in a process of its own: a job that ends it takes no other one along, and no connection to the queue. */
import { inTime } from '../control/inTime.ts'
import { Machines } from '../sessions/campaign.ts'
import { neverRan, ownWords, runCell } from '../sessions/matrix.ts'
import { runSession } from '../sessions/session.ts'
import { runAttack } from './attack.ts'
import { cellOf } from './cell.ts'
import type { CellWork, SessionWork } from './job.ts'
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
  const { prepared, snapshot } = await inTime(machines.of(job), signal)
  const { folder: _, ...result } = await runSession(job, prepared, snapshot, folder, signal)
  if (result.evidence.unstarted) throw new Error(result.evidence.problem)
  return result
}

async function cell(work: CellWork, { files, own, folder }: Order, signal: AbortSignal) {
  const result = await runCell(cellOf(work, files), ownWords(own), signal, folder)
  if (neverRan(result)) throw new Error(result.message)
  return result
}

const run: RunJob = (order, say, signal) => {
  const { work, folder } = order
  if (work.do === 'session') return session(work, order, say, signal)
  if (work.do === 'attack') return runAttack(work, folder, signal)
  return cell(work, order, signal)
}

serveJobs(run)
