// SPDX-License-Identifier: Apache-2.0
/** Translations by the tables as they stand in RAM, from the registers that the hardware has: what the SMMU would do without caches. */
import type { Hello } from '../../protocol/generated/messages.ts'
import type { TrapThread } from '../control/trapThread.ts'
import { FileMemory } from '../machine/fileMemory.ts'
import { describeEvent, eventName } from '../smmu/events.ts'
import { decodeFeatures } from '../smmu/features.ts'
import * as R from '../smmu/registers.ts'
import { NO_SSID, type Outcome } from '../smmu/transaction.ts'
import { Walker } from '../smmu/walker.ts'
import { describeStep } from '../smmu/walkSteps.ts'

const OFFSETS = [
  R.ARM_SMMU_IDR0,
  R.ARM_SMMU_IDR1,
  R.ARM_SMMU_IDR3,
  R.ARM_SMMU_IDR5,
  R.ARM_SMMU_CR0,
  R.ARM_SMMU_CR2,
  R.ARM_SMMU_GBPA,
  R.ARM_SMMU_STRTAB_BASE,
  R.ARM_SMMU_STRTAB_BASE_CFG,
]

/** What a transaction comes to. */
export interface Translation {
  /** Physical address; undefined: it does not get through. */
  readonly pa: number | undefined
  /** Name of the event; undefined: there is none. */
  readonly fault: string | undefined
  /** The fault is one of stage 2. */
  readonly s2: boolean
  readonly text: string
  /** Each fetch on the way, a line each. */
  readonly steps: readonly string[]
}

export interface Transaction {
  readonly smmu?: number
  readonly sid: number
  readonly ssid?: number
  readonly iova: number | bigint
  /** Default: a read. */
  readonly write?: boolean
}

/** @param ram descriptor of guest RAM */
export async function translate(
  thread: TrapThread,
  hello: Hello,
  ram: number,
  { smmu = 0, sid, ssid = NO_SSID, iova, write = false }: Transaction,
): Promise<Translation> {
  const values = new Map(
    (await thread.call('registers', smmu, 'hardware', OFFSETS)).map(value => [value.offset, value]),
  )
  const lo = (offset: number) => values.get(offset)?.lo ?? 0
  const features = decodeFeatures({
    idr0: lo(R.ARM_SMMU_IDR0),
    idr1: lo(R.ARM_SMMU_IDR1),
    idr3: lo(R.ARM_SMMU_IDR3),
    idr5: lo(R.ARM_SMMU_IDR5),
  })
  const walker = new Walker(features, new FileMemory(ram, hello.ram))
  walker.setRegisters({
    cr0: lo(R.ARM_SMMU_CR0),
    cr2: lo(R.ARM_SMMU_CR2),
    gbpa: lo(R.ARM_SMMU_GBPA),
    strtabBaseLo: lo(R.ARM_SMMU_STRTAB_BASE),
    strtabBaseHi: values.get(R.ARM_SMMU_STRTAB_BASE)?.hi ?? 0,
    strtabBaseCfg: lo(R.ARM_SMMU_STRTAB_BASE_CFG),
  })
  const address = BigInt.asUintN(64, BigInt(iova))
  const halves = { lo: Number(address & 0xffff_ffffn), hi: Number(address >> 32n) }
  const steps: string[] = []
  const outcome = walker.translate({ sid, ssid, ...halves, write, privileged: false, instruction: false }, step =>
    steps.push(describeStep(step)),
  )
  return { ...described(outcome, write), steps }
}

function described(outcome: Outcome, write: boolean): Omit<Translation, 'steps'> {
  const nowhere = { pa: undefined, fault: undefined, s2: false }
  if (outcome.kind === 'abort') return { ...nowhere, text: 'aborted without an event' }
  if (outcome.kind === 'fault') {
    const { event } = outcome
    return { pa: undefined, fault: eventName(event.id), s2: event.s2, text: describeEvent(event) }
  }
  const { pa, read, write: writable } = outcome
  const text = `0x${pa.toString(16)} ${read ? 'R' : '-'}${writable ? 'W' : '-'}`
  return (write ? writable : read) ? { ...nowhere, pa, text } : { ...nowhere, text: `${text}: not permitted` }
}
