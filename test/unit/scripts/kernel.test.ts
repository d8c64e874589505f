// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { imageVersion, kernelPackages, newestImage } from '../../../scripts/setup/kernel.ts'

test('a kernel in one package', () => {
  const depends = 'kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool'
  expect(kernelPackages('6.12.57+deb13-arm64', depends)).toEqual(['linux-image-6.12.57+deb13-arm64'])
})

test('a kernel whose image, modules and base have packages of their own', () => {
  const depends =
    'dracut | initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool, linux-base-7.3.4+deb13-arm64 (= 7.3.4-1~bpo13+1), ' +
    'linux-binary-7.3.4+deb13-arm64 (= 7.3.4-1~bpo13+1), linux-modules-7.3.4+deb13-arm64 (= 7.3.4-1~bpo13+1)'
  expect(kernelPackages('7.3.4+deb13-arm64', depends)).toEqual([
    'linux-image-7.3.4+deb13-arm64',
    'linux-base-7.3.4+deb13-arm64',
    'linux-binary-7.3.4+deb13-arm64',
    'linux-modules-7.3.4+deb13-arm64',
  ])
})

test('the version that the metapackage depends on', () => {
  expect(imageVersion('linux-base-arm64 (= 7.3.4-1), linux-image-7.3.4+deb13-arm64 (= 7.3.4-1)')).toBe(
    '7.3.4+deb13-arm64',
  )
  expect(() => imageVersion('linux-base-arm64')).toThrow('depends on no kernel image but on: linux-base-arm64')
})

test('the newest plain image of a series that the metapackage has left behind', () => {
  const names = [
    'linux-image-7.2.9+deb13-arm64',
    'linux-image-7.2.10+deb13-arm64',
    'linux-image-7.2.11+deb13-arm64-16k',
    'linux-image-7.2.12+deb13-cloud-arm64',
    'linux-image-7.2.13+deb13-arm64-dbg',
    'linux-image-7.20.1+deb13-arm64',
    'linux-image-arm64',
  ]
  expect(newestImage('7.2', names)).toBe('7.2.10+deb13-arm64')
  expect(newestImage('7.1', names)).toBeUndefined()
})
