// SPDX-License-Identifier: Apache-2.0
/** Machines, and hypervisors with a hole each, for the attacker's tests. */
import { fileURLToPath } from 'node:url'
import { Campaign, type CampaignOptions } from '../../../server/attack/campaign.ts'
import type { Case } from '../../../server/attack/cases.ts'
import { readKnown } from '../../../server/attack/known.ts'
import type { Setup } from '../../../server/attack/setup.ts'
import type { Access, Dma, Store } from '../../../server/attack/steps.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import type { Machine } from '../../../server/machine/ports.ts'
import type { PageOwners } from '../../../server/policy/inspect.ts'
import type { Policy, PolicyContext, PolicyFactory, Stage2Change, Trap } from '../../../server/policy/policy.ts'
import type { GuestMemory } from '../../../server/smmu/memory.ts'

export const RAM = 0x4000_0000
export const HIGH_RAM = 0x1_0000_0000
export const CARVEOUT = RAM + 0x20_0000

/** One prompt SMMU with a linear stream table. */
export const PLAIN: Setup = {
  smmus: 1,
  ram: [
    { base: RAM, size: 0x80_0000 },
    { base: HIGH_RAM, size: 0x80_0000 },
  ],
  carveout: { base: CARVEOUT, size: 0x60_0000 },
  until: 'nested',
  granule: 4096,
  sidBits: 8,
  twoLevel: false,
  oas: 2,
  endian: 'little',
  rangeInvalidation: false,
  ssidBits: 0,
  caching: 'maximal',
  hardware: [],
  firmware: 'none',
  posts: false,
}

export const store = (address: number, ...words: number[]): Store => ({ do: 'store', address, words })
export const write = (offset: number, lo: number, hi = 0, size = 4): Access => ({
  ...{ do: 'write', smmu: 0, offset, size, lo, hi },
})
export const read = (offset: number): Access => ({ do: 'read', smmu: 0, offset, size: 4, lo: 0, hi: 0 })
export const dma = (sid: number, address: number): Dma => ({
  ...{ do: 'dma', smmu: 0, sid, address, write: true, how: 'untranslated' },
})

/** What of a hypervisor is not as it should be. */
export interface Hole {
  readonly machine?: (machine: Machine) => Partial<Machine>
  readonly context?: (context: PolicyContext) => Partial<PolicyContext>
  /** Instead of its `access`. */
  readonly access?: (trap: Trap, policy: Policy, machine: Machine, context: PolicyContext) => void
  /** Instead of some of what it does with pages. */
  readonly pages?: (pages: PageOwners) => Partial<PageOwners>
  /** Instead of following EL2. @param inner what it would do */
  readonly stage2Changed?: (change: Stage2Change, inner: (change: Stage2Change) => boolean) => boolean
  /** It claims to isolate whatever it does. */
  readonly claims?: true
}

/** The hypervisor with a hole. */
export function withHole({
  machine: change,
  context: other,
  access,
  pages,
  stage2Changed,
  claims,
}: Hole): PolicyFactory {
  return (real, given) => {
    const machine = { ...real, ...change?.(real) }
    const context = { ...given, ...other?.(given) }
    const policy = pkvm(machine, context)
    const { inspect } = policy
    if (inspect === undefined) throw new Error('a policy that shows nothing')
    const own = inspect.pages as PageOwners
    const shown: PageOwners = {
      ranges: (from, to) => own.ranges(from, to),
      donate: (base, size, vm) => own.donate?.(base, size, vm) ?? 0,
      reclaim: (base, size, vm) => own.reclaim?.(base, size, vm) ?? 0,
    }
    const follow = (change: Stage2Change) => policy.stage2Changed?.(change) ?? true
    return {
      name: 'hole',
      state: policy.state,
      reset: () => policy.reset(),
      access: trap => (access === undefined ? policy.access(trap) : access(trap, policy, machine, context)),
      postMismatch: smmu => policy.postMismatch?.(smmu),
      stage2Changed: change => stage2Changed?.(change, follow) ?? follow(change),
      inspect: {
        facilities: claims ? new Set([...inspect.facilities, 'stage2']) : inspect.facilities,
        warnings: inspect.warnings,
        faults: inspect.faults,
        pages: { ...shown, ...pages?.(shown) },
        ...(inspect.power && { power: inspect.power }),
        sections: () => ({}),
        streams: () => [],
        stateLines: () => [],
        verify: () => [],
      },
    }
  }
}

/** Memory into which only some of what the hypervisor writes gets. */
export function filtered(memory: GuestMemory, take: (address: number, bytes: Uint8Array) => boolean): GuestMemory {
  return {
    ram: memory.ram,
    read: (address, target, offset, length) => memory.read(address, target, offset, length),
    write: (address, source, offset, length) =>
      !take(address, source.subarray(offset, offset + length)) || memory.write(address, source, offset, length),
  }
}

/** The hypervisor whose pages of VMs are open to vCPUs; its own are not. */
export const OPEN: PolicyFactory = withHole({
  machine: ({ guard, carveout }) => ({
    guard: {
      add: (base, size) => base < carveout.base || base >= carveout.base + carveout.size || guard.add(base, size),
      remove: (base, size) => guard.remove(base, size),
    },
  }),
})

export const KNOWN = readKnown(fileURLToPath(new URL('../../attack/known.json', import.meta.url)))

/** Attacks until something of a kind is found, or for so many steps. */
export function attackUntil(
  factory: PolicyFactory,
  kind: RegExp,
  { steps = 1_000_000, ...options }: Partial<CampaignOptions> & { readonly steps?: number } = {},
): Case | undefined {
  const campaign = new Campaign(factory, {
    ...{ policy: 'pkvm', until: 'nested', hardware: [], seed: 1 },
    // What else is known of it ends no program.
    known: KNOWN.filter(weakness => !kind.test(weakness.kind)),
    ...options,
  })
  while (campaign.stats.steps < steps) {
    const found = campaign.next()
    if (found !== undefined && kind.test(found.kind)) return found
  }
  return undefined
}
