// SPDX-License-Identifier: Apache-2.0
/**
 * Which device has which StreamID. It is the PCI requester ID, and the guest numbers the buses below bridges: QEMU is asked when the
 * guest may have done so, or devices came and went.
 */
import { functionName } from './comingDevices.ts'
import type { Qmp } from './qmp.ts'

/** A device behind an SMMU. */
export interface NamedDevice {
  readonly smmu: number
  readonly sid: number
  readonly name: string
  readonly model: string
}

/** What `query-pci` says of a device, as far as it is looked at. */
export interface PciDevice {
  readonly bus: number
  readonly slot: number
  readonly function: number
  readonly class_info: { readonly class: number }
  readonly id: { readonly vendor: number; readonly device: number }
  readonly qdev_id: string
  readonly pci_bridge?: { readonly bus: { readonly secondary: number }; readonly devices?: readonly PciDevice[] }
}

/** A root bus of `query-pci`. */
export interface PciRoot {
  readonly bus: number
  readonly devices: readonly PciDevice[]
}

const HOST_BRIDGE = 0x0600
/** What QEMU has in the configuration space of a virtual function, instead of a vendor. */
const VIRTUAL_FUNCTION = 0xffff

const idOf = ({ id: { vendor, device } }: PciDevice): string => `${vendor.toString(16)}:${device.toString(16)}`
/** QEMU's bridges to a conventional bus: with a PCIe capability (pcie-pci-bridge), and without (pci-bridge, i82801b11-bridge). */
const TO_CONVENTIONAL = '1b36:e'
const CONVENTIONAL: ReadonlySet<string> = new Set(['1b36:1', '8086:244e'])

const requesterId = (device: PciDevice): number => (device.bus << 8) | (device.slot << 3) | device.function
const hex2 = (value: number): string => value.toString(16).padStart(2, '0')
const address = ({ bus, slot, function: fn }: PciDevice): string => `${hex2(bus)}:${hex2(slot)}.${fn}`

/**
 * The devices of a machine with their StreamIDs. What is on a conventional bus has the bridge's (PCI Express to PCI/PCI-X Bridge
 * Specification, 2.3: the secondary bus, function 0; a bridge without a PCIe capability its own), and comes with it first.
 * @param roots as `query-pci` has them
 * @param smmuOf index of the SMMU in front of a root bus; undefined: none
 * @param models QEMU's types by ids
 * @param used whether the guest makes use of a StreamID: virtual functions that it has not switched on are left out
 */
export function namedDevices(
  roots: readonly PciRoot[],
  smmuOf: (bus: number) => number | undefined,
  models: ReadonlyMap<string, string>,
  used: (smmu: number, sid: number) => boolean,
): NamedDevice[] {
  const found: NamedDevice[] = []
  for (const root of roots) {
    const smmu = smmuOf(root.bus)
    if (smmu === undefined) continue
    const add = (sid: number, name: string, model: string) => found.push({ smmu, sid, name, model })
    const walk = (devices: readonly PciDevice[], conventional: number | undefined): void => {
      const physical = devices.filter(({ id }) => id.vendor !== VIRTUAL_FUNCTION)
      for (const device of physical) {
        if (device.class_info.class === HOST_BRIDGE) continue
        const sid = requesterId(device)
        const name = device.qdev_id || address(device)
        const model = models.get(device.qdev_id) ?? ''
        if (conventional !== undefined) add(conventional, name, model)
        if (sid !== conventional) add(sid, name, model)
        const { bus, devices: below = [] } = device.pci_bridge ?? {}
        if (bus === undefined || bus.secondary === 0) continue
        const alias =
          idOf(device) === TO_CONVENTIONAL ? bus.secondary << 8 : CONVENTIONAL.has(idOf(device)) ? sid : undefined
        walk(below, conventional ?? alias)
      }
      // Which function they are of is not told, and known where a bus has one device.
      const [only, ...more] = physical
      for (const [index, device] of devices.filter(({ id }) => id.vendor === VIRTUAL_FUNCTION).entries()) {
        const sid = requesterId(device)
        const parent = more.length === 0 ? only?.qdev_id : undefined
        if (used(smmu, sid)) add(sid, parent ? functionName(parent, index) : address(device), 'virtual function')
      }
    }
    walk(root.devices, undefined)
  }
  return found
}

/** Ids of what was given on the command line or plugged in later, with their types. */
async function modelsOf(qmp: Pick<Qmp, 'execute'>): Promise<Map<string, string>> {
  const list = (await qmp.execute('qom-list', { path: '/machine/peripheral' })) as { name: string; type: string }[]
  return new Map(
    list.flatMap(({ name, type }) => (/^child<(.*)>$/.exec(type) ?? []).slice(1).map(model => [name, model] as const)),
  )
}

/**
 * Asks QEMU.
 * @param before devices that it described: by them it is known which SMMU a root bus is behind
 * @returns those that have a StreamID
 * @throws QmpError when QEMU goes away
 */
export async function askForDevices(
  qmp: Pick<Qmp, 'execute'>,
  before: readonly NamedDevice[],
  used: (smmu: number, sid: number) => boolean,
): Promise<NamedDevice[]> {
  const [roots, models] = await Promise.all([qmp.execute('query-pci'), modelsOf(qmp)])
  const smmus = new Map(before.map(({ smmu, sid }) => [sid >> 8, smmu]))
  return namedDevices(roots as PciRoot[], bus => smmus.get(bus), models, used)
}
