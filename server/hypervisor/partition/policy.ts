// SPDX-License-Identifier: Apache-2.0
/** The policy `partition`: memory and streams shared out once, as Jailhouse and Bao do it (README.md). */
import type { Machine } from '../../machine/ports.ts'
import type { Facility, Inspectable, PageRun } from '../../policy/inspect.ts'
import { HypFatal, type Policy, type PolicyContext, type PolicyDescription } from '../../policy/policy.ts'
import { fieldGet, hex, hex64 } from '../../smmu/bits.ts'
import { readRegister } from '../../smmu/hardware.ts'
import { type GuestMemory, within } from '../../smmu/memory.ts'
import { type MappedRange, RangeMap } from '../../smmu/rangeMap.ts'
import * as R from '../../smmu/registers.ts'
import { HardwareFrame } from '../common/hardwareFrame.ts'
import { probe as probeFeatures } from '../common/probe.ts'
import { HardwareWait } from '../common/wait.ts'
import { type Common, type Owner, type PartitionedSmmu, partitionedSmmu, SPLIT, WARNINGS } from './smmu.ts'
import { load, type Sizes, save } from './state.ts'

export interface Partition {
  readonly name: string
  readonly streams: readonly { readonly smmu: number; readonly sid: number }[]
  /** What its streams reach; the guest has its queues and tables there as well. */
  readonly ranges: readonly MappedRange[]
}

const FACILITIES: readonly Facility[] = ['strtab', 'stage2']
export const description: PolicyDescription = {
  summary: 'a static partition: a fixed second stage under the stage 1 that the guest configures',
  warnings: WARNINGS,
  facilities: () => FACILITIES,
}

/** GITS_TRANSLATER of QEMU's virt machine: devices write their interrupts there. */
const ITS: MappedRange = { base: 0x0809_0000, size: 0x1_0000, device: true }
/** How long hardware may take, as in pkvm. */
const WAIT_MS = 1000
const WAIT_POLLS = 1_000_000
const UNGUARDED = 'the carve-out cannot be kept from the vCPUs'
/** With these a command does more than invalidate: it writes to memory, or answers for a device. */
const REFUSED = R.IDR0_MSI | R.IDR0_ATS | R.IDR0_PRI

/** One partition with all that the machine has, but for the carve-out. */
export function guestOnly({ memory, carveout, devices }: Machine): Partition[] {
  const hole = carveout.base + carveout.size
  const ram = memory.ram.flatMap(({ base, size }) => [
    { base, size: Math.min(base + size, Math.max(base, carveout.base)) - base },
    { base: Math.max(base, hole), size: base + size - Math.max(base, hole) },
  ])
  // Where the carve-out is no part of a range, one of the two is all of it.
  const parts = ram
    .filter(({ size }) => size > 0)
    .filter(({ base }, i, all) => all.findIndex(r => r.base === base) === i)
  return [{ name: 'guest', streams: devices.map(({ smmu, sid }) => ({ smmu, sid })), ranges: [...parts, ITS] }]
}

/** What the hardware says of itself: IDR5.OAS and IDR1.SIDSIZE. @throws HypFatal when it cannot be shared out */
function probe(
  { base, size, hardware }: Machine['smmus'][number],
  index: number,
): readonly [oas: number, sidBits: number] {
  const refuse = (why: string) => new HypFatal(`SMMU ${index} cannot be shared out: ${why}`)
  const found = probeFeatures(new HardwareFrame(hardware), { base, size }, { nesting: true, cleans: false })
  if (typeof found === 'string') throw refuse(found)
  const idr0 = readRegister(hardware, R.ARM_SMMU_IDR0).lo
  const stalls = fieldGet(R.IDR0_STALL_MODEL, idr0) !== R.IDR0_STALL_MODEL_NONE
  if ((idr0 & REFUSED) !== 0 || stalls) throw refuse(`with MSIs, ATS, PRI or stalls (IDR0 is ${hex(idr0)})`)
  if (!found.twoLevel || found.sidBits <= SPLIT) throw refuse('its stream table is linear')
  if (!found.littleEndian) throw refuse('its tables are big-endian (IDR0.TTENDIAN)')
  if ((found.granules & 4096) === 0) throw refuse('no 4 KiB granule (IDR5.GRAN4K)')
  return [fieldGet(R.IDR5_OAS, readRegister(hardware, R.ARM_SMMU_IDR5).lo), found.sidBits]
}

