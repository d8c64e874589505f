// SPDX-License-Identifier: Apache-2.0
/** Who owns the pages of RAM, by what a recording says of pages that changed hands. */
import type { MachineDescription } from '../trace/format.ts'
import type { OwnershipRange } from '../trap/operations.ts'

/** A machine has fewer; what a recording claims beyond is not kept. */
const MOST = 20_000

type State = Pick<OwnershipRange, 'state' | 'vm'>

const HOST: State = { state: 'owned', vm: 0 }
const HYPERVISOR: State = { state: 'hyp', vm: 0 }

export class Owners {
  readonly #machine: Pick<MachineDescription, 'ram' | 'carveout'>
  /** Ascending, without gaps in RAM. */
  #ranges: OwnershipRange[] = []

  constructor(machine: Pick<MachineDescription, 'ram' | 'carveout'>) {
    this.#machine = machine
    this.reset()
  }

  copy(): Owners {
    const copy = new Owners(this.#machine)
    copy.#ranges = this.#ranges.slice()
    return copy
  }

  /** All RAM is the host's but hypervisor memory. */
  reset(): void {
    const { ram, carveout } = this.#machine
    this.#ranges = ram.map(({ base, size }) => ({ base, size, ...HOST }))
    this.set(carveout.base, carveout.size, HYPERVISOR)
  }

  set(base: number, size: number, to: State): void {
    if (this.#ranges.length > MOST) return
    const end = base + size
    const first = this.#ranges.findIndex(range => range.base + range.size > base)
    if (first < 0 || !(size > 0)) return
    let last = first
    while (last < this.#ranges.length && (this.#ranges[last]?.base ?? end) < end) last++
    const parts = this.#ranges.slice(first, last).flatMap((range): OwnershipRange[] => {
      const from = Math.max(base, range.base)
      const until = Math.min(end, range.base + range.size)
      const { state, vm } = range
      return [
        { base: range.base, size: from - range.base, state, vm },
        { base: from, size: until - from, ...to },
        { base: until, size: range.base + range.size - until, state, vm },
      ].filter(part => part.size > 0)
    })
    this.#ranges.splice(first, last - first, ...joined(parts))
  }

  /** Those that touch `from` to `to`. */
  ranges(from: number, to: number): OwnershipRange[] {
    return joined(
      this.#ranges.flatMap(({ base, size, state, vm }) => {
        const start = Math.max(from, base)
        const end = Math.min(to, base + size)
        return end > start ? [{ base: start, size: end - start, state, vm }] : []
      }),
    )
  }
}

/** Neighbours in the same state are one range. */
function joined(ranges: readonly OwnershipRange[]): OwnershipRange[] {
  const out: OwnershipRange[] = []
  for (const range of ranges) {
    const last = out.at(-1)
    if (last?.state === range.state && last.vm === range.vm && last.base + last.size === range.base) {
      out[out.length - 1] = { ...last, size: last.size + range.size }
    } else out.push(range)
  }
  return out
}
