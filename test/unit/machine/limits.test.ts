// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { checkOpenFiles } from '../../../server/machine/limits.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))
const limits = (files: string) => `Max processes             95610                95610                processes
Max open files            ${files.padEnd(20)} ${files.padEnd(20)} files
Max locked memory         8388608              8388608              bytes
`

test('the limit of open files', () => {
  expect(() => checkOpenFiles(limits('1024'))).not.toThrow()
  expect(() => checkOpenFiles(limits('256'))).not.toThrow()
  expect(() => checkOpenFiles(limits('unlimited'))).not.toThrow()
  expect(() => checkOpenFiles(limits('255'))).toThrow('this process may open 255 files, 256 are needed')
  expect(() => checkOpenFiles()).not.toThrow()
})

test('a machine that could not open its files is not begun', async () => {
  const run = promisify(execFile)('sh', ['-c', 'ulimit -n 64; exec "$0" "$1" boot --quiet', process.execPath, MAIN])
  await expect(run).rejects.toMatchObject({
    code: 1,
    stderr: 'smmu-cosim: this process may open 64 files, 256 are needed: raise the limit (ulimit -n)\n',
  })
})

test('what runs no machine needs no more than it has', async () => {
  const run = promisify(execFile)('sh', ['-c', 'ulimit -n 64; exec "$0" "$1" trace --help', process.execPath, MAIN])
  expect((await run).stdout).toContain('look into recordings')
})
