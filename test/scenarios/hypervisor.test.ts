// SPDX-License-Identifier: Apache-2.0
/** What is the hypervisor's own, and what it lets Linux see of the SMMU. */
import { expect, test } from 'smmu-cosim/test'

test('no device reads or writes the memory of the hypervisor', async ({ machine }) => {
  const m = await machine()
  const secret = m.hyp.memory.base + 0x1000
  await m.device('edu').dmaRead(secret)
  await expect(m.events).toContainEvent({ type: 'F_TRANSLATION', s2: true, ipa: secret, read: true })
  await m.device('edu').dmaWrite(secret)
  await expect(m.events).toContainEvent({ type: 'F_TRANSLATION', s2: true, ipa: secret, read: false })
  await expect(m).toHaveOwner(secret, 'hyp')
  await expect(m).toBeIsolated()
})

test('no device writes to the registers of the SMMU', async ({ machine }) => {
  const m = await machine()
  const [frame] = m.hyp.frames
  expect(frame?.size).toBeGreaterThanOrEqual(0x20000)
  await m.device('edu').dmaWrite(frame?.base ?? 0)
  await expect(m.events).toContainEvent({ type: 'F_TRANSLATION', s2: true, ipa: frame?.base ?? -1 })
  await expect(m).toBeIsolated()
})

test('the host does not see a second stage, and cannot let devices past the SMMU', async ({ machine }) => {
  const m = await machine()
  const register = (offset: number) => (m.hyp.frames[0]?.base ?? 0) + offset
  const read = async (offset: number) => Number((await m.guest.run(`devmem ${register(offset)} 32`)).stdout)

  const idr0 = await read(0x0)
  expect(idr0 & 1, 'S2P').toBe(0)
  expect((idr0 >> 1) & 1, 'S1P').toBe(1)

  // GBPA: what is written is ignored, and what is read aborts.
  await m.guest.run(`devmem ${register(0x44)} 32 0x80000000`)
  await expect(m.traps).toContainTrap({ register: 'GBPA', write: true, value: 0x8000_0000 })
  expect(await read(0x44)).toBe(1 << 20)
})

test('what Linux never does is noticed, and changes nothing', async ({ machine }) => {
  const m = await machine()
  const cr1 = (m.hyp.frames[0]?.base ?? 0) + 0x28
  await m.guest.run(`devmem ${cr1} 32 0`)
  await expect(m.warnings).toContainWarning({ expected: false, code: /CR1/ })
  expect(Number((await m.guest.run(`devmem ${cr1} 32`)).stdout)).toBe(0xd75)
})
