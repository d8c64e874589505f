// SPDX-License-Identifier: Apache-2.0

import { type WarningTable, warningById } from '../policy/warnings.ts'
import { ARM_SMMU_CMDQ_CONS, ARM_SMMU_CMDQ_PROD } from '../smmu/registers.ts'
import { describeChildren, describeRoot } from './describe.ts'
import { type Group, groups, type Item, isGroup } from './groups.ts'
import { type RecordOf, type TraceRecord, verdict } from './records.ts'

/** What two runs are compared by. */
export interface DiffOptions {
  /** Values that are read and written; without them only which registers, and the outcome. */
  readonly values: boolean
  /** Accesses to hardware and memory that a decision made. */
  readonly nested: boolean
  /** What the ids of warnings stand for, in the first and in the second. */
  readonly warnings: readonly [WarningTable, WarningTable]
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
}

/** Compares the decisions of two runs in order. @yields the places where they differ, first one first */
export function* diff(a: Iterable<TraceRecord>, b: Iterable<TraceRecord>, options: DiffOptions): Generator<Hunk> {
  const left = new Steps(groups(a), options, options.warnings[0])
  const right = new Steps(groups(b), options, options.warnings[1])
  let before: Group | undefined
  for (;;) {
    const l = left.peek(0)
    const r = right.peek(0)
    if (l === undefined && r === undefined) return
    if (l?.key === r?.key) {
      before = l?.group
      left.take(1)
      right.take(1)
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
  #ahead: Step[] = []

  constructor(items: Iterable<Item>, options: DiffOptions, warnings: WarningTable) {
    this.#warnings = warnings
    this.#items = items[Symbol.iterator]()
    this.#options = options
  }

  peek(distance: number): Step | undefined {
    while (this.#ahead.length <= distance) {
      const { value, done } = this.#items.next()
      if (done) return undefined
      const item = value as Item
      if (isGroup(item)) this.#ahead.push({ group: item, key: this.#key(item) })
    }
    return this.#ahead[distance]
  }

  /** Everything that should be the same in two runs: no times, no sequence numbers. */
  #key({ root, children }: Group): string {
    const parts: (string | number)[] = [root.kind]
    if (root.kind === 'trap') {
      parts.push(root.smmu, root.write, root.offset, root.size, root.aborted)
      if (this.#options.values) parts.push(this.#value(root), root.hi)
    } else if (root.kind === 'request') parts.push(root.request, root.result, root.v0, root.v1, root.v2)
    else if (root.kind === 'translate') parts.push(root.sid, root.iovaLo, root.iovaHi, root.status, root.pa)
    parts.push(...childKeys(children, this.#options, this.#warnings))
    return parts.join(' ')
  }

  /** Of queue indices only how far they moved counts, so that one command more does not make all that follows differ. */
  #value({ smmu, offset, write, lo }: RecordOf<'trap'>): number {
    if (offset !== ARM_SMMU_CMDQ_PROD && offset !== ARM_SMMU_CMDQ_CONS) return lo
    const moved = (lo - (this.#prod.get(smmu) ?? 0)) & INDEX
    if (write && offset === ARM_SMMU_CMDQ_PROD) this.#prod.set(smmu, lo)
    return moved
  }

  available(limit: number): number {
    this.peek(limit - 1)
    return Math.min(limit, this.#ahead.length)
  }

  take(count: number): Group[] {
    return this.#ahead.splice(0, count).map(({ group }) => group)
  }
}

/** What the children of a decision are compared by. */
function childKeys(
  children: readonly TraceRecord[],
  { values, nested, rewritten = true }: DiffOptions,
  warnings: WarningTable,
): (string | number)[] {
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
        if (values) parts.push(child.v0, child.v1, child.v2, child.v3)
        break
      case 'fault':
        parts.push('f', child.rule, child.action)
        break
      case 'hardware':
        if (nested) parts.push('h', child.write, child.offset, child.ok)
        if (nested && values) parts.push(child.lo, child.hi)
        break
      case 'memory':
        if (nested) parts.push('m', child.write, child.length, child.ok)
        if (nested && values) parts.push(child.address, child.digest, Buffer.from(child.bytes).toString('latin1'))
        break
    }
  }
  return parts
}

/** A hunk for people: `-` only in the first run, `+` only in the second. */
export function describeHunk({ before, a, b }: Hunk, nested: boolean, warnings: DiffOptions['warnings']): string[] {
  const lines = [before ? `  ${describeRoot(before.root)}` : '  (start)']
  for (const [sign, side, table] of [
    ['-', a, warnings[0]],
    ['+', b, warnings[1]],
  ] as const) {
    for (const group of side) {
      lines.push(`${sign} ${describeRoot(group.root)}`)
      for (const line of describeChildren(group, nested, table)) lines.push(`${sign}          ${line}`)
    }
  }
  return lines
}
