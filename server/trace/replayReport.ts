// SPDX-License-Identifier: Apache-2.0
import type { WarningTable } from '../policy/warnings.ts'
import { describeChildren, describeRoot } from './describe.ts'
import type { Group } from './groups.ts'
import type { Output } from './output.ts'
import type { Divergence } from './replay.ts'
import { counted, grouped } from './words.ts'

/** Differences of one decision that are printed without being asked for. */
const SHOWN = 8

/** What the differences of a replay come to. */
export class ReplaySummary {
  /** Decisions that went differently. */
  divergent = 0
  /** Of them, those of which the recording lost something, so that it may be to blame. */
  incomplete = 0
  first: Divergence | undefined
  readonly #subjects = new Map<string, { count: number; readonly first: Group }>()

  add(divergence: Divergence): void {
    const { group, differences } = divergence
    this.divergent++
    if (!group.whole) this.incomplete++
    this.first ??= divergence
    for (const subject of new Set(differences.map(difference => difference.subject))) {
      const entry = this.#subjects.get(subject)
      if (entry) entry.count++
      else this.#subjects.set(subject, { count: 1, first: group })
    }
  }

  /** What differed, in how many decisions, and where first; in order of the first. */
  subjects(): { readonly subject: string; readonly count: number; readonly first: Group }[] {
    return [...this.#subjects].map(([subject, entry]) => ({ subject, ...entry }))
  }
}

/** A decision, what went differently in it, and, if asked for, everything that was recorded of it. */
export function printDivergence(
  { group, differences }: Divergence,
  nested: boolean,
  warnings: WarningTable,
  out: Output,
): void {
  out.line(describeRoot(group.root))
  if (nested) for (const line of describeChildren(group, true, warnings)) out.line(`          ${line}`)
  for (const { recorded, replayed } of nested ? differences : differences.slice(0, SHOWN)) {
    out.line(`  recorded  ${recorded}`)
    out.line(`  replayed  ${replayed}`)
  }
  if (!nested && differences.length > SHOWN) out.line(`  and ${differences.length - SHOWN} more (--nested shows all)`)
}

export function printSummary(
  summary: ReplaySummary,
  decisions: number,
  nested: boolean,
  warnings: WarningTable,
  out: Output,
): void {
  if (summary.first === undefined) {
    out.line('no difference')
    return
  }
  out.line('first difference:')
  printDivergence(summary.first, nested, warnings, out)
  out.line('')
  out.line(`${grouped(summary.divergent)} of ${counted(decisions, 'decision')} went differently:`)
  for (const { subject, count, first } of summary.subjects()) {
    out.line(`  ${grouped(count).padStart(7)}  ${subject.padEnd(44)} first at ${describeRoot(first.root).trim()}`)
  }
  if (summary.incomplete > 0) out.line(`in ${grouped(summary.incomplete)} of them the recording misses records`)
}
