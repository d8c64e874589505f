// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { checkFiles, checkSizes, DEFAULTS } from '../../../server/run/options.ts'

test.each([
  ['3M', '1G', 'carveout 3M: not a multiple of 2M'],
  ['64M', '100M', 'carveout 64M: more than half of memory 100M'],
])('a carve-out of %s in %s', (carveout, memory, message) => {
  expect(() => checkSizes({ carveout, memory })).toThrow(message)
  expect(() => checkSizes({ carveout, memory }, '--')).toThrow(`--${message.replace(' memory', ' --memory')}`)
})

test('what is fine', () => {
  expect(() => checkSizes(DEFAULTS)).not.toThrow()
  expect(() => checkSizes({ carveout: '0', memory: '64M' })).not.toThrow()
  expect(() => checkFiles({ kernel: '6.1' })).not.toThrow()
})

test.each([
  [
    { kernel: '6.11' },
    "--kernel 6.11: no such file, or not readable (or one of Debian's series: 6.12, 6.12-16k, 6.1, 6.16, 6.17, 6.18, 7.2, 7.3, latest)",
  ],
  [{ kernel: '6.12', initrd: '/no/such' }, '--initrd /no/such: no such file, or not readable'],
  [{ kernel: '6.12', qemu: '/no/such' }, '--qemu /no/such: no such file, or not readable'],
])('files that are not there: %j', (files, message) => {
  expect(() => checkFiles(files)).toThrow(message)
})
