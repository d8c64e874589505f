// SPDX-License-Identifier: Apache-2.0
import { Readable } from 'node:stream'
import { join } from '../../trace/join.ts'
import type { Source } from '../feed.ts'
import type { MachineManager } from '../machineManager.ts'
import type { PastTraps } from '../pastTraps.ts'
import { Problem } from '../problem.ts'
import type { Handlers } from '../schemas/route.ts'
import type { EventItem, TrapFilter, TrapsQuery, trace, WarningItem } from '../schemas/trace.ts'

function filterOf(query: TrapsQuery): TrapFilter {
  const { after: _a, before: _b, limit: _l, registers, commands, kinds, ...rest } = query
  const list = (text: string) => text.split(',').filter(Boolean)
  return {
    ...rest,
    ...(registers && { registers: list(registers) }),
    ...(commands && { commands: list(commands) }),
    ...(kinds && { kinds: list(kinds) as NonNullable<TrapFilter['kinds']> }),
  }
}

interface Traced extends Pick<MachineManager, 'recordedSegments'> {
  readonly history: Pick<MachineManager['history'], 'traps' | 'timeline'> & {
    readonly events: Source<EventItem>
    readonly warnings: Source<WarningItem>
    /** Where all that there is is not in the log. */
    readonly past?: Pick<PastTraps, 'last' | 'read' | 'detail' | 'numbered'>
  }
}

export function traceHandlers(manager: Traced): Handlers<typeof trace> {
  return {
    'GET /traps': async ({ query }) => {
      const { after, before, limit = 200 } = query
      const filter = filterOf(query)
      const { traps, past } = manager.history
      const { oldest, next } = traps
      if (after !== undefined) {
        const from = after + 1
        const earlier = (from < oldest && (await past?.read(from, oldest, limit, filter))) || {
          items: [],
          next: Math.max(from, oldest),
          missing: 0,
        }
        const { items, missing } = earlier
        if (items.length === limit || earlier.next < oldest) return { oldest, from, ...earlier }
        const rest = traps.read(from, limit - items.length, filter)
        return { oldest, from, next: rest.next, missing, items: [...items, ...rest.items] }
      }
      const kept = traps.last(limit, filter, before)
      if (kept.items.length === limit || kept.from > oldest || past === undefined)
        return { oldest, next, missing: 0, ...kept }
      const earlier = await past.last(limit - kept.items.length, filter, Math.min(kept.from, before ?? next))
      return { oldest, next, ...earlier, items: [...earlier.items, ...kept.items] }
    },
    'GET /traps/timeline': ({ query }) => manager.history.timeline(query),
    'GET /traps/:id': async ({ params }) => {
      const { traps, past } = manager.history
      const detail = traps.detail(params.id) ?? (await past?.detail(params.id))
      if (detail === undefined)
        throw new Problem(404, `no trap row ${params.id}, or it is neither in memory nor in a recording`)
      return detail
    },
    'GET /traps/numbered/:seq': async ({ params }) => {
      const { traps, past } = manager.history
      const row = traps.numbered(params.seq) ?? (await past?.numbered(params.seq))
      if (row === undefined)
        throw new Problem(
          404,
          `no trap ${params.seq}: it has not happened yet, or is neither in memory nor in a recording`,
        )
      return row
    },
    'GET /events': ({ query }) => manager.history.events.read((query.after ?? 0) + 1, query.limit ?? 200, undefined),
    'GET /warnings': ({ query }) =>
      manager.history.warnings.read((query.after ?? 0) + 1, query.limit ?? 200, undefined),
    'GET /trace': async () => {
      const segments = await manager.recordedSegments()
      if (segments.length === 0) throw new Problem(404, 'nothing is being recorded')
      return Readable.from(join(segments), { objectMode: false })
    },
  }
}
