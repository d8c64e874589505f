// SPDX-License-Identifier: Apache-2.0
/** Which devices reach memory without the SMMU, by an object tree as QEMU tells it. test/qtest asks a real one. */
import { expect, test } from 'vitest'
import { masterNames, untranslatedMasters } from '../../../server/machine/masters.ts'

const KINDS: Readonly<Record<string, readonly string[]>> = {
  'pci-device': ['nvme', 'virtio-blk-pci', 'pcie-root-port'],
  'virtio-pci': ['virtio-blk-pci'],
  'virtio-device': ['virtio-blk-device'],
  'sys-bus-device': ['sysbus-ahci', 'pl011', 'arm-smmuv3'],
  'pci-host-bridge': ['gpex-pcihost', 'pxb-host'],
}

type Properties = Readonly<Record<string, unknown>>
/** Objects by path: their type and properties. */
type Objects = Readonly<Record<string, readonly [type: string, properties?: Properties]>>

/** QEMU with an SMMU, a root bus behind it and a second one that bypasses it. */
const BOARD: Objects = {
  '/machine': ['virt-machine', { iommu: 'smmuv3' }],
  '/machine/host': ['gpex-pcihost', { 'bypass-iommu': false }],
  '/machine/host/pcie.0': ['PCIE'],
  '/machine/pxb': ['pxb-host', { 'bypass-iommu': true }],
  '/machine/pxb/bus': ['PCIE'],
  '/machine/peripheral/port': ['pcie-root-port', { parent_bus: '/machine/host/pcie.0' }],
  '/machine/peripheral/port/bus': ['PCIE'],
}

function masters(more: Objects) {
  const objects: Objects = { ...BOARD, ...more }
  const kinds: unknown[] = []
  const execute = (command: string, parameters: Record<string, unknown> = {}): Promise<unknown> => {
    if (command === 'qom-list-types') {
      expect(parameters.abstract).toBe(false)
      // Asked once of each kind: QEMU has hundreds of types.
      expect(kinds).not.toContain(parameters.implements)
      kinds.push(parameters.implements)
      return Promise.resolve((KINDS[String(parameters.implements)] ?? []).map(name => ({ name })))
    }
    const path = String(parameters.path)
    if (command === 'qom-get') {
      if (objects[path] === undefined) return Promise.reject(new Error(`Device '${path}' not found`))
      const [type, properties = {}] = objects[path] ?? ['']
      const property = String(parameters.property)
      return Promise.resolve(property === 'type' ? type : properties[property])
    }
    const children = Object.entries(objects).flatMap(([at, [type]]) =>
      at.slice(0, at.lastIndexOf('/')) === path ? [{ name: at.slice(path.length + 1), type: `child<${type}>` }] : [],
    )
    return Promise.resolve([...children, { name: 'type', type: 'string' }])
  }
  return untranslatedMasters({ execute } as Parameters<typeof untranslatedMasters>[0])
}

const at = (parent_bus: string, more: Properties = {}): Properties => ({ parent_bus, ...more })
const BEHIND = '/machine/host/pcie.0'

test('a board whose devices all go through the SMMU has none', async () => {
  expect(
    await masters({
      '/machine/peripheral/disk': ['nvme', at(BEHIND)],
      '/machine/peripheral/below': ['nvme', at('/machine/peripheral/port/bus')],
      '/machine/peripheral-anon/device[0]': ['virtio-blk-pci', at(BEHIND, { iommu_platform: true })],
      '/machine/unattached/uart': ['pl011', at('')],
      '/machine/peripheral/smmu1': ['arm-smmuv3', at('')],
      '/machine/fw_cfg': ['fw_cfg_mem', { dma_enabled: false }],
    }),
  ).toEqual([])
})

