// SPDX-License-Identifier: Apache-2.0
/** Linux's unmodified driver under the hypervisor. */
import { expect, test } from 'smmu-cosim/test'

test('a disk behind both stages is read, without a warning', async ({ machine }) => {
  const m = await machine()
  await expect(m).toHaveStream('virtio-blk', { hostConfig: 's1', shadowConfig: 'nested' })
  const { code, stderr } = await m.guest.run('dd if=/dev/vda of=/dev/null bs=4096 count=64 iflag=direct')
  expect(code, stderr).toBe(0)
  await expect(m.commands).toContainCommand({ name: /^TLBI_NH_VA/, verdict: 'kept' })
  await expect(m.warnings).not.toContainWarning({ expected: false })
  expect(m.events.count).toBe(0)
})

test('a device in an identity domain has the second stage alone', async ({ machine }) => {
  const m = await machine()
  const page = await m.guest.allocate(4096)
  await m.device('edu').dmaRead(page)
  await expect(m).toHaveStream('edu', { hostConfig: 'bypass', shadowConfig: 's2' })
  await expect(m.commands).toContainCommand({ name: 'CFGI_STE', sid: m.device('edu').sid })
  await expect(m).toTranslate({ device: 'edu', iova: page }, { pa: page })
})

test('pages of queues that the SMMU uses cannot be given away', async ({ machine }) => {
  const m = await machine({ fresh: true })
  await expect(m.traps).toContainTrap({ register: 'CMDQ_BASE', write: true })
  const [written] = m.traps.filter({ register: 'CMDQ_BASE', write: true })
  const queue = Number((written?.value ?? 0n) & 0x000f_ffff_ffff_f000n)
  await expect(m).toHaveOwner(queue, 'shared')
  await expect(m.hyp.donate(queue, { vm: 1 })).rejects.toThrow('EPERM')
})
