// SPDX-License-Identifier: Apache-2.0
/** The machine that is attacked: what hardware there is, and where memory lies. Plain data, part of every case. */

import { PAGE_SIZE } from '../oracle/pageMap.ts'
import {
  BBM_LEVELS,
  type BbmLevel,
  type Granule,
  POWER_MODES,
  type PopulateMode,
  type PowerMode,
  type SeriesStep,
} from '../policy/policy.ts'
import { fieldPrep } from '../smmu/bits.ts'
import type { IdRegisters } from '../smmu/features.ts'
import * as R from '../smmu/registers.ts'
import type { Caching } from '../smmu/soft/caches.ts'
import type { RamRange } from './memory.ts'
import type { Random } from './random.ts'

/** What hardware may be that QEMU's model is not; `server/smmu/README.md` says more. */
export const HARDWARE = [
  'msi',
  'ats',
  'pri',
  'stall',
  'lag',
  'slow',
  'torn',
  'unguarded',
  'unaligned',
  'small',
  'noncoherent',
] as const
export type HardwareOption = (typeof HARDWARE)[number]

export const HARDWARE_MEANING: Readonly<Record<HardwareOption, string>> = {
  msi: 'interrupts are MSI writes where software says',
  ats: 'devices have ATCs and mark transactions as Translated',
  pri: 'devices request pages',
  stall: 'faults may stall transactions',
  lag: 'CR0, IRQ_CTRL and GBPA take effect some accesses after they were written',
  slow: 'commands are consumed some accesses after PROD was written',
  torn: 'fetches of STEs and CDs mix words of before and after a store',
  unguarded: 'guarded registers take writes while they are enabled, as QEMU’s do',
  unaligned: 'queues start where BASE points, not aligned down to their size',
  noncoherent: 'fetches do not look into the CPU’s caches: what is stored has to be cleaned',
  small: 'command queues have at most 256 entries; few machines do, which a policy may refuse',
}

/** What firmware left behind: nothing, STEs in the configuration caches, or an SMMU that is on. */
export const FIRMWARE = ['none', 'cached', 'on'] as const
export type Firmware = (typeof FIRMWARE)[number]

export interface Setup {
  readonly smmus: number
  readonly ram: readonly RamRange[]
  readonly carveout: RamRange
  readonly until: SeriesStep
  readonly granule: Granule
  readonly sidBits: number
  readonly twoLevel: boolean
  /** Output address size: IDR5.OAS. */
  readonly oas: number
  readonly endian: 'little' | 'big' | 'mixed'
  readonly rangeInvalidation: boolean
  /** SubstreamID bits. */
  readonly ssidBits: number
  readonly caching: Caching
  readonly hardware: readonly HardwareOption[]
  readonly firmware: Firmware
  /** The hardware takes CMDQ_PROD with the answer to a trap. */
  readonly posts: boolean
  /** The policy maps RAM in blocks; absent: in pages. */
  readonly blocks?: boolean
  /** IDR3.BBML; absent: 0. */
  readonly bbml?: BbmLevel
  /** The host switches SMMUs off and on, by asking the policy; absent: they are on. */
  readonly power?: PowerMode
  /** With `power`: GBPA aborts after a power-on; absent: it lets through. */
  readonly resetsToAbort?: boolean
  /** A hypervisor at EL2 keeps a stage 2 for its host, and devices share it; absent: there is none. */
  readonly shared?: Populate
}

/** What becomes of a device's access to what EL2 has not mapped. Nobody here serves stalls. */
export const POPULATE = ['ahead', 'never'] as const satisfies readonly PopulateMode[]
export type Populate = (typeof POPULATE)[number]

/** EL2's tables are shared, in this way, or any. */
export interface Shared {
  readonly populate: Populate | undefined
}

/** The host switches SMMUs off and on: what the policy does with their state, or any of it. */
export interface Power {
  readonly mode: PowerMode | undefined
}

/** The policy maps RAM in blocks, on hardware of this BBM level, or of any. */
export interface Blocks {
  readonly bbm: BbmLevel | undefined
}

const MiB = 2 ** 20
/** Bytes of the range of RAM that hypervisor memory lies in, of that, and of the other range. */
const RAM_SIZE = 8 * MiB
const CARVEOUT_SIZE = 6 * MiB
const OTHER_RAM_SIZE = 3 * MiB
export const SMMU_BASE = 0x0905_0000
export const SMMU_SIZE = R.ARM_SMMU_FRAME_SIZE

/** Places of RAM of some size: below 4 GiB, also at 0, and above. */
const low = (size: number) => [0x4000_0000, 0x4000_0000, 0x0000_0000, 0x8000_0000 - size]
const high = (size: number) => [0x1_0000_0000, 0x8_8000_0000, 0xf_ffff_ffff + 1 - size]

