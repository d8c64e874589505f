// SPDX-License-Identifier: Apache-2.0
/**
 * The second stage of devices, one for all SMMUs, whatever its tables are: the idmap, in pages or in blocks (server/hypervisor/README.md,
 * section 9), or those that EL2 keeps for its host (server/hypervisor/README.md, section 20). Who takes pages or gives them back need not
 * know which.
 */
import type { Machine } from '../../machine/ports.ts'
import { ENOMEM, OK } from '../../policy/result.ts'
import { fieldGet, TWO_POW_32 } from '../../smmu/bits.ts'
import {
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR3,
  IDR0_STALL_MODEL,
  IDR0_STALL_MODEL_NONE,
  IDR3_BBML,
} from '../../smmu/registers.ts'
import type { HypContext } from './context.ts'
import type { HostStage2 } from './hostStage2.ts'
import { Idmap, newIdmapState } from './idmap.ts'
import { IdmapBlocks } from './idmapBlocks.ts'
import { buildIdmap } from './idmapBuild.ts'
import { idmapGeometry, stage2Pages } from './idmapGeometry.ts'
import { verifyIdmap } from './idmapVerify.ts'
import type { PageOwnership, Range } from './ownership.ts'
import { zero } from './pool.ts'
import { SharedStage2 } from './sharedStage2.ts'
import type { Smmu } from './smmu.ts'
import { HYP_UNMAP } from './warnings.ts'

/** Pages, of the size of the granule, that the pool has beyond what the host's stage 2 can need. */
export const SPARE_PAGES = 500

/** Highest BBM level that there is; what is beyond is Reserved. */
export const MAX_BBM_LEVEL = 2

/** One hypervisor, as what concerns all of its SMMUs uses it. */
export interface MachineContext extends HypContext {
  readonly machine: Machine
  readonly ownership: PageOwnership
  readonly smmus: readonly Smmu[]
  /** Bytes. */
  readonly granule: number
  /** RAM is mapped in blocks where it can be, with this BBM level at most. */
  readonly blocks: boolean
  readonly bbm: number
  /** null unless the whole series is emulated and the machine is isolated. */
  readonly stage2: Stage2 | null
  /** EL2 says whose pages are. */
  readonly followed: boolean
  /** ms */
  readonly clock: () => number
  /** From here on the pool has so many more pages to give, unless an option says how many. */
  limitPool(pages: number): void
}

/** Makes the tables of a machine that was reset. @returns why there can be none */
export function buildStage2(hyp: MachineContext): Stage2 | string {
  const { pool, memory, ownership, smmus, granule, blocks, clock } = hyp
  const start = clock()
  const common = commonGround(hyp)
  if (typeof common === 'string') return common
  const { oas, bigEndian } = common
  const unshared = cannotShare(hyp, bigEndian)
  if (unshared !== null) return unshared
  const geometry = idmapGeometry(granule, oas)
  hyp.limitPool(stage2Pages(geometry, memory.ram) + SPARE_PAGES * (granule / 4096))
  const root = pool.allocate(geometry.rootBytes, true)
  if (root === ENOMEM) return 'hypervisor memory is too small for the stage-2 idmap'
  const idmap = new Idmap(memory, pool, geometry, newIdmapState(root, oas, bigEndian))
  if (hyp.populate !== null) {
    // Until EL2 has tables, devices reach nothing.
    return zero(memory, root, geometry.rootBytes) ? new Stage2(hyp, idmap) : 'hypervisor memory cannot be written'
  }
  const reserve = Math.min(SPARE_PAGES, Math.floor(pool.limit / 4))
  if (!buildIdmap(idmap, pool, ownership, smmus, reserve, blocks)) return 'hypervisor memory cannot be written'
  idmap.state.buildUs = Math.round((clock() - start) * 1000)
  return new Stage2(hyp, idmap)
}

/** The output size that all SMMUs have, and whether tables are big-endian; or why there is no common ground. */
function commonGround({
  smmus,
  granule,
}: MachineContext): { readonly oas: number; readonly bigEndian: boolean } | string {
  let oas = 52
  let little = true
  let big = true
  for (const { index, features } of smmus) {
    if ((features.granules & granule) === 0) return `SMMU ${index}: no ${granule / 1024} KiB granule`
    oas = Math.min(oas, features.oas)
    little &&= features.littleEndian
    big &&= features.bigEndian
  }
  return little || big ? { oas, bigEndian: !little } : 'the SMMUs have no table endianness in common'
}

/** Why the second stage cannot be EL2's tables, whatever these are; null: it can, or is not to be. */
function cannotShare({ populate, machine, granule, smmus }: MachineContext, bigEndian: boolean): string | null {
  if (populate === null) return null
  if (machine.el2 === undefined) return 'there is no EL2 whose tables could be shared'
  if (granule !== 4096) return 'EL2 gives and takes pages of 4 KiB'
  if (bigEndian) return "EL2's tables are little-endian"
  if (populate !== 'stall') return null
  for (const { index, hardware } of smmus) {
    const model = fieldGet(IDR0_STALL_MODEL, hardware.read32(ARM_SMMU_IDR0))
    if (model === IDR0_STALL_MODEL_NONE) return `SMMU ${index}: no stalls (IDR0.STALL_MODEL)`
  }
  return null
}

export class Stage2 {
  readonly idmap: Idmap
  /** null: the tables are the hypervisor's own. */
  readonly shared: SharedStage2 | null
  /** null: RAM is mapped in pages. */
  readonly #blocks: IdmapBlocks | null
  readonly #hyp: MachineContext

