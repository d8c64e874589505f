// SPDX-License-Identifier: Apache-2.0
/** What guests with several vCPUs notice of the server: while they only compute, and while eight readers share two disks. */
import type { Report } from '../../server/run/runReport.ts'
import { bootOnce } from './boots.ts'
import type { Context, Figure, Part } from './figure.ts'
import { inPairs } from './stats.ts'

/** On two processors. */
const PARALLEL = [
  { vcpus: 1, target: '≤ 1.1 ×' },
  { vcpus: 2, target: '≤ 1.4 ×' },
  { vcpus: 4, target: '≤ 1.3 ×' },
] as const

/** s, as the guest timed it. */
const seconds =
  (what: string) =>
  ({ timed = [] }: Report): number => {
    const entry = timed.find(({ name }) => name === what)
    if (entry === undefined) throw new Error(`the guest timed no "${what}"`)
    return entry.ms / 1000
  }

async function compare(
  context: Context,
  bench: 'compute' | 'parallel',
  vcpus: number,
  target: string,
  task: string,
): Promise<Figure> {
  const { scale, signal, say } = context
  const run = (...args: string[]) =>
    bootOnce({ ...context, scale: { ...scale, reads: 0 } }, '--smp', `${vcpus}`, '--append', task, ...args)
  const { a, b } = await inPairs(
    scale.pairs,
    signal,
    pair => {
      say(`${bench}: ${vcpus} vCPUs, pair ${pair + 1} of ${scale.pairs}`)
      return run()
    },
    () => run('--baseline'),
  )
  const vcpuText = `${vcpus} ${vcpus === 1 ? 'vCPU' : 'vCPUs'}`
  return {
    bench,
    what: bench === 'compute' ? `work without I/O, ${vcpuText}` : `eight readers on two disks, ${vcpuText}`,
    unit: 's',
    a: { label: 'pkvm, nested', values: a.map(seconds(bench)) },
    b: { label: 'without the server', values: b.map(seconds(bench)) },
    target,
  }
}

/** A vCPU for each processor: what a thread that waits for traps takes, the guest loses. */
export async function benchCompute(context: Context, processors: number): Promise<Part> {
  return {
    figures: [await compare(context, 'compute', processors, '≤ 1.01 ×', `cosim.compute=${context.scale.rounds}`)],
  }
}

export async function benchParallel(context: Context): Promise<Part> {
  const figures: Figure[] = []
  for (const { vcpus, target } of PARALLEL) {
    try {
      const task = `cosim.parallel=${context.scale.parallelReads}`
      figures.push(await compare(context, 'parallel', vcpus, target, task))
    } catch (error) {
      // What was measured by then is worth having.
      if (!context.signal.aborted || figures.length === 0) throw error
      break
    }
  }
  return { figures }
}
