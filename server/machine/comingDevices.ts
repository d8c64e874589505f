// SPDX-License-Identifier: Apache-2.0
/** Names of devices that a running machine may come to have: virtual functions, and what is plugged into slots. */

/** Devices that can be plugged in. */
export const PLUGGABLE_NAMES = ['virtio-blk', 'nvme', 'virtio-net', 'e1000e'] as const
export type PluggableName = (typeof PLUGGABLE_NAMES)[number]

/** The root port of a slot. */
export const slotId = (slot: number): string => `slot${slot}`

export const pluggedName = (port: string, device: PluggableName): string => `${port}.${device}`

/** Virtual functions that a guest can switch on at most, by QEMU's type. */
const MAX_FUNCTIONS: Readonly<Record<string, number>> = { igb: 8 }

export const functionName = (parent: string, index: number): string => `${parent}.vf${index}`

/** Names of what may come to be below a device. @param model QEMU's type */
export function comingNames({ name, model }: { readonly name: string; readonly model: string }): string[] {
  if (/^slot\d+$/.test(name)) return PLUGGABLE_NAMES.map(device => pluggedName(name, device))
  return Array.from({ length: MAX_FUNCTIONS[model] ?? 0 }, (_, index) => functionName(name, index))
}
