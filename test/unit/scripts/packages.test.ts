// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { hostPackages, missingPackages } from '../../../scripts/setup/packages.ts'

test('msgpack-c has another package name in Debian 12', () => {
  expect(hostPackages('ID=debian\nVERSION_ID="12"\n')).toContain('libmsgpack-dev')
  expect(hostPackages('ID=debian\nVERSION_ID="13"\n')).toContain('libmsgpack-c-dev')
  expect(hostPackages('ID=debian\n')).toContain('libmsgpack-c-dev')
})

test('a package that was removed but not purged is missing', () => {
  const dpkgOutput = 'patch installed\nkmod config-files\nflex not-installed\n'
  expect(missingPackages(['patch', 'kmod', 'flex', 'bison'], dpkgOutput)).toEqual(['kmod', 'flex', 'bison'])
})
