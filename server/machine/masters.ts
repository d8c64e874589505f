// SPDX-License-Identifier: Apache-2.0
/** Devices that reach memory without the SMMU, as QEMU has built the machine. */
import type { Qmp } from './qmp.ts'

/** A device whose accesses no SMMU translates: no policy can keep it from anything. */
export interface UntranslatedMaster {
  /** Id given on the command line, or its place in QEMU's object tree. */
  readonly name: string
  /** QEMU's type name. */
  readonly model: string
  /** Why it is not translated, for people. */
  readonly why: string
}

/** An object in QEMU's tree. */
interface Device {
  readonly path: string
  readonly type: string
}

const PERIPHERALS = ['/machine/peripheral', '/machine/peripheral-anon'] as const
/** Where devices are that the machine made of its own, or of `-nic`. */
const UNATTACHED = '/machine/unattached'
const FW_CFG = '/machine/fw_cfg'
const SMMU = 'arm-smmuv3'

/** The object that another one lies in. */
const above = (path: string): string => path.slice(0, path.lastIndexOf('/'))

class Tree {
  readonly #qmp: Pick<Qmp, 'execute'>
  readonly #types = new Map<string, Promise<ReadonlySet<string>>>()

  constructor(qmp: Pick<Qmp, 'execute'>) {
    this.#qmp = qmp
  }

  async children(path: string): Promise<Device[]> {
    const list = (await this.#qmp.execute('qom-list', { path })) as { name: string; type: string }[]
    return list.flatMap(({ name, type }) => {
      const child = /^child<(.*)>$/.exec(type)?.[1]
      return child === undefined ? [] : [{ path: `${path}/${name}`, type: child }]
    })
  }

  get(path: string, property: string): Promise<unknown> {
    return this.#qmp.execute('qom-get', { path, property })
  }

  async is(type: string, kind: string): Promise<boolean> {
    let types = this.#types.get(kind)
    if (types === undefined) {
      const all = this.#qmp.execute('qom-list-types', { implements: kind, abstract: false })
      types = all.then(list => new Set((list as { name: string }[]).map(({ name }) => name)))
      this.#types.set(kind, types)
    }
    return (await types).has(type)
  }

  /** The root bus that a PCI bus is below, and the host bridge that it belongs to. */
  async root(bus: string): Promise<{ readonly bus: string; readonly bridge: string }> {
    const owner = above(bus)
    if (await this.is(String(await this.get(owner, 'type')), 'pci-host-bridge')) return { bus, bridge: owner }
    return this.root(String(await this.get(owner, 'parent_bus')))
  }
}

/**
 * Asks QEMU for the devices that are there: PCI on a bus that bypasses the SMMU, virtio that uses physical addresses, and what sits
 * on the system bus. What the board has besides – the tables of the GIC's ITS – is not asked for.
 * @throws QmpError when QEMU goes away
 */
export async function untranslatedMasters(qmp: Pick<Qmp, 'execute'>): Promise<UntranslatedMaster[]> {
  const tree = new Tree(qmp)
  const smmus = (await tree.get('/machine', 'iommu')) === 'smmuv3' ? 'all buses' : await rootBusesWithSmmu(tree)
  const found: UntranslatedMaster[] = []
  for (const folder of [...PERIPHERALS, UNATTACHED]) {
    for (const device of await tree.children(folder)) {
      const why = await reason(tree, device, smmus, folder !== UNATTACHED)
      const name = device.path.slice(folder.length + 1)
      if (why !== undefined) found.push({ name, model: device.type, why })
    }
  }
  const fwCfg = (await tree.children('/machine')).some(({ path }) => path === FW_CFG)
  if (fwCfg && (await tree.get(FW_CFG, 'dma_enabled')) === true) {
    found.push({ name: 'fw_cfg', model: 'fw_cfg_mem', why: 'its DMA uses physical addresses (dma_enabled)' })
  }
  return found
}

/** The root buses with an SMMU in front of them; an SMMU of the machine's own is in front of all. */
type Smmus = 'all buses' | ReadonlySet<string>

/** Of a machine without an SMMU of its own. */
async function rootBusesWithSmmu(tree: Tree): Promise<ReadonlySet<string>> {
  const devices = (await Promise.all(PERIPHERALS.map(folder => tree.children(folder)))).flat()
  const smmus = devices.filter(({ type }) => type === SMMU)
  return new Set(await Promise.all(smmus.map(async ({ path }) => String(await tree.get(path, 'primary-bus')))))
}

/**
 * Why a device is not translated; undefined: it is, or makes no accesses.
 * @param added the device is not the board's
 */
async function reason(tree: Tree, { path, type }: Device, smmus: Smmus, added: boolean): Promise<string | undefined> {
  if (await tree.is(type, 'pci-device')) {
    if (smmus !== 'all buses' && smmus.size === 0) return 'the machine has no SMMU'
    const { bus, bridge } = await tree.root(String(await tree.get(path, 'parent_bus')))
    if ((await tree.get(bridge, 'bypass-iommu')) === true) return 'its bus bypasses the SMMU'
    if (smmus !== 'all buses' && !smmus.has(bus)) return 'no SMMU is in front of its bus'
    const virtio = await tree.is(type, 'virtio-pci')
    return virtio && (await tree.get(path, 'iommu_platform')) !== true ? 'iommu_platform is off' : undefined
  }
  if (await tree.is(type, 'virtio-device')) {
    const transport = String(await tree.get(above(String(await tree.get(path, 'parent_bus'))), 'type'))
    return transport === 'virtio-mmio' ? 'virtio-mmio has no StreamID' : undefined
  }
  // An SMMU that was added reads its own tables.
  return added && type !== SMMU && (await tree.is(type, 'sys-bus-device')) ? 'it sits on the system bus' : undefined
}

/** The devices in one line. */
export function masterNames(masters: readonly UntranslatedMaster[]): string {
  return masters.map(({ name, model, why }) => `${name} (${model}: ${why})`).join(', ')
}
