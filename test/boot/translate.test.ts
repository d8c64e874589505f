// SPDX-License-Identifier: Apache-2.0
/** Boots whose devices' addresses the server translates, or checks. */
import { expect, test } from 'vitest'
import { enums } from '../../protocol/messages.ts'
import type { Report } from '../../server/run/runReport.ts'
import { ARM_SMMU_CMDQ_PROD } from '../../server/smmu/registers.ts'
import { TraceReader } from '../../server/trace/reader.ts'
import { recordedMachine } from '../../server/trace/recordedMachine.ts'
import type { RecordOf } from '../../server/trace/records.ts'
import type { TranslateReport } from '../../server/translate/translator.ts'
import { cosim } from './cli.ts'

test.each([
  ['server', []],
  ['lockstep', []],
  ['lockstep', ['--policy', 'passthrough']],
  ['lockstep', ['--until', 'cmdq']],
] as const)('--translate %s %j', async (mode, args) => {
  const { code, report, said } = await cosim(['boot', '--translate', mode, ...args])
  expect(report?.message, said).toBeUndefined()
  expect(code).toBe(0)
  const { outcome, workload, translate } = report as Report & { readonly translate: TranslateReport }
  expect(outcome).toBe('ok')
  expect(workload.filter(({ ok }) => ok)).toHaveLength(5)
  expect(translate.mode).toBe(mode)
  expect(translate.misses).toBeGreaterThan(1000)
  expect(translate.findings).toEqual([])
  expect(translate.mismatches).toBe(0)
})

test('a recording with --translate server holds what a walk needs, the guest’s tables included', async () => {
  const { report, said } = await cosim(['boot', '--translate', 'server'])
  expect(report?.outcome, said).toBe('ok')
  const path = report?.recording?.path ?? ''
  // The last one before an unmap: at the end Linux switches the SMMU off.
  let newest: RecordOf<'translate'> | undefined
  let last: RecordOf<'translate'> | undefined
  let at = 0
  for (const record of TraceReader.open(path).records()) {
    if (record.kind === 'translate' && record.status === enums.translation.mapped[0]) newest = record
    else if (record.kind === 'trap' && newest !== undefined) {
      if (record.offset === ARM_SMMU_CMDQ_PROD) [last, at] = [newest, record.seq]
      newest = undefined
    }
  }
  if (last === undefined) throw new Error('nothing was translated')
  const { machine, problems, unknown } = await recordedMachine(path, at)
  expect([problems, unknown]).toEqual([[], undefined])
  const { smmu, sid, iovaHi, iovaLo, access, pa } = last
  const iova = (BigInt(iovaHi) << 32n) | BigInt(iovaLo)
  const walk = machine.walk({ smmu, sid, iova, write: (access & enums.access.write[0]) !== 0 })
  expect(walk).toMatchObject({ outcome: 'translated', pa: `0x${pa.toString(16)}` })
  expect(walk.steps.map(({ what }) => what)).toEqual(expect.arrayContaining(['STE', 'CD', 'S1', 'S2']))
})
