// SPDX-License-Identifier: Apache-2.0
/** Devices that come and go while the machine runs, in slots that were left free for them. */
import { closeSync, ftruncateSync, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { type PluggableName, pluggedName, slotId } from './comingDevices.ts'
import { netOf } from './devices.ts'
import type { Qmp, QmpEvent } from './qmp.ts'

/** Devices whose drivers the guest has in any case: QEMU's type and properties, as QMP has them: a flag is no word. */
const PLUGGABLE = {
  'virtio-blk': { disk: true, driver: 'virtio-blk-pci', iommu_platform: true, 'disable-legacy': 'on' },
  nvme: { disk: true, driver: 'nvme' },
  'virtio-net': { disk: false, driver: 'virtio-net-pci', iommu_platform: true, 'disable-legacy': 'on', romfile: '' },
  e1000e: { disk: false, driver: 'e1000e', romfile: '' },
} as const satisfies Record<PluggableName, Readonly<Record<string, string | boolean>>>

/** A machine has at most so many free slots. */
export const MAX_SLOTS = 4
/** Chassis numbers of slots; those of other root ports are lower. */
const FIRST_CHASSIS = 16
const DISK_BYTES = 8 << 20
/** Linux leaves somebody at the machine 5 s to think better of it. */
const UNPLUG_MS = 20_000

/** QEMU's words for root ports without a device. */
export const slotArguments = (slots: number): string[] =>
  Array.from({ length: slots }, (_, slot) => [
    '-device',
    `pcie-root-port,id=${slotId(slot)},chassis=${FIRST_CHASSIS + slot}`,
  ]).flat()

/** A device in a slot. */
export interface Plugged {
  /** Its id: `slot0.nvme`. */
  readonly name: string
  readonly device: PluggableName
  readonly slot: number
}

/** There is no slot, or no such device: who asked is to be told. */
export class HotplugError extends Error {}

/** A device, and when QEMU has let go of it. */
interface InSlot {
  readonly plugged: Plugged
  readonly gone: PromiseWithResolvers<void>
}

/** The slots of one machine. */
export class Hotplug {
  readonly #qmp: () => Promise<Qmp>
  readonly #folder: string
  readonly #slots: number
  readonly #taken = new Map<number, InSlot>()
  /** Whose events are listened to. */
  #heard: Qmp | undefined

  /** @param folder for images of disks */
  constructor(qmp: () => Promise<Qmp>, folder: string, slots: number) {
    this.#qmp = qmp
    this.#folder = folder
    this.#slots = slots
  }

  get plugged(): Plugged[] {
    return [...this.#taken.values()].map(({ plugged }) => plugged)
  }

  /**
   * Plugs a device into the first free slot. A disk is empty, a card has a network of its own.
   * @throws HotplugError when there is none, QmpError with QEMU's reason
   */
  async add(device: PluggableName): Promise<Plugged> {
    const slot = Array.from({ length: this.#slots }, (_, i) => i).find(i => !this.#taken.has(i))
    if (slot === undefined) {
      throw new HotplugError(this.#slots === 0 ? 'the machine was started without slots' : 'no slot is free')
    }
    const name = pluggedName(slotId(slot), device)
    const plugged = { name, device, slot }
    const gone = Promise.withResolvers<void>()
    // Nobody may wait for it.
    gone.promise.catch(() => {})
    // Who asks at the same time gets another one.
    this.#taken.set(slot, { plugged, gone })
    try {
      const qmp = await this.#qmp()
      this.#listen(qmp)
      const { disk, ...properties } = PLUGGABLE[device]
      await this.#addBackend(qmp, plugged)
      const backend = disk ? { drive: name, serial: `cosim-${slotId(slot)}` } : { netdev: name }
      try {
        await qmp.execute('device_add', { ...properties, ...backend, id: name, bus: slotId(slot) })
      } catch (error) {
        await this.#removeBackend(qmp, plugged)
        throw error
      }
      return plugged
    } catch (error) {
      this.#taken.delete(slot)
      throw error
    }
  }

  /**
   * Asks the guest to let go of a device. Resolves when it has.
   * @throws HotplugError when there is no such device, or the guest keeps it; QmpError
   */
  async remove(name: string): Promise<void> {
    const inSlot = [...this.#taken.values()].find(({ plugged }) => plugged.name === name)
    if (inSlot === undefined) {
      const known = this.plugged.map(each => each.name).join(', ')
      throw new HotplugError(`no device ${name} in a slot; there ${known === '' ? 'is none' : `are ${known}`}`)
    }
    const qmp = await this.#qmp()
    const kept = Promise.withResolvers<never>()
    kept.promise.catch(() => {})
    const keeps = (why: string) => kept.reject(new HotplugError(why))
    const ended = () => keeps('QEMU has ended')
    const heard = ({ event, data }: QmpEvent) => {
      if (event === 'DEVICE_UNPLUG_GUEST_ERROR' && data?.device === name) keeps(`the guest did not let go of ${name}`)
    }
    const timer = setTimeout(keeps, UNPLUG_MS, `the guest did not let go of ${name} in ${UNPLUG_MS / 1000} s`)
    qmp.on('close', ended).on('event', heard)
    try {
      await qmp.execute('device_del', { id: name })
      await Promise.race([inSlot.gone.promise, kept.promise])
    } finally {
      clearTimeout(timer)
      qmp.off('close', ended).off('event', heard)
    }
  }

  /** The guest may let go of a device late, or unasked: the slot is free as soon as QEMU says that the device is gone. */
  #listen(qmp: Qmp): void {
    if (this.#heard === qmp) return
    this.#heard = qmp
    qmp.on('event', ({ event, data }) => {
      if (event !== 'DEVICE_DELETED') return
      const inSlot = [...this.#taken.values()].find(({ plugged }) => plugged.name === data?.device)
      if (inSlot === undefined) return
      const { plugged, gone } = inSlot
      const removed = this.#removeBackend(qmp, plugged).then(() => void this.#taken.delete(plugged.slot))
      gone.resolve(removed)
    })
  }

  #image({ name }: Plugged): string {
    return join(this.#folder, `${name}.img`)
  }

  async #addBackend(qmp: Qmp, plugged: Plugged): Promise<void> {
    const { name, device, slot } = plugged
    if (!PLUGGABLE[device].disk) {
      await qmp.execute('netdev_add', { type: 'user', id: name, net: `${netOf(slot)}.0/24` })
      return
    }
    const file = openSync(this.#image(plugged), 'w', 0o600)
    ftruncateSync(file, DISK_BYTES)
    closeSync(file)
    const filename = this.#image(plugged)
    await qmp.execute('blockdev-add', { driver: 'raw', 'node-name': name, file: { driver: 'file', filename } })
  }

  async #removeBackend(qmp: Qmp, plugged: Plugged): Promise<void> {
    const { name, device } = plugged
    if (!PLUGGABLE[device].disk) {
      await qmp.execute('netdev_del', { id: name })
      return
    }
    await qmp.execute('blockdev-del', { 'node-name': name })
    rmSync(this.#image(plugged), { force: true })
  }
}
