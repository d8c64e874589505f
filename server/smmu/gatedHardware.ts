// SPDX-License-Identifier: Apache-2.0
import type { SmmuHardware } from './hardware.ts'

/** Hardware that takes no access while it is off, as a real one takes none. */
export function gatedHardware(hardware: SmmuHardware, isOn: () => boolean): SmmuHardware {
  const aborted = (into: { lo: number; hi: number }): false => {
    into.lo = 0
    into.hi = 0
    return false
  }
  const { writeThenRead, post } = hardware
  return {
    read: (offset, size, into) => (isOn() ? hardware.read(offset, size, into) : aborted(into)),
    write: (offset, size, lo, hi) => isOn() && hardware.write(offset, size, lo, hi),
    ...(writeThenRead !== undefined && {
      writeThenRead: (offset, value, readOffset, into) =>
        isOn() ? (hardware.writeThenRead?.(offset, value, readOffset, into) ?? false) : aborted(into),
    }),
    ...(post !== undefined && {
      post: (offset, value, checkOffset, checkValue, answer) =>
        isOn() && (hardware.post?.(offset, value, checkOffset, checkValue, answer) ?? false),
    }),
  }
}
