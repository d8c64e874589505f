// SPDX-License-Identifier: Apache-2.0
/** What machines of a campaign are made with. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Machines, onThisMachine } from '../../../server/sessions/campaign.ts'
import type { Job } from '../../../server/sessions/session.ts'
import { IMAGE_MAGIC } from '../../../server/trace/kernelImage.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-campaign-`))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

test('machines that are too large for so many at a time are refused before one starts', async () => {
  const runner = onThisMachine<number, number>(
    2,
    async () => expect.unreachable(),
    part => part * totalmem(),
  )
  await expect(runner([0.1, 0.6], () => {}, new AbortController().signal)).rejects.toThrow(
    /^--jobs 2: a machine with .* GiB for each of 2 at a time$/,
  )
})

test('what could not be prepared once is tried again for the next job', async () => {
  const [kernel, initrd, qemu] = ['Image', 'initrd', 'qemu'].map(name => join(folder, name))
  for (const file of [initrd, qemu]) writeFileSync(file, 'no matter')
  const job: Job = {
    entry: { ...{ name: 'a', summary: 'a', expect: [], why: 'a', rules: [] }, session: { boot: 'fresh' } },
    ...{ seed: 1, kernel, until: 'nested', machine: { initrd } },
  }
  const machines = new Machines({ ramDir: 'memory', qemu, say: () => {} }, new AbortController().signal)
  await expect(machines.of(job)).rejects.toThrow(kernel)
  const header = Buffer.alloc(64)
  header.write(IMAGE_MAGIC, 56)
  writeFileSync(kernel, header)
  const { prepared } = await machines.of(job)
  expect(prepared.files.kernel.image).toBe(kernel)
  machines.close()
})
