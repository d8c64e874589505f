// SPDX-License-Identifier: Apache-2.0
import { Readable } from 'node:stream'
import { join } from '../../trace/join.ts'
import type { Source } from '../feed.ts'
import type { MachineManager } from '../machineManager.ts'
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
  }
}

export function traceHandlers(manager: Traced): Handlers<typeof trace> {
  return {
    'GET /traps': ({ query }) => {
      const { after, before, limit = 200 } = query
      const filter = filterOf(query)
      const { oldest, next } = manager.history.traps
      if (after !== undefined) return { oldest, ...manager.history.traps.read(after + 1, limit, filter) }
      return { oldest, next, items: manager.history.traps.last(limit, filter, before) }
    },
    'GET /traps/timeline': ({ query }) => manager.history.timeline(query),
    'GET /traps/:id': ({ params }) => {
      const detail = manager.history.traps.detail(params.id)
      if (detail === undefined) throw new Problem(404, `no trap row ${params.id}, or it is no longer kept`)
      return detail
    },
    'GET /traps/numbered/:seq': ({ params }) => {
      const row = manager.history.traps.numbered(params.seq)
      if (row === undefined)
        throw new Problem(404, `no trap ${params.seq} in the log: it has not happened yet, or is no longer kept`)
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
