// SPDX-License-Identifier: Apache-2.0
/** Tables and accesses for the differential test: random ones, and a grid of all that can go wrong at each level. */
import * as P from '../../server/smmu/pagetable.ts'
import * as S from '../../server/smmu/ste.ts'
import { Random, randomAddress, randomMemory } from '../unit/smmu/random.ts'
import { Builder, FlatMemory, RAM_BASE, S1_RW, S2_RW, type Stage } from '../unit/smmu/support.ts'
import { type Access, LOCKSTEP_SID } from './lockstep.ts'

/** RAM that tables are made in. */
export const TABLES = 0x12_0000
/** A linear stream table, behind everything else. */
export const STRTAB = RAM_BASE + 0x11_0000
const STE = STRTAB + LOCKSTEP_SID * 64

/** Tables, and what the device does with them. */
export interface Configuration {
  readonly name: string
  readonly bytes: Uint8Array
  readonly accesses: readonly Access[]
}

/** Where tables must not be: below RAM, between RAM and OAS, at the end of OAS, beyond it. */
const OUTSIDE = [0x0n, 0x2000_0000n, 0x1_0000_0000n, 0xfff_ffff_0000n, 0x1000_0000_0000n, 0xf_0000_0000_0000n]
const PER_CONFIGURATION = 12

/** One of four random STEs with its CD, odd in up to three bits. */
export function randomConfiguration(seed: number): Configuration {
  const r = new Random(seed * 7 + 77)
  const { memory: small, inputBits } = randomMemory(seed >>> 2)
  const memory = new FlatMemory(TABLES)
  memory.bytes.set(small.bytes)
  const index = seed & 3
  const cd = RAM_BASE + 0x400 + 64 * index
  for (let i = 0; i < 8; i++) memory.set64(STE + 8 * i, memory.get64(RAM_BASE + 64 * index + 8 * i))
  const flip = (address: number) => memory.set64(address, memory.get64(address) ^ (1n << BigInt(r.below(64))))
  if (r.chance(12)) for (let n = 1 + r.below(3); n > 0; n--) flip((r.chance(50) ? STE : cd) + 8 * r.below(4))
  if (r.chance(3)) memory.set64(STE, memory.get64(STE) & ~S.STRTAB_STE_0_V)
  if (r.chance(6)) {
    const pointer = r.pick([STE, STE + 24, cd + 8, cd + 16])
    const low = pointer === STE ? 0x3fn : 0n
    memory.set64(pointer, (memory.get64(pointer) & low) | r.pick(OUTSIDE))
  }
  const accesses = Array.from({ length: PER_CONFIGURATION }, () => ({
    address: r.chance(4) ? r.pick(OUTSIDE) + BigInt(r.below(4096)) : randomAddress(r, inputBits),
    write: r.chance(50),
  }))
  return { name: `random ${seed}`, bytes: memory.bytes, accesses }
}

type Mode = 's1' | 's2' | 'nested'

/** Stage 2 for structures of stage 1: all tables to themselves, by 2 MiB blocks, or pages where there are none. */
function identity(b: Builder, granule: number): Stage {
  const stage = b.stage(true, 40, granule, P.stage2ShortestStartLevel(40, granule))
  const [level, size] = granule === 12 ? [2, 0x20_0000] : [3, 2 ** granule]
  for (let at = 0; at < TABLES; at += size) b.map(stage, BigInt(RAM_BASE + at), BigInt(RAM_BASE + at), S2_RW, level)
  return stage
}

const AF = BigInt(P.ARM_LPAE_PTE_AF)
const CONTIGUOUS = BigInt(P.ARM_LPAE_PTE_HI_CONT) << 32n

type Change = readonly [name: string, change: (descriptor: bigint, stage2: boolean) => bigint]

/** Changes of a leaf, and of tables on the way to it. */
const LEAVES: readonly Change[] = [
  ['as it should be', d => d],
  ['invalid', d => d & ~1n],
  ['type 0b01', d => (d & ~3n) | 1n],
  ['AF = 0', d => d & ~AF],
  ['contiguous', d => d | CONTIGUOUS],
  [
    'not writable',
    (d, stage2) => (stage2 ? d & ~BigInt(P.ARM_LPAE_PTE_HAP_WRITE) : d | BigInt(P.ARM_LPAE_PTE_AP_RDONLY)),
  ],
  [
    'not readable',
    (d, stage2) => (stage2 ? d & ~BigInt(P.ARM_LPAE_PTE_HAP_READ) : d & ~BigInt(P.ARM_LPAE_PTE_AP_UNPRIV)),
  ],
  ['beyond OAS', d => d | (0xfn << 44n)],
  ['ignored bits', d => d | (0xfn << 55n)],
  ['UXN PXN', (d, stage2) => (stage2 ? d | (2n << 53n) : d | (3n << 53n))],
]

const WALKS: readonly Change[] = [
  ['invalid', d => d & ~1n],
  ['a block', d => (d & ~3n) | 1n],
  ['outside RAM', () => 0x1_0000_0003n],
  ['beyond OAS', d => d | (0xfn << 44n)],
  ['APTable read-only', d => d | (2n << 61n)],
  ['APTable', d => d | (1n << 61n)],
]

