// SPDX-License-Identifier: Apache-2.0
/** Two recordings side by side: the places where the second run decided differently, the first one first. */
import { describeChildren, describeRoot } from '../trace/describe.ts'
import { diff, type Hunk } from '../trace/diff.ts'
import type { Group } from '../trace/groups.ts'
import type { Recording } from './recording.ts'

/** Places that are shown, and decisions of one of them on a side. */
const PLACES = 20
const DECISIONS = 100

export interface Decision {
  /** Number of the trap, where it is one. */
  readonly trap: number | undefined
  readonly text: string
  readonly lines: readonly string[]
}

export interface Place {
  /** The last decision before it that is the same, as the first has it. */
  readonly before: string | undefined
  readonly sides: readonly [readonly Decision[], readonly Decision[]]
  /** Decisions that are not listed. */
  readonly left: readonly [number, number]
}

export interface Comparison {
  readonly places: readonly Place[]
  /** There are more. */
  readonly more: boolean
}

export function compare(a: Recording, b: Recording): Comparison {
  const options = {
    values: true,
    nested: false,
    warnings: [a.warnings, b.warnings],
    machines: [a.header.machine, b.header.machine],
    rewritten: a.tellsRewritten && b.tellsRewritten,
  } as const
  const places: Place[] = []
  for (const hunk of diff(a.records(), b.records(), options)) {
    if (places.length === PLACES) return { places, more: true }
    places.push(placeOf(hunk, a, b))
  }
  return { places, more: false }
}

function placeOf({ before, a, b }: Hunk, left: Recording, right: Recording): Place {
  const shown = (groups: readonly Group[], { warnings }: Recording) =>
    groups.slice(0, DECISIONS).map(
      (group): Decision => ({
        trap: group.root.kind === 'trap' ? group.root.seq : undefined,
        text: describeRoot(group.root),
        lines: [...describeChildren(group, false, warnings)],
      }),
    )
  const more = (groups: readonly Group[]) => Math.max(0, groups.length - DECISIONS)
  return {
    before: before && describeRoot(before.root),
    sides: [shown(a, left), shown(b, right)],
    left: [more(a), more(b)],
  }
}