/** @param partitions the first one is the guest's; its VMID is 0, as the guest writes it */
export function partition(
  machine: Machine,
  { report, options, clock }: PolicyContext,
  partitions = guestOnly(machine),
): Policy {
  const { memory, carveout, guard } = machine
  const ram = partitions[0].ranges.filter(({ device }) => device === undefined)
  const guest: GuestMemory = {
    ram,
    read: (from, target, at, bytes) => within(ram, from, bytes) && memory.read(from, target, at, bytes),
    write: () => false,
  }
  const wait = new HardwareWait(
    clock ?? (() => performance.now()),
    options.waitMs ?? WAIT_MS,
    options.waitPolls ?? WAIT_POLLS,
  )
  const common: Common = { memory, guest, report, wait, trap: 0, changed: () => void state.generation++ }
  /** Of each SMMU: what the layout of the carve-out depends on. */
  let sizes: Sizes = []
  let maps: readonly RangeMap[] = []
  let smmus: readonly PartitionedSmmu[] = []

  /** Finds places in the carve-out, the same for the same sizes. Touches nothing. */
  function layOut(found: Sizes): void {
    let end = carveout.base
    const take = (bytes: number) => {
      end = Math.ceil(end / bytes) * bytes + bytes
      if (!(end <= carveout.base + carveout.size)) throw new HypFatal('the carve-out is too small')
      return end - bytes
    }
    const oas = Math.min(...found.map(([oas]) => oas))
    sizes = found
    maps = partitions.map(({ ranges }, vmid) => new RangeMap(ranges, vmid, oas, take))
    smmus = machine.smmus.map(({ hardware }, index) => {
      const owners = new Map<number, Owner>()
      for (const [i, { streams }] of partitions.entries()) {
        const own = streams.filter(({ smmu }) => smmu === index)
        for (const { sid } of own) owners.set(sid, { guest: i === 0, stage2: maps[i].ste })
      }
      return partitionedSmmu(index, hardware, common, owners, found[index][1], take)
    })
  }

  const verify = (): string[] => [
    ...smmus.flatMap(smmu => smmu.verify()),
    ...maps.flatMap(map => map.damaged(memory)).map(address => `the table at ${hex(address)} is damaged`),
  ]

  const state: Policy['state'] & { generation: number } = {
    generation: 0,
    checkpoint: () =>
      save({ partitions, sizes, saved: smmus.map(({ own, streams }) => ({ own, streams: [...streams.values()] })) }),
    restore(checkpoint) {
      const { saved, ...rest } = load(checkpoint, machine.smmus.length)
      if (JSON.stringify(rest.partitions) !== JSON.stringify(partitions)) throw new Error('it is partitioned otherwise')
      const guests = (smmu: number, sid: number) =>
        partitions[0].streams.some(own => own.smmu === smmu && own.sid === sid)
      const foreign = saved.flatMap(({ streams }) => streams).find(({ smmu, sid }) => !guests(smmu, sid))
      if (foreign !== undefined) throw new Error(`stream ${hex(foreign.sid)} is not the guest's`)
      layOut(rest.sizes)
      for (const [i, { own, streams }] of smmus.entries()) {
        Object.assign(own, saved[i].own)
        for (const stream of saved[i].streams) streams.set(stream.sid, stream)
      }
    },
    resume() {
      if (!guard.add(carveout.base, carveout.size)) throw new Error(UNGUARDED)
      if (verify().length > 0) throw new Error(verify().join('; '))
      return []
    },
  }

  /** RAM by partition; what belongs to none is the hypervisor's. */
  function ranges(from = 0, to = Number.MAX_SAFE_INTEGER): PageRun[] {
    const owned = partitions.flatMap(({ ranges }, vm) => ranges.map(range => ({ ...range, vm })))
    const ends = [...memory.ram, ...owned].flatMap(({ base, size }) => [base, base + size])
    const cuts = [...new Set(ends)].sort((a, b) => a - b)
    return cuts.slice(1).flatMap((end, i): PageRun[] => {
      const [base, size] = [cuts[i], end - cuts[i]]
      if (!within(memory.ram, base, size) || base >= to || end <= from) return []
      const vm = owned.find(range => within([range], base, size))?.vm
      return [{ base, size, state: vm === undefined ? 'hyp' : vm === 0 ? 'owned' : 'vm', vm: vm ?? 0 }]
    })
  }

  const inspect: Inspectable = {
    facilities: new Set(FACILITIES),
    warnings: WARNINGS,
    pages: { ranges },
    partitions,
    faults: { stage2: () => maps },
    sections: () => ({ partitions, isolated: smmus.length > 0 }),
    streams: () => smmus.flatMap(({ streams }) => [...streams.values()].sort((a, b) => a.sid - b.sid)),
    stateLines: () => smmus.map(stateLine),
    verify,
  }

  return {
    name: 'partition',
    state,
    inspect,
    reset() {
      wait.begin()
      const guarded = guard.add(carveout.base, carveout.size)
      layOut(machine.smmus.map(probe))
      if (!guarded) throw new HypFatal(UNGUARDED)
      // Before anything is written: a former owner's devices may reach all of memory.
      for (const smmu of smmus) smmu.stop()
      for (const map of maps) map.write(memory)
      for (const smmu of smmus) smmu.program()
      common.changed()
    },
    access(trap) {
      common.trap = trap.seq
      wait.begin()
      if (smmus[trap.smmu] === undefined) trap.aborted = true
      else smmus[trap.smmu].access(trap)
      common.trap = 0
    },
  }
}

function stateLine({ own: { baseLo, baseHi, cfg, cr0 } }: PartitionedSmmu, index: number): string {
  return `SMMU ${index}: of the guest STRTAB_BASE ${hex64(baseLo, baseHi)}, CFG ${hex(cfg)}, CR0 ${hex(cr0)}`
}

export default partition