/** Every change of every level of one stage, for one geometry. */
function* levels(
  mode: Mode,
  granule1: number,
  granule2: number,
  inputBits: number,
  of: 1 | 2,
): Generator<Configuration> {
  const granule = of === 1 ? granule1 : granule2
  const startLevel = of === 1 ? P.stage1StartLevel(inputBits, granule) : P.stage2ShortestStartLevel(inputBits, granule)
  const input = (0x12_3456_7890n & ((1n << BigInt(inputBits)) - 1n)) | (of === 2 ? 0x2_0000n : 0n)
  for (let leaf = startLevel; leaf <= 3; leaf++) {
    if (leaf < 3 && !P.blockAllowed(leaf, granule, 44)) continue
    for (let level = startLevel; level <= leaf; level++) {
      for (const [name, change] of level === leaf ? LEAVES : WALKS) {
        const b = new Builder(new FlatMemory(TABLES))
        const size = P.levelShift(leaf, granule)
        const output = BigInt(RAM_BASE) & ~((1n << BigInt(size)) - 1n)
        let stage1: Stage | undefined
        let stage2: Stage | undefined
        if (mode !== 's2') {
          stage1 = b.stage(false, of === 1 ? inputBits : 39, granule1)
          b.map(stage1, input, of === 1 ? output : input & ~0xffffn, S1_RW, of === 1 ? leaf : 3)
        }
        if (mode === 'nested') stage2 = identity(b, granule2)
        if (of === 2) {
          if (mode === 's2') stage2 = b.stage(true, inputBits, granule2, startLevel)
          if (stage2) b.map(stage2, input & ~((1n << BigInt(size)) - 1n), output, S2_RW, leaf)
        }
        const stage = of === 1 ? stage1 : stage2
        if (!stage) return
        const at = b.entry(stage, input, level)
        b.memory.set64(at, change(b.memory.get64(at), of === 2))
        const cd = stage1 && b.cd({ t0: stage1 })
        b.ste({ config: mode === 's1' ? 5 : mode === 's2' ? 6 : 7, ...(cd && { cd }), ...(stage2 && { stage2 }) }, STE)
        const accesses = [false, true].flatMap(write =>
          [input, input ^ 0xff0n, input ^ (1n << BigInt(size)), input | (1n << BigInt(inputBits))].map(address => ({
            address,
            write,
          })),
        )
        yield {
          name: `${mode}, ${2 ** (granule - 10)} KiB, ${inputBits} bits, stage ${of} level ${level} to ${leaf}: ${name}`,
          bytes: b.memory.bytes,
          accesses,
        }
      }
    }
  }
}

/** Everything that can go wrong at a level, for the granules and sizes of both stages. */
export function* grid(): Generator<Configuration> {
  for (const granule of [12, 14, 16]) {
    for (const bits of [39, 48]) yield* levels('s1', granule, 12, bits, 1)
    for (const bits of [36, 39, 44]) yield* levels('s2', 12, granule, bits, 2)
    yield* levels('nested', granule, granule, 39, 1)
  }
  yield* levels('nested', 12, 16, 39, 1)
}

/** STE and CD bit by bit: each of the bits that mean something, flipped in a nested configuration that works. */
export function* flips(): Generator<Configuration> {
  for (const where of ['STE', 'CD'] as const) {
    for (let word = 0; word < 4; word++) {
      for (let bit = 0; bit < 64; bit++) {
        const b = new Builder(new FlatMemory(TABLES))
        const stage1 = b.stage(false, 39)
        b.map(stage1, 0x12_3456_7000n, BigInt(RAM_BASE + 0x10_0000))
        const cd = b.cd({ t0: stage1 })
        b.ste({ config: 7, cd, stage2: identity(b, 12) }, STE)
        const at = (where === 'STE' ? STE : cd) + 8 * word
        b.memory.set64(at, b.memory.get64(at) ^ (1n << BigInt(bit)))
        const accesses = [false, true].map(write => ({ address: 0x12_3456_7890n, write }))
        yield { name: `${where}[${word}] bit ${bit} flipped`, bytes: b.memory.bytes, accesses }
      }
    }
  }
}

/** Config 0 to 7, valid or not. */
export function* configs(): Generator<Configuration> {
  for (let config = 0; config < 8; config++) {
    for (const valid of [true, false]) {
      const b = new Builder(new FlatMemory(TABLES))
      const stage1 = b.stage(false, 39)
      b.map(stage1, 0x1000n, BigInt(RAM_BASE + 0x1000))
      const ste = { config, cd: b.cd({ t0: stage1 }), stage2: identity(b, 12) }
      b.ste({ ...ste, ...(!valid && { clear: { 0: S.STRTAB_STE_0_V } }) }, STE)
      const accesses = [0x1000n, 0x2000n, BigInt(RAM_BASE), 0xfff_ffff_f000n, 0x1000_0000_0000n, 1n << 63n].flatMap(
        address => [false, true].map(write => ({ address, write })),
      )
      yield { name: `Config ${config}, V = ${valid ? 1 : 0}`, bytes: b.memory.bytes, accesses }
    }
  }
}
