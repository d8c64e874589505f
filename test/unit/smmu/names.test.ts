// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { commandNumber, eventNumber, nearest, REGISTER_NAMES, registerOffset } from '../../../server/smmu/names.ts'

test.each([
  ['CFGI_STE', 0x03],
  ['cmdq_op_cfgi_ste', 0x03],
  ['CMD_CFGI_STE_RANGE', 0x04],
  ['CFGI_ALL', 0x04],
  ['CMDQ_OP_CFGI_ALL', 0x04],
  ['CMDQ_OP_PREFETCH_CFG', 0x01],
  ['PREFETCH_CONFIG', 0x01],
  ['CMD_SYNC', 0x46],
  ['CMDQ_OP_CMD_SYNC', 0x46],
  ['SYNC', 0x46],
  ['NONSENSE', undefined],
])('command %s', (name, opcode) => {
  expect(commandNumber(name)).toBe(opcode)
})

test('events and registers, as Linux and as the specification have them', () => {
  expect([eventNumber('EVT_ID_TRANSLATION_FAULT'), eventNumber('F_TRANSLATION'), eventNumber('f_translation')]).toEqual(
    [undefined, 0x10, 0x10],
  )
  for (const name of ['CR0', 'SMMU_CR0', 'ARM_SMMU_CR0', 'arm_smmu_cr0', '0x20'])
    expect(registerOffset(name)).toBe(0x20)
  expect(registerOffset('CR9')).toBeUndefined()
})

test('the nearest name, or none that is near', () => {
  expect(nearest('CMDQ_PRD', REGISTER_NAMES)).toBe('CMDQ_PROD')
  expect(nearest('completely else', REGISTER_NAMES)).toBeUndefined()
})