test.each<[string, string, string, Properties, string]>([
  ['a bus that bypasses it', '/machine/peripheral/disk', 'nvme', at('/machine/pxb/bus'), 'its bus bypasses the SMMU'],
  [
    'virtio without iommu_platform',
    '/machine/peripheral-anon/device[0]',
    'virtio-blk-pci',
    at(BEHIND, { iommu_platform: false }),
    'iommu_platform is off',
  ],
  [
    'a device of the board',
    '/machine/unattached/device[3]',
    'nvme',
    at('/machine/pxb/bus'),
    'its bus bypasses the SMMU',
  ],
  ['the system bus', '/machine/peripheral/ahci', 'sysbus-ahci', at(''), 'it sits on the system bus'],
])('%s', async (_, path, model, properties, why) => {
  const name = path.slice(path.lastIndexOf('/') + 1)
  expect(await masters({ [path]: [model, properties] })).toEqual([{ name, model, why }])
})

test('SMMUs that are devices are in front of their root buses only', async () => {
  const board: Objects = {
    '/machine': ['virt-machine', { iommu: 'none' }],
    '/machine/pxb': ['pxb-host', { 'bypass-iommu': false }],
    '/machine/peripheral/port': ['pcie-root-port', { parent_bus: '/machine/pxb/bus' }],
    '/machine/peripheral/near': ['nvme', at(BEHIND)],
    '/machine/peripheral/far': ['nvme', at('/machine/peripheral/port/bus')],
  }
  const smmu = (bus: string): readonly [string, Properties] => ['arm-smmuv3', at('', { 'primary-bus': bus })]
  const both = {
    '/machine/peripheral/smmu0': smmu(BEHIND),
    '/machine/peripheral-anon/device[0]': smmu('/machine/pxb/bus'),
  }
  expect(await masters({ ...board, ...both })).toEqual([])
  const found = await masters({ ...board, '/machine/peripheral/smmu0': smmu(BEHIND) })
  expect(found.map(({ name, why }) => `${name}: ${why}`)).toEqual([
    'port: no SMMU is in front of its bus',
    'far: no SMMU is in front of its bus',
  ])
  expect((await masters(board)).map(({ why }) => why)).toEqual(Array(3).fill('the machine has no SMMU'))
})

test('below a port of a bus that bypasses it', async () => {
  const found = await masters({
    '/machine/peripheral/far': ['pcie-root-port', at('/machine/pxb/bus')],
    '/machine/peripheral/far/bus': ['PCIE'],
    '/machine/peripheral/disk': ['nvme', at('/machine/peripheral/far/bus')],
  })
  expect(found.map(({ name }) => name)).toEqual(['far', 'disk'])
})

test('virtio-mmio has no StreamID; virtio behind PCI is told as its PCI device', async () => {
  expect(
    await masters({
      '/machine/unattached/transport': ['virtio-mmio'],
      '/machine/unattached/transport/bus': ['virtio-mmio-bus'],
      '/machine/peripheral/disk': ['virtio-blk-device', at('/machine/unattached/transport/bus')],
      '/machine/peripheral/pci': ['virtio-blk-pci', at(BEHIND, { iommu_platform: true })],
      '/machine/peripheral/pci/bus': ['virtio-pci-bus'],
      '/machine/peripheral-anon/backend': ['virtio-blk-device', at('/machine/peripheral/pci/bus')],
    }),
  ).toEqual([{ name: 'disk', model: 'virtio-blk-device', why: 'virtio-mmio has no StreamID' }])
})

test('without an SMMU every PCI device is one', async () => {
  const found = await masters({
    '/machine': ['virt-machine', { iommu: 'none' }],
    '/machine/peripheral/disk': ['nvme', at(BEHIND)],
  })
  expect(found.map(({ name, why }) => `${name}: ${why}`)).toEqual([
    'port: the machine has no SMMU',
    'disk: the machine has no SMMU',
  ])
})

test('fw_cfg, where its DMA is on', async () => {
  const found = await masters({ '/machine/fw_cfg': ['fw_cfg_mem', { dma_enabled: true }] })
  expect(found).toEqual([{ name: 'fw_cfg', model: 'fw_cfg_mem', why: 'its DMA uses physical addresses (dma_enabled)' }])
  expect(masterNames(found)).toBe('fw_cfg (fw_cfg_mem: its DMA uses physical addresses (dma_enabled))')
})
