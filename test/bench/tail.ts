// SPDX-License-Identifier: Apache-2.0
/**
 * What the slowest traps wait for: one boot with timed reads, its recording laid over the kernel's scheduler events. Not part of
 * `npm run bench`: it needs root, for tracefs, and the events cost time of their own.
 *
 *     node test/bench/tail.ts [--watched] [--reads 4000] [-- OPTION OF boot …]
 *
 * `--watched`: with a client on the stream of traps, as the benchmark's part `dashboard`. With `-- --translate server`, what the
 * IOTLB misses cost is shown as well. Times are of this machine; shares are what counts.
 */
import { execFileSync } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { registerName } from '../../server/smmu/registers.ts'
import { TraceReader } from '../../server/trace/reader.ts'
import { bootOnce } from './boots.ts'
import { watched } from './dashboard.ts'
import { type Context, FULL } from './figure.ts'
import { recordedTraps, type TimedTrap } from './linuxTraps.ts'
import type { Probed } from './parts.ts'
import { type Calls, callsOf, firstAfter, type Shares, type Span, scheduleOf, sharesOf } from './schedule.ts'
import { median } from './stats.ts'

const TRACEFS = '/sys/kernel/tracing'
const POLICY = fileURLToPath(new URL('./probePolicy.ts', import.meta.url))
/** Of each processor, KiB: some 20 s of a busy one. */
const BUFFER_KIB = 131_072
const ITS_OWN = ['exceptions/page_fault_user', 'raw_syscalls/sys_enter', 'raw_syscalls/sys_exit']
const EVENTS = ['sched/sched_switch', 'sched/sched_waking', ...ITS_OWN]
/** Target of the server's own time, p99, ns. */
const SLOW = 20e3
/** Traps before which code may never have run. */
const COLD = 500
const LOOK_MS = 500

const { values, positionals } = parseArgs({
  options: { watched: { type: 'boolean', default: false }, reads: { type: 'string', default: '4000' } },
  allowPositionals: true,
})

const tracefs = (file: string, text: string) => writeFileSync(join(TRACEFS, file), text)

/** Lines of what was traced: the buffers are larger than a string may be. */
function* tracedLines(): Generator<string> {
  const file = openSync(join(TRACEFS, 'trace'), 'r')
  try {
    const buffer = Buffer.alloc(1 << 20)
    let rest = ''
    for (;;) {
      const length = readSync(file, buffer)
      if (length === 0) break
      const lines = (rest + buffer.toString('latin1', 0, length)).split('\n')
      rest = lines.pop() ?? ''
      yield* lines
    }
  } finally {
    closeSync(file)
  }
}

/** What the threads of the run are, by number; looked up while they live. */
class Threads {
  readonly #kinds = new Map<number, string>()

  /** Children of this process, and theirs. */
  look(): void {
    const parents = new Map<number, { parent: number; name: string }>()
    for (const name of readdirSync('/proc').filter(entry => /^\d+$/.test(entry))) {
      try {
        const [, comm, parent] = /^\d+ \((.*)\) \S (\d+)/.exec(readFileSync(`/proc/${name}/stat`, 'latin1')) ?? []
        parents.set(Number(name), { parent: Number(parent), name: comm })
      } catch {
        // It is gone.
      }
    }
    const mine = (pid: number): boolean => {
      for (let at = pid; at > 1; at = parents.get(at)?.parent ?? 0) if (at === process.pid) return true
      return false
    }
    for (const [pid, { name }] of parents) {
      if (!mine(pid)) continue
      const owner = pid === process.pid ? 'the client' : name.startsWith('qemu') ? 'QEMU' : 'server'
      for (const task of existsSync(`/proc/${pid}/task`) ? readdirSync(`/proc/${pid}/task`) : []) {
        const main = Number(task) === pid
        const kind = owner === 'QEMU' ? (main ? 'QEMU’s main loop' : 'a vCPU, or another thread of QEMU') : owner
        this.#kinds.set(Number(task), kind === 'server' ? `server, ${main ? 'main' : 'another'} thread` : kind)
      }
    }
  }

