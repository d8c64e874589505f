// SPDX-License-Identifier: Apache-2.0

import { type WarningTable, warningById } from '../policy/warnings.ts'
import { addressOf } from '../smmu/bits.ts'
import { ARM_SMMU_CMDQ_CONS, ARM_SMMU_CMDQ_PROD, registerAt } from '../smmu/registers.ts'
import { Addresses, SamePages } from './addresses.ts'
import { describeChildren, describeRoot } from './describe.ts'
import type { MachineDescription } from './format.ts'
import { type Group, groups, type Item, isGroup } from './groups.ts'
import { type RecordOf, request, type TraceRecord, verdict } from './records.ts'
import type { Symbols } from './symbols.ts'

/** What two runs are compared by. */
export interface DiffOptions {
  /** Values that are read and written; without them only which registers, and the outcome. */
  readonly values: boolean
  /** Accesses to hardware and memory that a decision made. */
  readonly nested: boolean
  /** What the ids of warnings stand for, in the first and in the second. */
  readonly warnings: readonly [WarningTable, WarningTable]
  /** What the machines of the first and of the second have where, to tell addresses that differ by run; absent: all count. */
  readonly machines?: readonly [MachineDescription, MachineDescription]
  /** Whether a command was kept as it was or rewritten; not every recording tells. Default: yes. */
  readonly rewritten?: boolean
}

/** A place where two runs differ: decisions of the first and of the second between decisions that are the same. */
export interface Hunk {
  /** The last decision before it that is the same. */
  readonly before: Group | undefined
  readonly a: readonly Group[]
  readonly b: readonly Group[]
}

/** So many decisions ahead a place is looked for where both runs agree again, on so many in a row. */
const WINDOW = 256
const AGREEMENT = 3

/** Index and wrap bits of the largest queue. */
const INDEX = 0xf_ffff

/** A decision, and what of it is compared. */
interface Step {
  readonly group: Group
  readonly key: string
  /** Pages in it that differ by run, in order. */
  readonly pages: readonly number[]
}

/** Compares the decisions of two runs in order. @yields the places where they differ, first one first */
export function* diff(a: Iterable<TraceRecord>, b: Iterable<TraceRecord>, options: DiffOptions): Generator<Hunk> {
  const [here, there] = options.machines ?? []
  const left = new Steps(groups(a), options, options.warnings[0], here)
  const right = new Steps(groups(b), options, options.warnings[1], there)
  const same = new SamePages()
  let before: Group | undefined
  for (;;) {
    const l = left.peek(0)
    const r = right.peek(0)
    if (l === undefined && r === undefined) return
    if (l !== undefined && l.key === r?.key) {
      if (l.group.root.kind === 'reset') same.forget()
      const [a, b] = [left.take(1), right.take(1)]
      if (!same.match(l.pages, r.pages)) yield { before, a, b }
      before = l.group
      continue
    }
    const [i, j] = agreement(left, right)
    yield { before, a: left.take(i), b: right.take(j) }
  }
}

/** How many steps of each side come before the nearest place where they agree. */
function agreement(left: Steps, right: Steps): [number, number] {
  for (let sum = 1; sum < 2 * WINDOW; sum++) {
    for (let i = Math.max(0, sum - WINDOW + 1); i <= Math.min(sum, WINDOW - 1); i++) {
      if (agree(left, i, right, sum - i)) return [i, sum - i]
    }
  }
  return [left.available(WINDOW), right.available(WINDOW)]
}

function agree(left: Steps, i: number, right: Steps, j: number): boolean {
  for (let n = 0; n < AGREEMENT; n++) {
    const l = left.peek(i + n)
    const r = right.peek(j + n)
    if (l?.key !== r?.key) return false
    // Both at their end.
    if (l === undefined) return true
  }
  return true
}

/** Decisions of a run, with a look ahead. */
class Steps {
  readonly #items: Iterator<Item>
  readonly #options: DiffOptions
  readonly #warnings: WarningTable
  /** Last CMDQ_PROD of each SMMU. */
  readonly #prod = new Map<number, number>()
  readonly #addresses: Addresses | undefined
  #ahead: Step[] = []

  constructor(
    items: Iterable<Item>,
    options: DiffOptions,
    warnings: WarningTable,
    machine: MachineDescription | undefined,
  ) {
    this.#warnings = warnings
    this.#addresses = machine && new Addresses(machine)
    this.#items = items[Symbol.iterator]()
    this.#options = options
  }

  peek(distance: number): Step | undefined {
    while (this.#ahead.length <= distance) {
      const { value, done } = this.#items.next()
      if (done) return undefined
      const item = value as Item
      if (!isGroup(item)) continue
      const pages: number[] = []
      this.#ahead.push({ group: item, key: this.#key(item, pages), pages })
    }
    return this.#ahead[distance]
  }