  /** @param idmap whose tables stand in memory; with `populate`, the root of what is made of EL2's */
  constructor(hyp: MachineContext, idmap: Idmap) {
    const { machine, memory, pool, ownership, smmus, populate } = hyp
    this.#hyp = hyp
    this.idmap = idmap
    const hidden = [machine.carveout, ...smmus]
    this.shared =
      populate === null ? null : new SharedStage2(idmap, pool, memory, machine.carveout, hidden, populate === 'ahead')
    const level = () => this.#bbmLevel()
    const forget = () => this.forget()
    this.#blocks = hyp.blocks ? new IdmapBlocks(idmap, pool, ownership, level, forget) : null
  }

  /** BBM level that all SMMUs have, as far as it is to be made use of. */
  #bbmLevel(): number {
    let level = this.#hyp.bbm
    for (const { hardware, isOn } of this.#hyp.smmus) {
      // One that is off has nothing cached, and does not tell.
      if (!isOn) continue
      const own = fieldGet(IDR3_BBML, hardware.read32(ARM_SMMU_IDR3))
      level = Math.min(level, own <= MAX_BBM_LEVEL ? own : 0)
    }
    return level
  }

  /**
   * Takes pages, which are not the host's any more, from devices: unmapped, and nowhere cached.
   * @returns OK, or an error, which was reported: devices may reach them
   */
  take(base: number, size: number): number {
    const invalidate = () => this.#invalidate(base, size)
    if (this.#hyp.quirks.has('idmap-never-initialised')) return this.revoked(base, size, invalidate())
    if (this.#blocks !== null) return this.revoked(base, size, this.#blocks.take(base, size, invalidate))
    const unmapped = this.idmap.unmap(base, size)
    return this.revoked(base, size, unmapped === OK ? invalidate() : unmapped)
  }

  /** As `take`, of several, up to the first that fails. In pages, all are unmapped before hardware has to forget any. */
  takeAll(ranges: readonly Range[]): boolean {
    if (this.#blocks !== null) return ranges.every(({ base, size }) => this.take(base, size) === OK)
    const unmap = ({ base, size }: Range) => this.revoked(base, size, this.idmap.unmap(base, size)) === OK
    const invalidate = ({ base, size }: Range) => this.revoked(base, size, this.#invalidate(base, size)) === OK
    return ranges.every(unmap) && ranges.every(invalidate)
  }

  /** @param result of what took pages from devices: what is not OK is reported. @returns it */
  revoked(base: number, size: number, result: number): number {
    if (result === OK) return OK
    const { report, trap } = this.#hyp
    const pages = Math.min(size / 4096, TWO_POW_32 - 1)
    report.warn(HYP_UNMAP, trap, 0, base % TWO_POW_32, Math.floor(base / TWO_POW_32), pages, result)
    return result
  }

  /** Pages that are the host's again: devices reach them. One that cannot be mapped is one that they do not reach: tolerated. */
  give(base: number, size: number): void {
    this.#blocks?.merge(base, size)
    this.giveBack(base, size)
  }

  /** As `give`, of what `take` has not taken in the end: what it split stays so. */
  giveBack(base: number, size: number): void {
    if (this.#blocks !== null) this.#blocks.give(base, size)
    else this.idmap.map(base, size)
  }

  /** Every SMMU forgets all that it has translated by these tables. */
  forget(): number {
    for (const smmu of this.#hyp.smmus) {
      const result = smmu.forgetStage2()
      if (result !== OK) return result
    }
    return OK
  }

  #invalidate(base: number, size: number): number {
    for (const smmu of this.#hyp.smmus) {
      const result = smmu.invalidateStage2(base, size, this.idmap.geometry.granuleShift)
      if (result !== OK) return result
    }
    return OK
  }

  // After a take-over.

  /** A former hypervisor may have died in the middle of `take` or `give` of this range. */
  adopt(base: number, size: number): void {
    this.#blocks?.adopt(base, size)
  }

  /** Tables that a former hypervisor has taken and linked, and not lived to say so, are not to be given to anybody. */
  claimTables(): void {
    for (const table of this.shared?.tables() ?? []) this.#hyp.pool.claim(table, this.idmap.geometry.granule)
  }

  /** Tables that it had taken and not linked, or unlinked and not given back, are free. Those of an idmap in pages stay where they are. */
  keepTables(): void {
    const tables = this.shared?.tables() ?? this.#blocks?.tables()
    if (tables === undefined) return
    const { pool, smmus } = this.#hyp
    const { geometry, root, state } = this.idmap
    state.tables = tables.length + 1
    const kept = tables.map(base => ({ base, size: geometry.granule }))
    pool.keep([...smmus.flatMap(smmu => smmu.memory()), { base: root, size: geometry.rootBytes }, ...kept])
  }

  /** What is not as it should be in the tables, in words. @param host EL2's tables, as they were read last. @param limit stops after so many */
  verify(host: HostStage2 | null, limit: number): string[] {
    if (this.shared !== null) return this.shared.verify(host, limit)
    const { pool, ownership, smmus, blocks } = this.#hyp
    return verifyIdmap(this.idmap, pool, ownership, smmus, limit, blocks).map(
      ({ base, size, level, found, expected }) => {
        const should = expected === null ? 'a table' : `0x${expected.toString(16)}`
        const range = `0x${base.toString(16)} to 0x${(base + size).toString(16)}`
        return `idmap, level ${level}, ${range}: 0x${found.toString(16)} instead of ${should}`
      },
    )
  }
}
