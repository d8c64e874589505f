// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { imagesOf, imageVersion, kernelPackages, wholeKernel } from '../../../scripts/setup/kernel.ts'

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
  expect(
    imageVersion('linux-image-arm64', 'linux-base-arm64 (= 7.3.4-1), linux-image-7.3.4+deb13-arm64 (= 7.3.4-1)'),
  ).toBe('7.3.4+deb13-arm64')
  expect(() => imageVersion('linux-image-arm64', 'linux-base-arm64')).toThrow(
    'linux-image-arm64 depends on no kernel image but on: linux-base-arm64',
  )
})

test('the images of a series that the metapackage has left behind, the newest first', () => {
  const names = [
    'linux-image-7.2.9+deb13-arm64',
    'linux-image-7.2.10+deb13-arm64',
    'linux-image-7.2.11+deb13-arm64-16k',
    'linux-image-7.2.12+deb13-cloud-arm64',
    'linux-image-7.2.13+deb13-arm64-dbg',
    'linux-image-7.20.1+deb13-arm64',
    'linux-image-6.1.0-47-arm64',
    'linux-image-arm64',
  ]
  expect(imagesOf('7.2', names)).toEqual(['7.2.10+deb13-arm64', '7.2.9+deb13-arm64'])
  expect(imagesOf('7.2-16k', names)).toEqual(['7.2.11+deb13-arm64-16k'])
  expect(imagesOf('6.1', names)).toEqual(['6.1.0-47-arm64'])
  expect(imagesOf('7.1', names)).toEqual([])
})

/** An archive with these image packages, what they depend on, and those packages besides. */
const archive = (images: Readonly<Record<string, string>>, others: readonly string[]) => ({
  field: (name: string) => Promise.resolve(images[name] ?? ''),
  names: () => Promise.resolve([...Object.keys(images), ...others]),
})

const split = (version: string) =>
  `linux-base-${version} (= 1), linux-binary-${version} (= 1), linux-modules-${version} (= 1)`
const NEWEST = { 'linux-image-arm64': 'linux-image-7.3.4+deb13-arm64 (= 1)' }

test('the newest version of a series is the newest that is there as a whole', async () => {
  const images = {
    ...NEWEST,
    'linux-image-7.2.9+deb13-arm64': split('7.2.9+deb13-arm64'),
    'linux-image-7.2.10+deb13-arm64': split('7.2.10+deb13-arm64'),
  }
  const parts = ['base', 'binary', 'modules'].map(part => `linux-${part}-7.2.9+deb13-arm64`)
  const found = await wholeKernel('7.2', archive(images, [...parts, 'linux-binary-7.2.10+deb13-arm64']))
  expect(found).toEqual({ version: '7.2.9+deb13-arm64', packages: ['linux-image-7.2.9+deb13-arm64', ...parts] })
})

test('a kernel boots without its base package, which an archive drops first', async () => {
  const images = { ...NEWEST, 'linux-image-6.18.15+deb13-arm64': 'kmod, linux-base-6.18.15+deb13-arm64 (= 1)' }
  const packages = ['linux-image-6.18.15+deb13-arm64']
  expect(await wholeKernel('6.18', archive(images, []))).toEqual({ version: '6.18.15+deb13-arm64', packages })
})

test('a series whose modules are gone is refused, by their name', async () => {
  const images = { ...NEWEST, 'linux-image-7.2.12+deb13-arm64': split('7.2.12+deb13-arm64') }
  const broken = wholeKernel('7.2', archive(images, ['linux-binary-7.2.12+deb13-arm64']))
  await expect(broken).rejects.toThrow(
    "Debian's trixie-backports has no whole arm64 kernel 7.2: linux-image-7.2.12+deb13-arm64 needs " +
      'linux-modules-7.2.12+deb13-arm64, which it does not have; its newest is 7.3.4+deb13-arm64',
  )
  await expect(wholeKernel('6.16', archive(NEWEST, []))).rejects.toThrow(
    "Debian's trixie-backports has no whole arm64 kernel 6.16; its newest is 7.3.4+deb13-arm64",
  )
})

test('a kernel with pages of 16 KiB is what its own metapackage depends on', async () => {
  const images = { ...NEWEST, 'linux-image-arm64-16k': 'linux-image-6.12.9+deb13-arm64-16k (= 1)' }
  const version = '6.12.9+deb13-arm64-16k'
  const packages = [`linux-image-${version}`]
  expect(await wholeKernel('6.12-16k', archive(images, packages))).toEqual({ version, packages })
})