/** Output sizes whose devices fit into few blocks of a granule, and those that cost up to ten milliseconds at each reset. */
const OAS: Readonly<Record<Granule, readonly number[]>> = {
  4096: [R.IDR5_OAS_40_BIT, R.IDR5_OAS_40_BIT, R.IDR5_OAS_36_BIT],
  16384: [R.IDR5_OAS_36_BIT],
  65536: [R.IDR5_OAS_40_BIT, R.IDR5_OAS_36_BIT],
}
const LARGE_OAS = [R.IDR5_OAS_40_BIT, R.IDR5_OAS_44_BIT, R.IDR5_OAS_48_BIT] as const
const LARGE_PERCENT = 4

/** A policy may refuse such machines, and nothing is judged of one that does. */
const SMALL_PERCENT = 8

/** Others must not lose their state with the power. */
const ABORTING_PERCENT = 80

/** EL2 makes tables of blocks, and blocks of tables. */
const SHARED_BBML = 2
/** EL2's memory in the range without hypervisor memory: more tables than all RAM and all devices need. */
const EL2_OFFSET = 2 * MiB
const EL2_SIZE = 64 * PAGE_SIZE

const LITTLE = ['little', 'little', 'little', 'little', 'mixed'] as const
const ENDIANNESS = [...LITTLE, 'big'] as const

/** Bytes of the other range of RAM where it is to have whole blocks, by granule; hardly any memory has some of 64 KiB. */
const BLOCKS_RAM_SIZE: Readonly<Record<Granule, number>> = { 4096: 6 * MiB, 16384: 36 * MiB, 65536: OTHER_RAM_SIZE }

/** A machine with some of `hardware`. */
export function randomSetup(
  random: Random,
  until: SeriesStep,
  hardware: readonly HardwareOption[],
  blocks?: Blocks,
  power?: Power,
  shared?: Shared,
): Setup {
  const offered = shared === undefined ? hardware : hardware.filter(option => option !== 'noncoherent')
  const some = offered.filter(option => random.chance(option === 'small' ? SMALL_PERCENT : 70))
  const early = blocks && random.pick([4096, 4096, 4096, 4096, 16384] as const)
  const other = early === undefined ? OTHER_RAM_SIZE : BLOCKS_RAM_SIZE[early]
  const sizes = random.pick([
    [RAM_SIZE, other],
    [other, RAM_SIZE],
  ] as const)
  // An entry that lost words points at 0: worth most where there is RAM.
  const first = some.includes('torn') && random.chance(50) ? 0 : random.pick(low(sizes[0]))
  const ram = [
    { base: first, size: sizes[0] },
    { base: random.pick(high(sizes[1])), size: sizes[1] },
  ]
  const { base } = ram[sizes[0] === RAM_SIZE ? 0 : 1]
  const twoLevel = random.chance(75)
  const granule = shared !== undefined ? 4096 : (early ?? random.pick([4096, 4096, 4096, 4096, 16384, 65536] as const))
  return {
    smmus: random.pick([1, 1, 1, 1, 2, 3]),
    ram,
    carveout: { base: base + (random.chance(50) ? RAM_SIZE - CARVEOUT_SIZE : MiB), size: CARVEOUT_SIZE },
    until,
    granule,
    sidBits: random.pick(twoLevel ? [9, 16, 16, 16, 20] : [4, 6, 8, 10]),
    twoLevel,
    oas: random.pick(random.chance(LARGE_PERCENT) ? LARGE_OAS : OAS[granule]),
    endian: random.pick(shared === undefined ? ENDIANNESS : LITTLE),
    rangeInvalidation: random.chance(70),
    ssidBits: random.chance(30) ? 4 : 0,
    caching: random.pick(['maximal', 'maximal', 'maximal', 'walks', 'architectural', 'none']),
    hardware: some,
    firmware: random.pick(['none', 'none', 'none', 'none', 'cached', 'on']),
    posts: random.chance(50),
    ...(blocks && { blocks: true, bbml: blocks.bbm ?? random.pick(BBM_LEVELS) }),
    ...(power && { power: power.mode ?? random.pick(POWER_MODES), resetsToAbort: random.chance(ABORTING_PERCENT) }),
    ...(shared && { bbml: SHARED_BBML, shared: shared.populate ?? random.pick(POPULATE) }),
  }
}

/** Memory of EL2, which nothing else uses: behind `roomOf`. */
export function el2Range({ ram, carveout }: Setup): RamRange {
  return { base: otherRange(ram, carveout).base + EL2_OFFSET, size: EL2_SIZE }
}

