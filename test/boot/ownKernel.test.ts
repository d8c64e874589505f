// SPDX-License-Identifier: Apache-2.0
/** A kernel of one's own: Debian's, given as a file and as the folder of a build, with the modules that are found. */
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ensureKernel, type KernelFiles } from '../../scripts/setup/index.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { cosim } from './cli.ts'
import { kernelTree } from './kernelTree.ts'

const folder = privateFolder(tmpdir(), 'kernel-')
afterAll(() => rmSync(folder, { recursive: true }))

let kernel: KernelFiles
beforeAll(async () => {
  kernel = await ensureKernel({ kernel: '6.12' })
})

test.each([
  ['an image, whose modules are found', async () => kernel.image],
  [
    'the folder of a build',
    async () => {
      await kernelTree(folder, kernel)
      return folder
    },
  ],
])('%s boots, and the workload is done', async (_, given) => {
  const { report, said } = await cosim(['boot', '--quiet', '--kernel', await given()])
  expect([report?.outcome, report?.kernel], said).toEqual(['ok', kernel.version])
  expect(report?.workload.filter(({ ok }) => !ok)).toEqual([])
})