  /** Everything that should be the same in two runs: no times, no sequence numbers, no PCs. */
  #key({ root, children }: Group, pages: number[]): string {
    const place = (address: number) => this.#addresses?.name(address, pages) ?? address
    const parts: (string | number)[] = [root.kind]
    if (root.kind === 'trap') {
      parts.push(root.smmu, root.write, root.offset, root.size, root.aborted)
      if (this.#options.values) parts.push(...this.#value(root, pages))
    } else if (root.kind === 'request') {
      const { request: asked, result, v0, v1, v2 } = root
      parts.push(asked, result)
      // VTTBR_EL2, or the pages that change hands.
      if (asked === request.stage2Changed) parts.push(place(addressOf(v0, v1)), v2)
      else parts.push(asked === request.donate || asked === request.reclaim ? place(v0) : v0, v1, v2)
    } else if (root.kind === 'translate') {
      parts.push(root.sid, root.iovaLo, root.iovaHi, root.status, place(root.pa))
    }
    parts.push(...childKeys(children, this.#options, this.#warnings, this.#addresses, pages))
    return parts.join(' ')
  }

  /** Of queue indices only how far they moved counts, so that one command more does not make all that follows differ. */
  #value({ smmu, offset, write, size, lo, hi }: RecordOf<'trap'>, pages: number[]): (string | number)[] {
    if (offset !== ARM_SMMU_CMDQ_PROD && offset !== ARM_SMMU_CMDQ_CONS) {
      return registerValue({ offset, size, lo, hi }, this.#addresses, pages)
    }
    const moved = (lo - (this.#prod.get(smmu) ?? 0)) & INDEX
    if (write && offset === ARM_SMMU_CMDQ_PROD) this.#prod.set(smmu, lo)
    return [moved, hi]
  }

  available(limit: number): number {
    this.peek(limit - 1)
    return Math.min(limit, this.#ahead.length)
  }

  take(count: number): Group[] {
    return this.#ahead.splice(0, count).map(({ group }) => group)
  }
}

interface Access {
  readonly offset: number
  readonly size: number
  readonly lo: number
  readonly hi: number
}

/** The address in a register apart from its other bits. An access to half of one has no address that could be told. */
function registerValue(
  { offset, size, lo, hi }: Access,
  addresses: Addresses | undefined,
  pages: number[],
): (string | number)[] {
  const register = registerAt(offset)
  const bits = register?.address
  if (addresses === undefined || bits === undefined || size * 8 !== register?.bits) return [lo, hi]
  const address = addressOf((lo & bits.lo) >>> 0, (hi & bits.hi) >>> 0)
  return [addresses.name(address, pages), (lo & ~bits.lo) >>> 0, (hi & ~bits.hi) >>> 0]
}

/** What the children of a decision are compared by. */
function childKeys(
  children: readonly TraceRecord[],
  { values, nested, rewritten = true }: DiffOptions,
  warnings: WarningTable,
  addresses: Addresses | undefined,
  pages: number[],
): (string | number)[] {
  const place = (address: number) => addresses?.name(address, pages) ?? address
  const parts: (string | number)[] = []
  for (const child of children) {
    switch (child.kind) {
      case 'command':
        parts.push('c', child.opcode, !rewritten && child.verdict === verdict.rewritten ? verdict.kept : child.verdict)
        break
      case 'stream':
        parts.push('s', child.sid, child.hostConfig, child.shadowConfig)
        break
      case 'warning':
        parts.push('w', warningById(warnings, child.id)?.code ?? child.id)
        if (values) parts.push(...[child.v0, child.v1, child.v2, child.v3].map(place))
        break
      case 'fault':
        parts.push('f', child.rule, child.action)
        break
      case 'hardware':
        if (nested) parts.push('h', child.write, child.offset, child.ok)
        if (nested && values) parts.push(...registerValue(child, addresses, pages))
        break
      case 'memory':
        if (nested) parts.push('m', child.write, child.length, child.ok)
        if (nested && values) {
          const { address, digest, bytes } = child
          parts.push(place(address), digest, addresses?.words(bytes) ?? Buffer.from(bytes).toString('latin1'))
        }
        break
    }
  }
  return parts
}

/** A line of a hunk: `-` only in the first run, `+` only in the second. */
export interface HunkLine {
  readonly sign: '-' | '+' | ' '
  readonly text: string
}

/** A hunk for people. @param symbols of the first and of the second */
export function* describeHunk(
  { before, a, b }: Hunk,
  nested: boolean,
  warnings: DiffOptions['warnings'],
  symbols: readonly [Symbols | undefined, Symbols | undefined] = [undefined, undefined],
): Generator<HunkLine> {
  yield { sign: ' ', text: before ? describeRoot(before.root, symbols[0]) : '(start)' }
  for (const [sign, side, table, functions] of [
    ['-', a, warnings[0], symbols[0]],
    ['+', b, warnings[1], symbols[1]],
  ] as const) {
    for (const group of side) {
      yield { sign, text: describeRoot(group.root, functions) }
      for (const line of describeChildren(group, nested, table, functions)) yield { sign, text: `         ${line}` }
    }
  }
}
