// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, expect, test } from 'vitest'
import { moduleContent } from '../../../scripts/setup/initramfs.ts'
import { guestModules, loadOrder, parseModulesDep } from '../../../scripts/setup/modules.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'

const dependencies = parseModulesDep(`\
kernel/net/core/failover.ko.xz:
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/drivers/nvme/host/nvme-core.ko.xz:
kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz
`)

test.each(['../../../etc/shadow', '/etc/shadow', 'kernel/../../x.ko'])(
  'a modules.dep that leads to %s is refused',
  async outside => {
    const folder = mkdtempSync(join(tmpdir(), 'cosim-modules-'))
    writeFileSync(join(folder, 'modules.dep'), `kernel/virtio_blk.ko:\nkernel/virtio_net.ko: ${outside}\n`)
    await expect(guestModules(folder)).rejects.toThrow(`${folder}: modules.dep leads out of it: ${outside}`)
    rmSync(folder, { recursive: true })
  },
)

test('every module comes after what it needs, once', () => {
  expect(loadOrder(dependencies, ['virtio_net', 'nvme', 'nvme-core'])).toEqual([
    'kernel/net/core/failover.ko.xz',
    'kernel/drivers/net/net_failover.ko.xz',
    'kernel/drivers/net/virtio_net.ko.xz',
    'kernel/drivers/nvme/host/nvme-core.ko.xz',
    'kernel/drivers/nvme/host/nvme.ko.xz',
  ])
})

test('a modules.dep that leads in circles, or far, has an end', () => {
  const circle = parseModulesDep('a.ko: a.ko b.ko\nb.ko: c.ko\nc.ko: a.ko d.ko\nd.ko:\n')
  expect(loadOrder(circle, ['a'])).toEqual(['d.ko', 'c.ko', 'b.ko', 'a.ko'])
  const far = Array.from({ length: 100_000 }, (_, i) => `m${i}.ko: m${i + 1}.ko`)
  expect(loadOrder(parseModulesDep(`${far.join('\n')}\nm100000.ko:`), ['m0'])).toHaveLength(100_001)
})

test('a module is found by its name with dashes or underscores', () => {
  expect(loadOrder(dependencies, ['nvme_core'])).toEqual(['kernel/drivers/nvme/host/nvme-core.ko.xz'])
})

test('what is built in needs no file', () => {
  expect(loadOrder(dependencies, ['virtio_pci'])).toEqual([])
})

const scratch = privateFolder(tmpdir(), 'modules-')
afterAll(() => rmSync(scratch, { recursive: true }))

const MODULE = Buffer.from('a module '.repeat(1000))
test.each<[string, Uint8Array]>([
  ['nvme.ko', MODULE],
  ['nvme.ko.gz', gzipSync(MODULE)],
  ['nvme.ko.zst', zstdCompressSync(MODULE)],
  ['nvme.ko.xz', execFileSync('xz', ['-c'], { input: MODULE })],
])('%s is unpacked for the guest, which cannot', async (name, bytes) => {
  const path = join(scratch, name)
  writeFileSync(path, bytes)
  expect(Buffer.compare(await moduleContent(path, { scratch, signal: undefined }), MODULE)).toBe(0)
})

test.each([
  ['nvme.ko.lz4', 'modules are .ko, .ko.gz, .ko.xz or .ko.zst'],
  ['nvme.ko.gz', 'cannot be unpacked'],
  ['nvme.ko.zst', 'cannot be unpacked'],
])('%s that is none is told', async (name, message) => {
  const path = join(scratch, `bad-${name}`)
  writeFileSync(path, 'no module')
  await expect(moduleContent(path, { scratch, signal: undefined })).rejects.toThrow(message)
})