/** StreamIDs of the devices that there are, around the ends of tables. */
export function sidsOf({ sidBits }: Setup): number[] {
  const limit = 2 ** sidBits
  return [0, 1, 8, 0x1f, 0x20, 0xff, 0x100, 0x108, limit - 1].filter(sid => sid < limit)
}

export function framesOf(setup: Setup): RamRange[] {
  return Array.from({ length: setup.smmus }, (_, i) => ({ base: SMMU_BASE + i * SMMU_SIZE, size: SMMU_SIZE }))
}

/** Transactions that can be stalled at a time. */
const STALL_MAX = 4
/** LOG2SIZE limits of the queues. */
const QUEUE_LIMIT = 19
const SMALL_QUEUE_LIMIT = 8

const ENDIAN = { little: R.IDR0_TTENDIAN_LE, big: R.IDR0_TTENDIAN_BE, mixed: R.IDR0_TTENDIAN_MIXED } as const

export function idRegistersOf(setup: Setup): IdRegisters {
  const has = (option: HardwareOption) => setup.hardware.includes(option)
  return {
    idr0:
      (R.IDR0_S1P |
        R.IDR0_S2P |
        fieldPrep(R.IDR0_TTF, R.IDR0_TTF_AARCH64) |
        (has('noncoherent') ? 0 : R.IDR0_COHACC) |
        R.IDR0_ASID16 |
        R.IDR0_VMID16 |
        R.IDR0_CD2L |
        fieldPrep(R.IDR0_TTENDIAN, ENDIAN[setup.endian]) |
        fieldPrep(R.IDR0_STALL_MODEL, has('stall') ? R.IDR0_STALL_MODEL_STALL : R.IDR0_STALL_MODEL_NONE) |
        fieldPrep(R.IDR0_ST_LVL, setup.twoLevel ? R.IDR0_ST_LVL_2LVL : 0) |
        (has('msi') ? R.IDR0_MSI : 0) |
        // PRI needs ATS.
        (has('ats') || has('pri') ? R.IDR0_ATS | R.IDR0_ATSRECERR : 0) |
        (has('pri') ? R.IDR0_PRI : 0)) >>>
      0,
    idr1:
      (fieldPrep(R.IDR1_CMDQS, has('small') ? SMALL_QUEUE_LIMIT : QUEUE_LIMIT) |
        fieldPrep(R.IDR1_EVTQS, QUEUE_LIMIT) |
        fieldPrep(R.IDR1_PRIQS, has('pri') ? QUEUE_LIMIT : 0) |
        fieldPrep(R.IDR1_SSIDSIZE, setup.ssidBits) |
        fieldPrep(R.IDR1_SIDSIZE, setup.sidBits)) >>>
      0,
    idr3:
      (R.IDR3_HAD |
        R.IDR3_XNX |
        fieldPrep(R.IDR3_BBML, setup.bbml ?? 0) |
        (setup.rangeInvalidation ? R.IDR3_RIL : 0)) >>>
      0,
    idr5:
      (fieldPrep(R.IDR5_STALL_MAX, has('stall') ? STALL_MAX : 0) |
        fieldPrep(R.IDR5_OAS, setup.oas) |
        R.IDR5_GRAN4K |
        R.IDR5_GRAN16K |
        R.IDR5_GRAN64K) >>>
      0,
  }
}

/** Memory of the host that nothing else uses, for queues of up to 256 KiB: in the middle of the range without hypervisor memory. */
export function roomOf({ ram, carveout }: Setup): number {
  return otherRange(ram, carveout).base + OTHER_RAM_SIZE / 2
}

/** The range without hypervisor memory. */
const otherRange = (ram: readonly RamRange[], carveout: RamRange): RamRange =>
  ram.find(({ base, size }) => carveout.base < base || carveout.base >= base + size) ?? ram[0]

/** Pages near each end of RAM that the host uses for everything, so that uses collide. */
const HOT_PAGES = 24

/**
 * Some eighty pages for queues, tables, DMA and donations: at the ends of RAM and around hypervisor memory, its own first and last among
 * them. Ascending.
 */
export function hotPages(setup: Setup): number[] {
  const pages = new Set<number>()
  const add = (page: number, count: number) => {
    for (let i = 0; i < count; i++) {
      const at = page + i * PAGE_SIZE
      if (setup.ram.some(({ base, size }) => at >= base && at < base + size)) pages.add(at)
    }
  }
  for (const { base, size } of setup.ram) {
    add(base, HOT_PAGES)
    add(base + size - 8 * PAGE_SIZE, 8)
  }
  const { base, size } = setup.carveout
  add(base - 8 * PAGE_SIZE, 9)
  add(base + size - PAGE_SIZE, 9)
  return [...pages].sort((a, b) => a - b)
}
