// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { contentKey } from '../../../scripts/setup/cache.ts'
import { configurationKey, matchingSeries, qemuKey } from '../../../scripts/setup/qemuBuild.ts'

test('a content key depends on the parts, their order and where one ends', () => {
  const keys = [['a', 'b'], ['b', 'a'], ['ab'], ['ab', ''], ['a', 'b', '']].map(parts => contentKey(parts))
  expect(new Set(keys).size).toBe(keys.length)
  expect(contentKey(['a', 'b'])).toBe(contentKey(['a', Buffer.from('b')]))
})

const recipe = {
  version: '10.0.2',
  host: 'x64 ID=debian',
  devices: 'CONFIG_EDU=y',
  patches: [{ name: 'a', text: '+1' }],
}

test('QEMU is built anew for another source, host, device list or patch, and not for a renamed patch', () => {
  const key = qemuKey(recipe)
  for (const change of [{ version: '10.0.3' }, { host: 'arm64 ID=debian' }, { devices: '' }, { patches: [] }]) {
    expect(qemuKey({ ...recipe, ...change })).not.toBe(key)
  }
  expect(qemuKey({ ...recipe, patches: [{ name: 'b', text: '+1' }] })).toBe(key)
})

test('a build folder is configured anew where it moved, for another host, device list or flag, and not for a patch', () => {
  const key = configurationKey(recipe, '/cache/build', ['--enable-tcg'])
  expect(configurationKey(recipe, '/moved/build', ['--enable-tcg'])).not.toBe(key)
  expect(configurationKey(recipe, '/cache/build', ['--enable-kvm'])).not.toBe(key)
  for (const change of [{ host: 'x64 ID=debian VERSION_ID=13' }, { devices: '' }])
    expect(configurationKey({ ...recipe, ...change }, '/cache/build', ['--enable-tcg'])).not.toBe(key)
  expect(configurationKey({ ...recipe, patches: [] }, '/cache/build', ['--enable-tcg'])).toBe(key)
})

test.each([
  ['10.0.13+ds-0+deb13u1', '10.0'],
  ['1:10.0.13', '10.0'],
  ['10.1.2', '10.0'],
  ['10.2.0', '10.2'],
  ['10.2.2+ds-1', '10.2'],
  ['10.12.0', '10.2'],
  ['11.0.50', '10.2'],
  ['9.2.4', undefined],
  ['next', undefined],
])('QEMU %s: the newest series that is not newer is %s', (version, series) => {
  expect(matchingSeries(version)).toBe(series)
})
