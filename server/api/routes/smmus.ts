// SPDX-License-Identifier: Apache-2.0
import { OK, resultName } from '../../policy/result.ts'
import { hex } from '../../smmu/bits.ts'
import { levelShift, tableBits } from '../../smmu/pagetable.ts'
import { ARM_SMMU_CMDQ_PROD } from '../../smmu/registers.ts'
import { shownAnswer } from '../../smmu/walkAnswer.ts'
import { parseBig } from '../hex.ts'
import type { MachineManager } from '../machineManager.ts'
import { Problem } from '../problem.ts'
import type { Handlers } from '../schemas/route.ts'
import type { smmus } from '../schemas/smmus.ts'

/** Tables that stand side by side at a start level, log2 (VMSAv8-64). */
const CONCATENATED_BITS = 4

export function smmuHandlers(manager: Pick<MachineManager, 'inspection' | 'status'>): Handlers<typeof smmus> {
  return {
    'GET /smmus/:smmu/registers': ({ params }) => manager.inspection.registers(params.smmu),
    'GET /smmus/:smmu/queues': ({ params: { smmu } }) => {
      const { trap, hit } = manager.status().held ?? {}
      const handsOver =
        hit?.phase === 'before' && trap?.write && trap.offset === ARM_SMMU_CMDQ_PROD && trap.smmu === smmu
      return manager.inspection.queues(smmu, handsOver ? trap?.lo : undefined)
    },
    'GET /smmus/:smmu/streams': ({ params }) => manager.inspection.streams(params.smmu),
    'GET /smmus/:smmu/streams/:sid': async ({ params: { smmu, sid }, query }) => {
      const stream = await manager.inspection.stream(smmu, sid, query.ssid ?? 0)
      const roots = stream.roots.map(({ address, input, ...rest }) => ({
        ...rest,
        address: hex(address),
        input: hex(input),
      }))
      return { ...stream, roots }
    },
    'GET /smmus/:smmu/table': async ({ params, query }) => {
      const { stage, address, level, granuleShift, inputBits, input } = query
      const at = Number(parseBig(address))
      if (!Number.isSafeInteger(at) || at % 8 !== 0) throw new Problem(422, `${address}: not the address of a table`)
      if (inputBits !== undefined) {
        const bits = inputBits - levelShift(level, granuleShift)
        if (bits < 0 || bits > tableBits(granuleShift) + CONCATENATED_BITS) {
          throw new Problem(422, `no table at level ${level} resolves ${inputBits} bits of input address`)
        }
      }
      return manager.inspection.tableAt(params.smmu, {
        stage,
        address: at,
        level,
        granuleShift,
        ...(inputBits !== undefined && { inputBits }),
        input: parseBig(input ?? '0'),
      })
    },
    'GET /smmus/:smmu/walk': async ({ params, query }) => {
      const { sid, iova, access = 'read', ssid, table = 'hardware' } = query
      const { outcome, steps, missing } = await manager.inspection.walk(params.smmu, {
        sid,
        ...(ssid !== undefined && { ssid }),
        iova: parseBig(iova),
        write: access === 'write',
        table,
      })
      return shownAnswer(outcome, steps, missing)
    },
    'GET /smmus/:smmu/power': async ({ params }) => ({ now: await manager.inspection.powerState(params.smmu) }),
    'POST /smmus/:smmu/power': async ({ params, body }) => {
      const { result, now } = await manager.inspection.power(params.smmu, body.state)
      return { ok: result === OK, result: resultName(result), now }
    },
  }
}
