// SPDX-License-Identifier: Apache-2.0
/** Hypervisors with one hole each: the attacker finds it by itself, and the case that it hands over shows it again. */
import { expect, test } from 'vitest'
import type { CampaignOptions } from '../../../server/attack/campaign.ts'
import { decodeCase, encodeCase, replay } from '../../../server/attack/cases.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import type { PolicyFactory } from '../../../server/policy/policy.ts'
import { COMMAND_KEPT } from '../../../server/policy/report.ts'
import { EPERM, OK } from '../../../server/policy/result.ts'
import { fieldPrep } from '../../../server/smmu/bits.ts'
import {
  CMDQ_OP_CFGI_ALL,
  CMDQ_OP_CMD_SYNC,
  CMDQ_OP_PREFETCH_CFG,
  CMDQ_OP_TLBI_NSNH_ALL,
  CMDQ_OP_TLBI_S12_VMALL,
} from '../../../server/smmu/commands.ts'
import type { PowerState } from '../../../server/smmu/hardware.ts'
import * as R from '../../../server/smmu/registers.ts'
import { attackUntil, filtered, KNOWN, withHole } from './support.ts'

const until = (until: CampaignOptions['until']): Partial<CampaignOptions> => ({ until })
const hardware = (...hardware: CampaignOptions['hardware']): Partial<CampaignOptions> => ({ hardware })
/** The tables are looked at in the end: what devices show before does not end a program. */
const passing = (...kinds: string[]): Partial<CampaignOptions> => ({
  known: [...KNOWN, ...kinds.map(kind => ({ kind, why: 'the hole' }))],
})
const isTlbi = (opcode: number) => opcode >= 0x10 && opcode <= 0x30

/** No TLBI reaches the hardware while pages are donated. */
const tlbsAreKept: PolicyFactory = (machine, context) => {
  let donating = false
  return withHole({
    machine: ({ memory }) => ({
      memory: filtered(memory, (_, bytes) => {
        if (!donating || bytes.length % 16 !== 0) return true
        for (let at = 0; at < bytes.length; at += 16) if (isTlbi(bytes[at])) bytes[at] = CMDQ_OP_PREFETCH_CFG
        return true
      }),
    }),
    pages: pages => ({
      donate: (base, size, vm) => {
        donating = true
        const result = pages.donate?.(base, size, vm) ?? OK
        donating = false
        return result
      },
    }),
  })(machine, context)
}

/** EVTQ_BASE is what the host writes, also while the queue is on. */
const eventsGoAnywhere = withHole({
  access: (trap, policy, { smmus }) => {
    policy.access(trap)
    if (trap.write && trap.offset === R.ARM_SMMU_EVTQ_BASE) {
      smmus[trap.smmu]?.hardware.write(trap.offset, trap.size, trap.lo, trap.hi)
    }
  },
})

const HOLES: readonly (readonly [string, PolicyFactory, string, Partial<CampaignOptions>])[] = [
  [
    'entries are taken as they are, which a device shows',
    withHole({ claims: true }),
    'dma untranslated',
    until('strtab'),
  ],
  [
    'entries are taken as they are, which their tables show',
    withHole({ claims: true }),
    'tables: no stage 2',
    until('strtab'),
  ],
  [
    'CMD_SYNC keeps its MSI',
    (machine, context) => pkvm(machine, context, { commands: { [CMDQ_OP_CMD_SYNC]: () => () => COMMAND_KEPT } }),
    'smmu-write msi-sync',
    hardware('msi'),
  ],
  ['the event queue is not looked at', eventsGoAnywhere, 'smmu-write event', hardware('unguarded')],
  ['TLBs keep pages that are donated', tlbsAreKept, 'dma by stage 2, from a cache', {}],
  [
    'a disabled SMMU lets everything through',
    withHole({
      access: (trap, policy, { smmus }) => {
        policy.access(trap)
        if (trap.write && trap.offset === R.ARM_SMMU_GBPA)
          smmus[trap.smmu]?.hardware.write(trap.offset, 4, R.GBPA_UPDATE, 0)
      },
    }),
    'tables: off and open',
    passing('dma untranslated', 'dma untranslated, meanwhile'),
  ],
  [
    'pages come back as they were',
    withHole({
      machine: ({ memory, carveout: { base, size } }) => ({
        memory: filtered(
          memory,
          (address, bytes) =>
            (address >= base && address < base + size) || bytes.length < 512 || bytes.some(byte => byte !== 0),
        ),
      }),
    }),
    'not-zeroed',
    {},
  ],
  [
    'vCPUs are not kept from pages',
    withHole({ machine: () => ({ guard: { add: () => true, remove: () => true } }) }),
    'guard',
    {},
  ],
  [
    'a page goes to two VMs',
    withHole({ pages: pages => ({ donate: (...of) => (pages.donate?.(...of) === EPERM ? OK : OK) }) }),
    'donates-foreign',
    {},
  ],
  [
    'a page is taken from whoever has it',
    withHole({
      pages: pages => ({
        reclaim: (base, size) =>
          pages.ranges(base, base + size).reduce((sum, { vm }) => sum | (pages.reclaim?.(base, size, vm) ?? 0), 0),
      }),
    }),
    'reclaims-foreign',
    {},
  ],
  [
    'devices are kept from everything',
    (machine, context) =>
      pkvm(machine, context, {
        stream: () => (_, shadow) => {
          shadow.fill(0n)
          shadow[0] = 1n
          return OK
        },
      }),
    'host-view refuses abort',
    {},
  ],
  [
    'CMDQ_CONS is ahead',
    withHole({
      access: (trap, policy) => {
        policy.access(trap)
        if (!trap.write && trap.offset === R.ARM_SMMU_CMDQ_CONS) trap.lo ^= 1
      },
    }),
    'host-view CMDQ_CONS',
    {},
  ],
  [
    'a driver is warned of what is right',
    withHole({
      access: (trap, policy, _, { report }) => {
        policy.access(trap)
        const warning = policy.inspect?.warnings.find(({ expected }) => !expected)
        if (warning && trap.offset === R.ARM_SMMU_IRQ_CTRL) report.warn(warning, trap.seq, trap.smmu, 0, 0, 0, 0)
      },
    }),
    'warns',
    {},
  ],
]

