// SPDX-License-Identifier: Apache-2.0
/** A kernel of one's own: Debian's, given as a file and as the folder of a build, with the modules that are found. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
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

async function expectBoots(version: string, ...args: string[]): Promise<void> {
  const { report, said } = await cosim(['boot', '--quiet', '--kernel', ...args])
  expect([report?.outcome, report?.kernel], said).toEqual(['ok', version])
  expect(report?.workload.map(({ ok }) => ok)).toEqual([true, true, true, true, true])
  expect(report?.isolated).toBe(true)
}

test('an image, whose modules are found', () => expectBoots(kernel.version, kernel.image))

test('a compressed image, and the folder of its modules', async () => {
  const image = join(folder, 'Image.gz')
  writeFileSync(image, gzipSync(readFileSync(kernel.image), { level: 1 }))
  await expectBoots(kernel.version, image, '--modules', kernel.modules)
})

test('the folder of a build', async () => {
  const tree = join(folder, 'tree')
  await kernelTree(tree, kernel)
  await expectBoots(kernel.version, tree)
})

test('Debian’s with pages of 16 KiB, on a CPU that has them', async () => {
  const { version } = await ensureKernel({ kernel: '6.12-16k' })
  expect(version).toMatch(/-16k$/)
  await expectBoots(version, '6.12-16k')
})
