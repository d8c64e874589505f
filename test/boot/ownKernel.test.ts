// SPDX-License-Identifier: Apache-2.0
/** A kernel of one's own: Debian's, given as a file and as the folder of a build, with the modules that are found. */
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ensureKernel, type KernelFiles } from '../../scripts/setup/index.ts'
import { guestModules } from '../../scripts/setup/modules.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { cosim } from './cli.ts'

const folder = privateFolder(tmpdir(), 'kernel-')
afterAll(() => rmSync(folder, { recursive: true }))

let kernel: KernelFiles
beforeAll(async () => {
  kernel = await ensureKernel({ kernel: '6.12' })
})

/** As a build leaves it: modules where they were made, unpacked, and none installed. */
async function build(): Promise<string> {
  const put = (name: string, content: string | Uint8Array) => {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), content)
  }
  const built: string[] = []
  for (const path of await guestModules(kernel.modules)) {
    const name = path.replace(/^kernel\//, '').replace(/\.xz$/, '')
    put(name, execFileSync('xz', ['-dc', join(kernel.modules, path)], { maxBuffer: 1 << 26 }))
    built.push(name)
  }
  put('modules.order', `${built.join('\n')}\n`)
  put('include/config/kernel.release', `${kernel.version}\n`)
  mkdirSync(join(folder, 'arch/arm64/boot'), { recursive: true })
  copyFileSync(kernel.image, join(folder, 'arch/arm64/boot/Image'))
  copyFileSync(join(kernel.modules, 'modules.builtin'), join(folder, 'modules.builtin'))
  return folder
}

test.each([
  ['an image, whose modules are found', async () => kernel.image],
  ['the folder of a build', build],
])('%s boots, and the workload is done', async (_, given) => {
  const { report, said } = await cosim(['boot', '--quiet', '--kernel', await given()])
  expect([report?.outcome, report?.kernel], said).toEqual(['ok', kernel.version])
  expect(report?.workload.filter(({ ok }) => !ok)).toEqual([])
})
