// SPDX-License-Identifier: Apache-2.0
/** That a test notices where devices are not isolated. */
import { expect, test } from 'smmu-cosim/test'

test('a prefix of the series has no second stage, and isolates nothing', async ({ machine }) => {
  const m = await machine({ until: 'cmdq' })
  await expect(m).not.toBeIsolated()
})

test('a device with a stale translation, because the invalidation was lost, is found', async ({ machine }) => {
  const lost = (name: string, command: string) =>
    ({
      name,
      where: { at: 'command', command, queue: 'shadow' },
      when: { times: 'always' },
      what: { do: 'drop' },
    }) as const
  const m = await machine({
    faults: [lost('lose-stage2', 'CMDQ_OP_TLBI_S2_IPA'), lost('lose-stage1', 'CMDQ_OP_TLBI_NH_ALL')],
  })
  const page = await m.guest.allocate(4096)
  // The translation is in the SMMU's TLB.
  await m.device('edu').dmaWrite(page)
  await m.hyp.donate(page, { vm: 1 })
  await m
    .device('edu')
    .dmaWrite(page)
    .catch(() => {}) // the machine may be stopped first
  await expect(m).not.toBeIsolated()
})
