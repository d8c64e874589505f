// SPDX-License-Identifier: Apache-2.0
/** The machine is reset while the oracle of isolation reads the hardware's registers: what they say is not held against anybody. */
import { closeSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { encodeReset } from '../../../protocol/generated/messages.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { QEMU_NESTED_ID_REGISTERS } from '../../../server/smmu/features.ts'
import {
  ARM_SMMU_CR0,
  ARM_SMMU_GBPA,
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR1,
  ARM_SMMU_IDR3,
  ARM_SMMU_IDR5,
  ARM_SMMU_STRTAB_BASE,
  GBPA_ABORT,
} from '../../../server/smmu/registers.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { createRing } from '../../../server/trace/ring.ts'
import { FakeQemu } from './fakeQemu.ts'

/** More than between two samples of the oracle, ms. */
const SAMPLE_MS = 150

let folder: string
let thread: TrapThread
let qemu: FakeQemu
let panics: string[]

beforeEach(async () => {
  folder = privateFolder(tmpdir(), 'ahead-')
  writeFileSync(join(folder, 'ram'), new Uint8Array(1 << 20))
  thread = await TrapThread.start({
    ...{ listen: join(folder, 'trap'), policy: fileURLToPath(new URL('./claiming.ts', import.meta.url)) },
    ...{ policyOptions: {}, ramFile: join(folder, 'ram'), ring: createRing(1 << 20), counters: createCounters() },
    ...{ panicOnWarn: false, oracle: true },
  })
  panics = []
  thread.on('panic', text => panics.push(text))
  qemu = await FakeQemu.connect(join(folder, 'trap'))
  const { idr0, idr1, idr3, idr5 } = QEMU_NESTED_ID_REGISTERS
  for (const [register, value] of [
    [ARM_SMMU_IDR0, idr0],
    [ARM_SMMU_IDR1, idr1],
    [ARM_SMMU_IDR3, idr3],
    [ARM_SMMU_IDR5, idr5],
  ] as const)
    qemu.registers.set(register, value)
  qemu.wide.set(ARM_SMMU_STRTAB_BASE, [0, 0])
  qemu.ram = openSync(join(folder, 'ram'), 'r')
  const ram = [{ base: 0x4000_0000, size: 1 << 20, path: join(folder, 'ram'), offset: 0 }]
  await qemu.hello([1, 1], { ram })
  await qemu.reset()
  await sleep(SAMPLE_MS)
})

afterEach(async () => {
  await thread.stop()
  if (qemu.ram !== undefined) closeSync(qemu.ram)
  rmSync(folder, { recursive: true })
})

/** After this many accesses of the hardware, the next is answered behind what `then` does. */
function after(accesses: number, then: () => void): void {
  let left = accesses
  qemu.meanwhile = () => {
    if (left-- === 0) then()
  }
}

/** As QEMU's reset leaves it. */
const open = () => qemu.registers.set(ARM_SMMU_GBPA, 0)

test('an SMMU that lets everything through is found at the next sample', async () => {
  after(1, open)
  await qemu.write(ARM_SMMU_CR0, 4, 0)
  await expect.poll(() => panics).toEqual([expect.stringContaining('is off and lets everything through')])
})

test('unless the machine is being reset, of which the policy has yet to hear', async () => {
  after(1, () => {
    open()
    encodeReset(qemu.out, 10_000, 0, 0)
    qemu.flush()
  })
  await qemu.write(ARM_SMMU_CR0, 4, 0)
  // The policy has made it abort again.
  await expect.poll(() => qemu.registers.get(ARM_SMMU_GBPA)).toBe(GBPA_ABORT)
  expect(await thread.call('oracle')).toMatchObject({ violations: [] })
  // From then on everything is judged as before.
  await sleep(SAMPLE_MS)
  after(1, open)
  await qemu.write(ARM_SMMU_CR0, 4, 0)
  await expect.poll(() => panics).toEqual([expect.stringContaining('is off and lets everything through')])
})

test('nor when somebody asks for all of it to be looked at', async () => {
  after(0, () => {
    open()
    encodeReset(qemu.out, 10_000, 0, 0)
    qemu.flush()
  })
  expect(await thread.call('oracle')).toMatchObject({ violations: [] })
  await expect.poll(() => qemu.registers.get(ARM_SMMU_GBPA)).toBe(GBPA_ABORT)
})
