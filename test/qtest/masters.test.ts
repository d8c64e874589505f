// SPDX-License-Identifier: Apache-2.0
/** Which devices of a real machine reach memory without the SMMU. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { untranslatedMasters } from '../../server/machine/masters.ts'
import { QtestMachine } from './machine.ts'

let machine: QtestMachine
beforeEach(() => {
  machine = new QtestMachine()
})
afterEach(() => machine.dispose())

const NO_FW_CFG = ['-global', 'fw_cfg_mem.dma_enabled=off']
const NVME = ['-drive', 'if=none,id=d,driver=null-co,size=1M', '-device', 'nvme,id=nvme,drive=d,serial=x']
const VIRTIO = 'virtio-rng-pci,disable-legacy=on'
const FW_CFG = ['fw_cfg', 'fw_cfg_mem', 'its DMA uses physical addresses (dma_enabled)']

const machines: [string, readonly string[], readonly (readonly string[])[]][] = [
  ['nothing but the board: fw_cfg', [], [FW_CFG]],
  [
    'all behind the SMMU',
    [...NO_FW_CFG, ...NVME, '-device', `${VIRTIO},id=rng,iommu_platform=on`, '-device', 'edu'],
    [],
  ],
  [
    'virtio without iommu_platform',
    [...NO_FW_CFG, '-device', `${VIRTIO},id=rng`],
    [['rng', 'virtio-rng-pci', 'iommu_platform is off']],
  ],
  [
    'a machine without an SMMU',
    [...NO_FW_CFG, '-machine', 'iommu=none', '-device', 'edu,id=edu'],
    [['edu', 'edu', 'the machine has no SMMU']],
  ],
  [
    'virtio-mmio',
    [...NO_FW_CFG, '-device', 'virtio-rng-device'],
    [['device[0]', 'virtio-rng-device', 'virtio-mmio has no StreamID']],
  ],
  [
    'a bus that bypasses the SMMU, and one below it',
    [
      ...[...NO_FW_CFG, '-machine', 'default_bus_bypass_iommu=on', ...NVME],
      ...['-device', 'pcie-root-port,id=rp,chassis=1', '-device', 'edu,id=edu,bus=rp'],
    ],
    [
      ['edu', 'edu', 'its bus bypasses the SMMU'],
      ['nvme', 'nvme', 'its bus bypasses the SMMU'],
      ['rp', 'pcie-root-port', 'its bus bypasses the SMMU'],
    ],
  ],
  [
    'below a bridge that is behind the SMMU',
    [...NO_FW_CFG, '-device', 'pcie-root-port,id=rp,chassis=1', '-device', 'edu,id=edu,bus=rp'],
    [],
  ],
  [
    'a network card of -nic',
    [
      ...NO_FW_CFG,
      '-machine',
      'default_bus_bypass_iommu=on',
      '-nic',
      'user,model=e1000e',
      '-global',
      'e1000e.romfile=',
    ],
    [],
  ],
  ['a device on the system bus', ['-device', 'ramfb,id=fb'], [['fb', 'ramfb', 'it sits on the system bus'], FW_CFG]],
]

test.each(machines)('%s', async (what, args, expected) => {
  await machine.start({ socket: null, args })
  const qmp = await machine.qmp()
  const found = (await untranslatedMasters(qmp)).map(({ name, model, why }) => [name, model, why]).sort()
  qmp.close()
  if (what.includes('-nic')) expect(found).toMatchObject([[expect.any(String), 'e1000e', 'its bus bypasses the SMMU']])
  else expect(found).toEqual(expected)
})