/** The SMMUs promise BBM level 2. */
const anySize = withHole({
  machine: ({ smmus }) => ({
    smmus: smmus.map(smmu => ({
      ...smmu,
      hardware: {
        ...smmu.hardware,
        read: (offset, size, into) => {
          const ok = smmu.hardware.read(offset, size, into)
          if (offset === R.ARM_SMMU_IDR3) into.lo = (into.lo & ~R.IDR3_BBML) | fieldPrep(R.IDR3_BBML, 2)
          return ok
        },
      },
    })),
  }),
})

/** Nothing is forgotten where a table becomes a block. */
const tablesAreKept = withHole({
  machine: ({ memory }) => ({
    memory: filtered(memory, (_, bytes) => {
      if (bytes.length % 16 !== 0 || bytes.length > 64) return true
      for (let at = 0; at < bytes.length; at += 16) {
        if (bytes[at] === CMDQ_OP_TLBI_S12_VMALL) bytes[at] = CMDQ_OP_PREFETCH_CFG
      }
      return true
    }),
  }),
})

const BLOCK_HOLES: typeof HOLES = [
  ['a block is a table at once, at BBM level 0', anySize, 'tlb-conflict', { blocks: { bbm: 0 } }],
  ['a block is a table at once, at BBM level 1', anySize, 'tlb-conflict', { blocks: { bbm: 1 } }],
  [
    'what a table led to is kept when it is a block, at BBM level 0',
    tablesAreKept,
    'tlb-conflict',
    { blocks: { bbm: 0 } },
  ],
]

/** What the hardware kept while it was off is used again. */
const cachesAreKept: PolicyFactory = (machine, context) => {
  let off = false
  return withHole({
    machine: ({ memory, power }) => ({
      memory: filtered(memory, (_, bytes) => {
        if (!off || bytes.length % 16 !== 0 || bytes.length > 64) return true
        for (let at = 0; at < bytes.length; at += 16) {
          if (bytes[at] === CMDQ_OP_CFGI_ALL || bytes[at] === CMDQ_OP_TLBI_NSNH_ALL) bytes[at] = CMDQ_OP_PREFETCH_CFG
        }
        return true
      }),
      ...(power && {
        power: {
          resetsToAbort: power.resetsToAbort,
          set: (smmu: number, state: PowerState) => {
            off ||= state !== 'on'
            return power.set(smmu, state)
          },
        },
      }),
    }),
  })(machine, context)
}

const POWER_HOLES: typeof HOLES = [
  [
    'an SMMU that lets devices through is switched on',
    withHole({ machine: ({ power }) => ({ ...(power && { power: { ...power, resetsToAbort: true } }) }) }),
    'dma untranslated',
    { power: { mode: undefined } },
  ],
  ['what was cached is used once it is on', cachesAreKept, 'dma by stage 2, from a cache', { power: { mode: 'keep' } }],
]

test.each([...HOLES, ...BLOCK_HOLES, ...POWER_HOLES])('%s', (_, factory, kind, options) => {
  const found = attackUntil(factory, new RegExp(`^${kind}( HYP_|, meanwhile$|$)`), options)
  expect(found?.kind.startsWith(kind)).toBe(true)
  if (found === undefined) return
  // As a file, on a machine of its own.
  const again = decodeCase(encodeCase(found), 'case')
  expect(again).toEqual(found)
  expect(replay(again, factory)).toMatchObject({ kind: found.kind, message: found.message })
  // The hypervisor without the hole does not have it.
  const whole: PolicyFactory = (machine, context) => pkvm(machine, context)
  expect(replay(again, whole)?.kind).not.toBe(found.kind)
})
