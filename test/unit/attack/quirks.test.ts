// SPDX-License-Identifier: Apache-2.0
/** Known defects of the posted series whose effect reaches other pages than the host's: the attacker finds them without being told. */
import { expect, test } from 'vitest'
import { decodeCase, encodeCase, replay } from '../../../server/attack/cases.ts'
import type { HardwareOption } from '../../../server/attack/setup.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import type { PolicyFactory } from '../../../server/policy/policy.ts'
import { attackUntil } from './support.ts'

const whole: PolicyFactory = (machine, context) => pkvm(machine, context)

const FOUND: readonly (readonly [quirk: string, kind: RegExp, hardware: readonly HardwareOption[]])[] = [
  ['cmd-sync-msi', /^smmu-write msi-sync/, ['msi']],
  ['irq-cfg-msi', /^smmu-write msi-/, ['msi']],
  ['batch-over-4096', /^dma by stage 2, from a cache/, []],
  ['eats', /^dma (as Translated|by what an ATC kept)/, ['ats']],
  ['no-tlbi-while-off', /^dma (untranslated|by stage 2), from a cache/, []],
  ['idmap-never-initialised', /^dma by stage 2/, []],
  ['power-unowned', /^dma (untranslated|by stage 2)/, []],
  ['queues-unshared', /^smmu-write event/, []],
  ['l1-double-fetch', /^hypervisor-reads-vm/, []],
  ['l2-share-unchecked', /^hypervisor-reads-vm/, []],
  ['shutdown-panics', /^warns HYP_EVTQ_DISABLED/, []],
]

/** Those that show with SMMUs that are switched off and on. */
const SWITCHED = new Set(['power-unowned'])

test.each(FOUND)('%s', (quirk, kind, hardware) => {
  const power = SWITCHED.has(quirk) ? { power: { mode: undefined } } : {}
  const found = attackUntil(whole, kind, { hardware, quirks: [quirk], ...power })
  expect(found?.kind).toMatch(kind)
  if (found === undefined) return
  // The case says which quirk it needs, and shows nothing without it.
  const again = decodeCase(encodeCase(found), 'case')
  expect(again.quirks).toEqual([quirk])
  expect(replay(again, whole)?.kind).toBe(found.kind)
  const { quirks: _, ...without } = again
  expect(replay(without, whole)?.kind).not.toBe(found.kind)
})
