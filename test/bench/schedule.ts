// SPDX-License-Identifier: Apache-2.0
/** When a thread ran, when it could have but had no processor, and when it slept: from the kernel's scheduler events. */

/** ns of the kernel's monotonic clock; `behind` is the thread that had the processor, 0 while it was idle. */
export interface Span {
  readonly from: number
  readonly to: number
  readonly state: 'ran' | 'waited' | 'slept'
  readonly behind?: number
}

/** ns in each state. */
export interface Shares {
  ran: number
  slept: number
  waited: number
  /** Of `waited`, by thread that had the processor. */
  readonly behind: Map<number, number>
}

const LINE = /\[(\d+)\] \S+ +(\d+)\.(\d{6}): (sched_switch|sched_waking|page_fault_user|sys_enter|sys_exit): (.*)$/
const SWITCH = /prev_pid=(\d+) .*prev_state=(\S+) ==> .*next_pid=(\d+) /
const WAKING = / pid=(\d+) .*target_cpu=(\d+)/

/**
 * @param lines of tracefs' `trace`, with `trace_clock` mono, oldest first: sched_switch of all threads, sched_waking of `thread`,
 *   and anything that it does itself
 * @param thread as the kernel numbers it
 */
export function scheduleOf(lines: Iterable<string>, thread: number): Span[] {
  const spans: Span[] = []
  const current = new Map<number, number>()
  let state = 'slept' as Span['state']
  let processor = -1
  let since = undefined as number | undefined
  let behind = undefined as number | undefined
  const change = (at: number, to: Span['state'], other?: number) => {
    if (since !== undefined && at > since) {
      spans.push({ from: since, to: at, state, ...(state === 'waited' && behind !== undefined && { behind }) })
    }
    since = at
    state = to
    behind = other
  }
  const mark = `-${thread} `
  for (const line of lines) {
    const match = LINE.exec(line)
    if (match === null) continue
    const [, cpuText, seconds, micros, event, rest] = match
    const cpu = Number(cpuText)
    const at = (Number(seconds) * 1e6 + Number(micros)) * 1000
    // The kernel loses a switch from the idle task now and then: what the thread does itself shows that it runs.
    if (state !== 'ran' && line.slice(0, match.index).includes(mark)) change(at, 'ran')
    if (event === 'sched_waking') {
      const waking = WAKING.exec(` ${rest}`)
      if (waking === null || Number(waking[1]) !== thread || state !== 'slept') continue
      processor = Number(waking[2])
      change(at, 'waited', current.get(processor))
    } else if (event === 'sched_switch') {
      const [, prev, prevState, next] = SWITCH.exec(rest) ?? []
      if (prev === undefined) continue
      current.set(cpu, Number(next))
      if (Number(next) === thread) {
        processor = cpu
        change(at, 'ran')
      } else if (Number(prev) === thread) {
        // R: it would have gone on. Anything else: it sleeps until it is woken.
        change(at, prevState.startsWith('R') ? 'waited' : 'slept', Number(next))
      } else if (state === 'waited' && cpu === processor) change(at, 'waited', Number(next))
    }
  }
  return spans
}

/** What a thread did for itself, in time, ns: page faults, and system calls with their number. */
export interface Calls {
  readonly faults: readonly number[]
  readonly calls: readonly { readonly from: number; readonly to: number; readonly number: number }[]
}

/** @param lines page_fault_user, sys_enter and sys_exit of `thread`, among others */
export function callsOf(lines: Iterable<string>, thread: number): Calls {
  const faults: number[] = []
  const calls: { from: number; to: number; number: number }[] = []
  const mark = `-${thread} `
  let entered: { from: number; number: number } | undefined
  for (const line of lines) {
    if (!line.includes(mark)) continue
    const match = LINE.exec(line)
    if (match === null) continue
    const [, , seconds, micros, event, rest] = match
    const at = (Number(seconds) * 1e6 + Number(micros)) * 1000
    if (event === 'page_fault_user') faults.push(at)
    else if (event === 'sys_enter') entered = { from: at, number: Number(/^NR (\d+)/.exec(rest)?.[1]) }
    else if (event === 'sys_exit' && entered !== undefined) {
      calls.push({ ...entered, to: at })
      entered = undefined
    }
  }
  return { faults, calls }
}

/** Index of the first of `spans` that ends after `from`. @param spans ordered, without overlap */
export function firstAfter(spans: readonly { readonly to: number }[], from: number): number {
  let low = 0
  for (let high = spans.length; low < high; ) {
    const middle = (low + high) >> 1
    if (spans[middle].to <= from) low = middle + 1
    else high = middle
  }
  return low
}

/** How much of [from, to) a thread spent in which state. @param spans ordered, without overlap */
export function sharesOf(spans: readonly Span[], from: number, to: number): Shares {
  const shares: Shares = { ran: 0, slept: 0, waited: 0, behind: new Map() }
  for (let i = firstAfter(spans, from); i < spans.length && spans[i].from < to; i++) {
    const { state, behind = 0 } = spans[i]
    const ns = Math.min(to, spans[i].to) - Math.max(from, spans[i].from)
    shares[state] += ns
    if (state === 'waited') shares.behind.set(behind, (shares.behind.get(behind) ?? 0) + ns)
  }
  return shares
}
