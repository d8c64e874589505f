// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { loadOrder, parseModulesDep } from '../../../scripts/setup/modules.ts'

const dependencies = parseModulesDep(`\
kernel/net/core/failover.ko.xz:
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/drivers/nvme/host/nvme-core.ko.xz:
kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz
`)

test('every module comes after what it needs, once', () => {
  expect(loadOrder(dependencies, ['virtio_net', 'nvme', 'nvme-core'])).toEqual([
    'kernel/net/core/failover.ko.xz',
    'kernel/drivers/net/net_failover.ko.xz',
    'kernel/drivers/net/virtio_net.ko.xz',
    'kernel/drivers/nvme/host/nvme-core.ko.xz',
    'kernel/drivers/nvme/host/nvme.ko.xz',
  ])
})

test('a module is found by its name with dashes or underscores', () => {
  expect(loadOrder(dependencies, ['nvme_core'])).toEqual(['kernel/drivers/nvme/host/nvme-core.ko.xz'])
})

test('what is built in needs no file', () => {
  expect(loadOrder(dependencies, ['virtio_pci'])).toEqual([])
})
