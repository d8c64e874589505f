// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { namesStream } from '../../../server/smmu/commandFields.ts'
import {
  CMDQ_OP_CFGI_ALL,
  CMDQ_OP_CFGI_CD,
  CMDQ_OP_CFGI_STE,
  CMDQ_OP_TLBI_NH_VA,
} from '../../../server/smmu/commands.ts'

test.each([
  ['CFGI_STE of it', [CMDQ_OP_CFGI_STE, 8, 1, 0], 8, true],
  ['CFGI_STE of another', [CMDQ_OP_CFGI_STE, 8, 1, 0], 9, false],
  ['CFGI_CD', [CMDQ_OP_CFGI_CD, 0xffff_ffff, 0, 0], 0xffff_ffff, true],
  ['a command without a StreamID', [CMDQ_OP_TLBI_NH_VA, 8, 0, 0], 8, false],
  // Range n: 2^(n+1) streams, whose lower n+1 bits do not count (IHI 0070 section 4.3.2).
  ['a range of two: the other one', [CMDQ_OP_CFGI_ALL, 8, 0, 0], 9, true],
  ['a range of two: beyond it', [CMDQ_OP_CFGI_ALL, 8, 0, 0], 10, false],
  ['a range of eight, named in the middle', [CMDQ_OP_CFGI_ALL, 0x0d, 2, 0], 8, true],
  ['a range of half of all', [CMDQ_OP_CFGI_ALL, 0, 30, 0], 0x7fff_ffff, true],
  ['the other half', [CMDQ_OP_CFGI_ALL, 0, 30, 0], 0x8000_0000, false],
  ['CFGI_ALL is about none in particular', [CMDQ_OP_CFGI_ALL, 8, 31, 0], 8, false],
])('%s', (_name, words, sid, expected) => {
  expect(namesStream(Uint32Array.from([0, 0, 0, 0, ...words]), 4, sid)).toBe(expected)
})
