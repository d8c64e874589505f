// SPDX-License-Identifier: Apache-2.0
import { resultName } from '../../policy/result.ts'
import { hex } from '../../smmu/bits.ts'
import type { OwnershipRange } from '../../trap/operations.ts'
import { parseBig } from '../hex.ts'
import type { MachineManager } from '../machineManager.ts'
import { Problem } from '../problem.ts'
import type { pages } from '../schemas/pages.ts'
import type { Handlers, RequestOf } from '../schemas/route.ts'

const MAX_RANGE = 2 ** 52

/** @throws Problem when it is no address that a page can have. */
function address(text: string, what: string): number {
  const value = parseBig(text)
  if (value > BigInt(MAX_RANGE)) throw new Problem(422, `${what} ${text} is above 2^52`)
  return Number(value)
}

interface Inspected extends Pick<MachineManager, 'inspection'> {
  readonly attacks: Pick<MachineManager['attacks'], 'report'>
}

export function pageHandlers(manager: Inspected): Handlers<typeof pages> {
  const change =
    (what: 'donate' | 'reclaim') =>
    async ({ body: { base, size, vm } }: RequestOf<(typeof pages)['POST /memory/donate']>) => {
      const result = await manager.inspection.pages(what, address(base, 'base'), size, vm)
      return { ok: result === 0, result: resultName(result) }
    }
  return {
    'GET /memory/ownership': async ({ query }) => {
      const { inspection } = manager
      const { ram } = inspection.hello
      const last = ram.at(-1)
      const { from: first, to: end, limit = 2_000 } = query
      const from = first === undefined ? (ram[0]?.base ?? 0) : address(first, 'from')
      const to = end === undefined ? (last ? last.base + last.size : 0) : address(end, 'to')
      if (to <= from) throw new Problem(422, 'the range is empty')
      if (to - from > 2 ** 44) throw new Problem(422, 'the range is larger than 16 TiB')
      const ranges = await inspection.ownership(from, to, limit)
      const el2 = await inspection.el2Ownership(from, to, limit)
      const shown = (range: OwnershipRange) => ({ ...range, base: hex(range.base) })
      return { from: hex(from), to: hex(to), ranges: ranges.map(shown), el2: el2?.map(shown) ?? null }
    },
    'GET /memory/el2': async () => {
      const report = await manager.inspection.el2()
      if (report === null) return null
      const { registers, changes, serverUs, checks, agreement, problem = null } = report
      const disagreements = (agreement?.disagreements ?? []).map(found => ({ ...found, base: hex(found.base) }))
      return { registers, changes, serverUs, checks, agreement: agreement && { ...agreement, disagreements }, problem }
    },
    'GET /memory/oracle': async () => {
      const report = await manager.inspection.oracle()
      return report && { ...report, unjudged: report.unjudged ?? null }
    },
    'GET /memory/attacks': () => manager.attacks.report(),
    'GET /memory/reach': async ({ query }) => {
      const streams = await manager.inspection.reach(query.smmu ?? 0)
      return streams.map(({ leaves, ...stream }) => ({
        ...stream,
        mapped: leaves.map(({ input, address, size }) => ({ iova: hex(input), base: hex(address), size })),
      }))
    },
    'GET /memory/bytes': ({ query }) => {
      const at = address(query.address, 'address')
      const bytes = manager.inspection.bytes(at, query.length ?? 256)
      return { address: hex(at), bytes: Buffer.from(bytes).toString('hex') }
    },
    'POST /memory/donate': change('donate'),
    'POST /memory/reclaim': change('reclaim'),
  }
}
