// SPDX-License-Identifier: Apache-2.0
/** A page that the host gives to a VM: who reaches it, and until when. */
import { expect, test } from 'smmu-cosim/test'

const SECRET = Buffer.from('a secret')

test('a page donated under DMA ends in F_TRANSLATION', async ({ machine }) => {
  const m = await machine({ kernel: '6.12', devices: ['edu', 'nvme'] })
  await m.console.waitFor(/userspace/)
  const page = await m.guest.allocate(4096)
  await m.hyp.donate(page, { vm: 1 })
  await m.device('edu').dmaRead(page)
  await expect(m.events).toContainEvent({ type: 'F_TRANSLATION', s2: true, ipa: page })
  await expect(m).toBeIsolated()
})

test('a device that used the page reaches it no more once it is donated', async ({ machine }) => {
  const m = await machine()
  const edu = m.device('edu')
  const page = await m.guest.allocate(4096)
  await m.guest.write(page, SECRET)
  expect(await edu.dmaRead(page)).toEqual(SECRET)

  await m.hyp.donate(page, { vm: 1 })
  await expect(m.commands).toContainCommand({ verdict: 'own', name: 'TLBI_S2_IPA' })
  await expect(m.commands).toContainCommand({ verdict: 'own', name: 'TLBI_NH_ALL' })
  await expect(m).toTranslate({ device: 'edu', iova: page }, { fault: 'F_TRANSLATION', s2: true })
  expect(await edu.dmaRead(page)).not.toEqual(SECRET)
})

test('what a device writes to a page of a VM does not arrive', async ({ machine }) => {
  const m = await machine()
  const page = await m.guest.allocate(4096)
  await m.hyp.donate(page, { vm: 1 })
  await m.device('edu').dmaWrite(page, SECRET)
  await expect(m.events).toContainEvent({ type: 'F_TRANSLATION', s2: true, ipa: page, read: false })
  // The page holds what was put there when it was donated: the oracle looks.
  await expect(m).toBeIsolated()
})

test('the host itself does not reach it either', async ({ machine }) => {
  const m = await machine()
  const page = await m.guest.allocate(4096)
  await m.guest.write(page, SECRET)
  await m.hyp.donate(page, { vm: 1 })
  await expect(m.guest.read(page)).rejects.toThrow(/SIGBUS/)
  await expect(m.guest.write(page, SECRET)).rejects.toThrow(/SIGBUS/)
  // It lives on.
  expect((await m.guest.run('echo here')).stdout).toBe('here\n')
})

test('a page comes back zeroed, and in reach', async ({ machine }) => {
  const m = await machine()
  const page = await m.guest.allocate(4096)
  await m.guest.write(page, SECRET)
  await m.hyp.donate(page, { vm: 3 })
  await expect(m).toHaveOwner(page, { vm: 3 })

  await m.hyp.reclaim(page, { vm: 3 })
  await expect(m).toHaveOwner(page, 'owned')
  expect(await m.guest.read(page)).toEqual(Buffer.alloc(8))
  await m.device('edu').dmaWrite(page, SECRET)
  expect(await m.guest.read(page)).toEqual(SECRET)
  expect(m.events.count).toBe(0)
})

test('a page has one owner: it is given away once, and taken back from who has it', async ({ machine }) => {
  const m = await machine()
  const page = await m.guest.allocate(4096)
  await m.hyp.donate(page, { vm: 1 })
  await expect(m.hyp.donate(page, { vm: 2 })).rejects.toThrow('EPERM')
  await expect(m.hyp.reclaim(page, { vm: 2 })).rejects.toThrow('EPERM')
  await expect(m).toHaveOwner(page, { vm: 1 })
})

test('blocks are split around a donated page: what is beside it stays in reach', async ({ machine }) => {
  const m = await machine({ blocks: true })
  const block = await m.guest.allocate(2 << 20)
  const [page, beside] = [block + 0x5000, block + 0x6000]
  await m.device('edu').dmaRead(page)
  await m.hyp.donate(page, { vm: 1 })
  await expect(m).toTranslate({ device: 'edu', iova: page, write: true }, { fault: 'F_TRANSLATION', s2: true })
  await expect(m).toTranslate({ device: 'edu', iova: beside, write: true }, { pa: beside })
  await m.device('edu').dmaWrite(beside, SECRET)
  expect(await m.guest.read(beside)).toEqual(SECRET)
  expect((await m.guest.run('true')).code).toBe(0)
  await expect(m).toBeIsolated()
})
