// SPDX-License-Identifier: Apache-2.0
import type { OwnershipRange } from './operations.ts'

const PAGE = 4096

/** Runs as they are when they are few; else each of at most about `limit` parts of the range with what lies in it. */
export function atMost(runs: readonly OwnershipRange[], from: number, to: number, limit: number): OwnershipRange[] {
  if (runs.length <= limit) return runs.map(({ base, size, state, vm }) => ({ base, size, state, vm }))
  const bucket = Math.max(PAGE, Math.ceil((to - from) / limit / PAGE) * PAGE)
  const out: OwnershipRange[] = []
  const add = (range: OwnershipRange) => {
    const last = out.at(-1)
    if (last && last.state === range.state && last.vm === range.vm && last.base + last.size === range.base) {
      out[out.length - 1] = { ...last, size: last.size + range.size }
    } else out.push(range)
  }
  let i = 0
  for (let base = from; base < to; base += bucket) {
    const end = Math.min(base + bucket, to)
    while (i < runs.length && (runs[i]?.base ?? 0) + (runs[i]?.size ?? 0) <= base) i++
    const first = runs[i]
    if (first === undefined || first.base >= end) continue
    const next = runs[i + 1]
    const whole = first.base + first.size >= end || next === undefined || next.base >= end
    add({ base, size: end - base, state: whole ? first.state : 'mixed', vm: whole ? first.vm : 0 })
  }
  return out
}
