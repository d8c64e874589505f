// SPDX-License-Identifier: Apache-2.0
/** Devices that a machine may have beside the usual four, each of which the guest's workload exercises (scripts/guest). */

/** A device behind the SMMU, as QEMU and the guest know it. */
export interface ExtraDevice {
  /** One line for people. */
  readonly what: string
  /** `disk`: read and written; `net`: a file is fetched over it. */
  readonly kind: 'disk' | 'net'
  /** Drivers: names of kernel modules, and the option that makes each. What they need comes along. */
  readonly drivers: Readonly<Record<string, string>>
  /** Further checks of the workload, each a network card of its own name: virtual functions. */
  readonly functions?: readonly string[]
  /**
   * QEMU's words, in order: each the value of a `-device`. The last bus that a device needs comes before it.
   * @param backend what a disk or card ends with: `drive=…` or `netdev=…`
   */
  readonly devices: (backend: string) => readonly string[]
}

const SCSI_DISK = { sd_mod: 'CONFIG_BLK_DEV_SD' }

/** Serial number of the disk of a device: the guest finds it by that. At most 20 characters, which is ATA's limit. */
export const serialOf = (name: string): string => `cosim-${name}`

const DEVICES = {
  igb: {
    what: 'Intel 82576 behind a root port, with two SR-IOV virtual functions',
    kind: 'net',
    drivers: { igb: 'CONFIG_IGB', igbvf: 'CONFIG_IGBVF' },
    functions: ['igb.vf0', 'igb.vf1'],
    devices: netdev => ['pcie-root-port,id=igb-port,chassis=1', `igb,id=igb,bus=igb-port,${netdev}`],
  },
  'usb-storage': {
    what: 'a USB disk on an xHCI controller',
    kind: 'disk',
    drivers: { xhci_pci: 'CONFIG_USB_XHCI_PCI', usb_storage: 'CONFIG_USB_STORAGE', ...SCSI_DISK },
    devices: drive => [
      'qemu-xhci,id=xhci',
      `usb-bot,id=usb-bot,bus=xhci.0,serial=${serialOf('usb-storage')}`,
      `scsi-hd,id=usb-storage,bus=usb-bot.0,${drive}`,
    ],
  },
  'virtio-scsi': {
    what: 'a SCSI disk on a virtio controller',
    kind: 'disk',
    drivers: { virtio_scsi: 'CONFIG_SCSI_VIRTIO', ...SCSI_DISK },
    devices: drive => [
      'virtio-scsi-pci,id=virtio-scsi,iommu_platform=on,disable-legacy=on',
      `scsi-hd,id=virtio-scsi-disk,bus=virtio-scsi.0,serial=${serialOf('virtio-scsi')},${drive}`,
    ],
  },
  ahci: {
    what: 'a SATA disk on an AHCI controller',
    kind: 'disk',
    drivers: { ahci: 'CONFIG_SATA_AHCI', ...SCSI_DISK },
    devices: drive => ['ich9-ahci,id=ahci', `ide-hd,id=ahci-disk,bus=ahci.0,serial=${serialOf('ahci')},${drive}`],
  },
  e1000: {
    what: 'a conventional PCI card (Intel 82540) behind a PCIe-to-PCI bridge, whose StreamID it has',
    kind: 'net',
    drivers: { e1000: 'CONFIG_E1000' },
    devices: netdev => ['pcie-pci-bridge,id=pci-bridge', `e1000,id=e1000,bus=pci-bridge,addr=1,romfile=,${netdev}`],
  },
  'virtio-blk-mq': {
    what: 'a virtio disk with four queues behind a root port; the guest makes use of one for each vCPU',
    kind: 'disk',
    drivers: { virtio_blk: 'CONFIG_VIRTIO_BLK' },
    devices: drive => [
      'pcie-root-port,id=virtio-blk-mq-port,chassis=2',
      `virtio-blk-pci,id=virtio-blk-mq,bus=virtio-blk-mq-port,num-queues=4,iommu_platform=on,disable-legacy=on,serial=${serialOf('virtio-blk-mq')},${drive}`,
    ],
  },
} as const satisfies Record<string, ExtraDevice>

export type DeviceName = keyof typeof DEVICES

/** Names of all devices, in the order in which machines have them. */
export const DEVICE_NAMES = Object.keys(DEVICES) as DeviceName[]

export const isDevice = (name: string): name is DeviceName => Object.hasOwn(DEVICES, name)

export const extraDevice = (name: DeviceName): ExtraDevice => DEVICES[name]

/** Those of the list, each once, in the machine's order. */
export const inOrder = (names: readonly DeviceName[]): DeviceName[] => DEVICE_NAMES.filter(name => names.includes(name))

/** Modules of the kernel that drive the devices. */
export const driversOf = (names: readonly DeviceName[]): Readonly<Record<string, string>> =>
  Object.assign({}, ...names.map(name => extraDevice(name).drivers))

/** The same of what mounts a folder of the host's. */
export const SHARE_DRIVERS: Readonly<Record<string, string>> = {
  '9pnet_virtio': 'CONFIG_NET_9P_VIRTIO',
  '9p': 'CONFIG_9P_FS',
}

/** Third byte of the networks of cards, one for each; the guest reaches the host at the second address. */
const FIRST_NET = 4
const FIRST_SLOT_NET = 32

/** The network of a device, or of what is plugged into a slot. */
export const netOf = (what: DeviceName | number): string =>
  `10.0.${typeof what === 'number' ? FIRST_SLOT_NET + what : FIRST_NET + DEVICE_NAMES.indexOf(what)}`

/**
 * QEMU's command line for devices.
 * @param image path of a disk's image
 */
export function deviceArguments(names: readonly DeviceName[], image: (name: DeviceName) => string): string[] {
  return names.flatMap(name => {
    const { kind, devices } = extraDevice(name)
    const disk = kind === 'disk'
    const backend = disk
      ? ['-drive', `if=none,id=${name}-drive,format=raw,file=${image(name).replaceAll(',', ',,')}`]
      : ['-netdev', `user,id=${name}-net,net=${netOf(name)}.0/24`]
    const end = disk ? `drive=${name}-drive` : `netdev=${name}-net`
    return [...backend, ...devices(end).flatMap(device => ['-device', device])]
  })
}