  of(thread: number): string {
    return thread === 0 ? 'none: it was idle' : (this.#kinds.get(thread) ?? 'something else')
  }
}

const percentile = (sorted: readonly number[], q: number): number => sorted[Math.floor((sorted.length - 1) * q)] ?? 0
const us = (ns: number): string => `${(ns / 1000).toPrecision(3)} µs`
const percent = (part: number, whole: number): string => `${whole === 0 ? 0 : ((100 * part) / whole).toFixed(0)} %`

/** What a stretch of each trap went to, of all and of the slowest 1 %. */
function explain(what: string, traps: readonly { from: number; to: number }[], spans: readonly Span[], names: Threads) {
  const each = traps.map(({ from, to }) => ({ all: to - from, shares: sharesOf(spans, from, to) }))
  const sorted = (of: (e: (typeof each)[number]) => number) => each.map(of).sort((a, b) => a - b)
  const all = sorted(e => e.all)
  const running = sorted(e => e.all - e.shares.waited - e.shares.slept)
  const p99 = percentile(all, 0.99)
  console.log(`\n${what}: ${all.length} traps, p50 ${us(percentile(all, 0.5))}, p99 ${us(p99)}`)
  console.log(
    `  only what the trap thread ran of it: p50 ${us(percentile(running, 0.5))}, p99 ${us(percentile(running, 0.99))}`,
  )
  const slow = each.filter(e => e.all >= p99)
  const sum = (of: (s: Shares) => number) => slow.reduce((n, e) => n + of(e.shares), 0)
  const whole = slow.reduce((n, e) => n + e.all, 0)
  console.log(
    `  the slowest 1 %: it ran ${percent(
      sum(s => s.ran),
      whole,
    )}, could have run but had no processor ` +
      `${percent(
        sum(s => s.waited),
        whole,
      )}, slept ${percent(
        sum(s => s.slept),
        whole,
      )}`,
  )
  const behind = new Map<string, number>()
  for (const { shares } of slow)
    for (const [thread, ns] of shares.behind) behind.set(names.of(thread), (behind.get(names.of(thread)) ?? 0) + ns)
  for (const [name, ns] of [...behind].sort((a, b) => b[1] - a[1]))
    console.log(`    the processor had: ${name}, ${percent(ns, whole)}`)
}

/**
 * The server's own time by whether the thread was awake when the trap was sent, or had to be woken for it; and what is in the slow ones.
 */
function explainOwn(
  traps: readonly TimedTrap[],
  at: (trap: TimedTrap) => number,
  spans: readonly Span[],
  collections: readonly (readonly [number, number])[],
  { faults, calls }: Calls,
) {
  const inCalls = (from: number, to: number): number => {
    let ns = 0
    for (let i = firstAfter(calls, from); i < calls.length && calls[i].from < to; i++)
      ns += Math.min(to, calls[i].to) - Math.max(from, calls[i].from)
    return ns
  }
  const each = traps.map(trap => {
    const from = at(trap)
    const to = from + trap.own
    const before = sharesOf(spans, from - trap.way, from)
    const within = sharesOf(spans, from, to)
    return {
      trap,
      woken: before.slept + before.waited > 0,
      ran: trap.own - within.waited - within.slept,
      inCalls: inCalls(from, to),
      collected: collections.some(([ns, long]) => ns < to && ns + long > from),
      faulted: faults.some(ns => ns >= from && ns < to),
    }
  })
  const show = (what: string, of: typeof each) => {
    const sorted = (value: (e: (typeof each)[number]) => number) => of.map(value).sort((a, b) => a - b)
    const own = sorted(e => e.trap.own)
    const alone = sorted(e => e.ran - Math.min(e.ran, e.inCalls))
    const slow = of.filter(e => e.trap.own > SLOW)
    console.log(
      `  ${what}: ${percent(of.length, each.length)} of the traps, p50 ${us(percentile(own, 0.5))}, p99 ${us(percentile(own, 0.99))}; ` +
        `without system calls and waiting p50 ${us(percentile(alone, 0.5))}, p99 ${us(percentile(alone, 0.99))}`,
    )
    const whole = slow.reduce((n, e) => n + e.trap.own, 0)
    console.log(
      `    above ${us(SLOW)}: ${slow.length}; of their time ${percent(
        slow.reduce((n, e) => n + e.trap.own - e.ran, 0),
        whole,
      )} not running, ` +
        `${percent(
          slow.reduce((n, e) => n + e.inCalls, 0),
          whole,
        )} in system calls; ` +
        `${slow.filter(e => e.collected).length} with a garbage collection, ${slow.filter(e => e.faulted).length} with a page fault, ` +
        `${slow.filter(e => e.trap.seq < COLD).length} of the first ${COLD} traps`,
    )
    const kinds = new Map<string, number>()
    for (const { trap } of slow) {
      const kind = `${trap.write ? 'write' : 'read'} ${registerName(trap.offset)}`
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
    }
    const most = [...kinds].sort((a, b) => b[1] - a[1]).slice(0, 3)
    if (most.length > 0) console.log(`    ${most.map(([kind, n]) => `${kind} ${n}`).join(', ')}`)
  }
  console.log('\nserver’s own time, by what the trap thread did when the trap was sent')
  show(
    'it ran',
    each.filter(e => !e.woken),
  )
  show(
    'it slept, or waited for a processor',
    each.filter(e => e.woken),
  )
}

/** IOTLB misses of a boot with `--translate server`. */
function explainMisses(path: string): void {
  const ways: number[] = []
  const own: number[] = []
  for (const record of TraceReader.open(path).records()) {
    if (record.kind !== 'translate') continue
    ways.push(record.start - record.time)
    own.push(record.duration)
  }
  if (ways.length === 0) return
  const fastest = ways.reduce((a, b) => Math.min(a, b))
  const sum = (of: readonly number[]) => of.reduce((a, b) => a + b, 0)
  const sorted = ways.map(way => way - fastest).sort((a, b) => a - b)
  console.log(
    `\n${ways.length} IOTLB misses: way to the server above the fastest, p50 ${us(percentile(sorted, 0.5))}, p99 ` +
      `${us(percentile(sorted, 0.99))}, ${(sum(sorted) / 1e6).toFixed(1)} ms in all; the server’s own p50 ${us(median(own))}, ` +
      `${(sum(own) / 1e6).toFixed(1)} ms in all`,
  )
  const slept = sorted.filter(way => way > 15e3)
  console.log(`  ${slept.length} of them more than 15 µs, ${(sum(slept) / 1e6).toFixed(1)} ms of it`)
}

if (!existsSync(join(TRACEFS, 'trace'))) execFileSync('mount', ['-t', 'tracefs', 'tracefs', TRACEFS])
const folder = mkdtempSync(join(tmpdir(), 'cosim-tail-'))
const ended = new AbortController()
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => ended.abort(new Error(name)))
try {
  tracefs('tracing_on', '0')
  tracefs('trace_clock', 'mono')
  tracefs('buffer_size_kb', String(BUFFER_KIB))
  tracefs('trace', '')
  for (const event of EVENTS) tracefs(`events/${event}/filter`, '0')
  tracefs('events/sched/sched_switch/enable', '1')
  tracefs('tracing_on', '1')
  const file = join(folder, 'probe.json')
  const context: Context = {
    peers: [],
    scale: { ...FULL, reads: Number(values.reads) },
    signal: ended.signal,
    say: () => {},
    env: { COSIM_BENCH_PROBE: file, COSIM_BENCH_WHAT: 'when' },
  }
  const args = ['--policy', POLICY, ...positionals]
  const names = new Threads()
  let over = false
  const run = (values.watched ? watched(context, ...args) : bootOnce(context, ...args)).finally(() => {
    over = true
  })
  for (let filtered = false; !over; await sleep(LOOK_MS)) {
    names.look()
    if (filtered || !existsSync(file)) continue
    const thread = (JSON.parse(readFileSync(file, 'utf8')) as Probed).dated?.thread
    tracefs('events/sched/sched_waking/filter', `pid == ${thread}`)
    for (const event of ITS_OWN) tracefs(`events/${event}/filter`, `common_pid == ${thread}`)
    for (const event of EVENTS) tracefs(`events/${event}/enable`, '1')
    filtered = true
  }
  const report = await run
  tracefs('tracing_on', '0')
  const { dated } = JSON.parse(readFileSync(file, 'utf8')) as Probed
  const path = report.recording?.path
  if (dated === undefined || path === undefined) throw new Error('the boot left no probe, or no recording')
  const lines = [...tracedLines()]
  const spans = scheduleOf(lines, dated.thread)
  if (spans.length === 0) throw new Error(`no scheduler event of thread ${dated.thread}: were the buffers too small?`)
  const seen = new Map(dated.seen)
  const traps = recordedTraps(path)
  // The policy is called after the trap was decoded: the smallest difference is the distance of the two clocks.
  const shift = traps.reduce((least, { seq, start }) => Math.min(least, (seen.get(seq) ?? Infinity) - start), Infinity)
  const at = (trap: TimedTrap) => trap.start + shift
  const covered = traps.filter(
    trap => at(trap) - trap.way >= spans[0].from && at(trap) + trap.own <= (spans.at(-1)?.to ?? 0),
  )
  console.log(`${covered.length} of ${traps.length} traps lie within what the kernel kept (${lines.length} events)`)
  const round = covered.map(trap => ({ from: at(trap) - trap.way, to: at(trap) - trap.way + trap.total }))
  explain('round trip, as QEMU measured it', round, spans, names)
  explain(
    'server’s own time',
    covered.map(trap => ({ from: at(trap), to: at(trap) + trap.own })),
    spans,
    names,
  )
  explainOwn(covered, at, spans, dated.collections, callsOf(lines, dated.thread))
  explainMisses(path)
} finally {
  for (const event of EVENTS) tracefs(`events/${event}/enable`, '0')
  tracefs('trace', '')
  tracefs('buffer_size_kb', '1408')
  rmSync(folder, { recursive: true, force: true })
}
