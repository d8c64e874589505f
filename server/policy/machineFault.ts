// SPDX-License-Identifier: Apache-2.0
import type { Machine } from '../machine/ports.ts'

/** A machine as somebody describes it, before there is one. All in bytes. */
export interface DescribedMachine extends Pick<Machine, 'carveout'> {
  readonly ram: readonly { readonly base: number; readonly size: number }[]
  readonly smmus: readonly { readonly base: number; readonly size: number }[]
  readonly devices: readonly { readonly smmu: number; readonly sid: number }[]
}

const PAGE = 4096

/** An index of an SMMU has 8 bits on the wire. */
const MAX_SMMUS = 256

/** Guest physical addresses have at most 52 bits (VMSAv8-64 with LPA). */
const MAX_ADDRESS = 2 ** 52

/** A policy keeps a few bytes for each page, and must not be made to run out of memory: bytes of RAM. */
const MAX_RAM = 2 ** 40
const MAX_CARVEOUT = 2 ** 36

const isSize = (value: number): boolean => Number.isSafeInteger(value) && value >= 0

/**
 * What is wrong with a machine that a peer or a recording describes. Policies may rely on what is checked here: RAM in whole
 * pages, in ascending ranges that do not overlap, a carve-out that is part of one, and every index of an SMMU below their
 * number.
 * @returns undefined: nothing
 */
export function machineFault({ ram, carveout, smmus, devices }: DescribedMachine): string | undefined {
  let end = 0
  let total = 0
  for (const [index, { base, size }] of ram.entries()) {
    const name = `RAM range ${index}`
    if (!isSize(base) || !isSize(size) || size === 0 || base % PAGE !== 0 || size % PAGE !== 0) {
      return `${name} is not of whole pages`
    }
    if (base < end) return `${name} overlaps the one before, or is not behind it`
    end = base + size
    if (end > MAX_ADDRESS) return `${name} ends above 2^52`
    total += size
  }
  if (total === 0) return 'it has no RAM'
  if (total > MAX_RAM) return `it has ${total / 2 ** 30} GiB of RAM, this server takes up to ${MAX_RAM / 2 ** 30} GiB`
  if (smmus.length > MAX_SMMUS) return `it has ${smmus.length} SMMUs, at most ${MAX_SMMUS} are possible`
  for (const [index, { base, size }] of smmus.entries()) {
    if (!isSize(base) || !isSize(size) || base + size > MAX_ADDRESS) return `SMMU ${index} ends above 2^52`
  }
  const stray = devices.find(({ smmu }) => !(smmu < smmus.length))
  if (stray !== undefined)
    return `the device with StreamID ${stray.sid} is behind SMMU ${stray.smmu}, of ${smmus.length}`
  return carveoutFault(carveout, ram)
}

function carveoutFault(carveout: Machine['carveout'], ram: DescribedMachine['ram']): string | undefined {
  const { base, size } = carveout
  if (size === 0) return undefined
  if (!isSize(base) || !isSize(size) || base % PAGE !== 0 || size % PAGE !== 0) {
    return 'its carve-out is not of whole pages'
  }
  if (!ram.some(range => base >= range.base && base + size <= range.base + range.size)) {
    return 'its carve-out is not in its RAM'
  }
  if (size <= MAX_CARVEOUT) return undefined
  return `its carve-out has ${size / 2 ** 30} GiB, this server takes up to ${MAX_CARVEOUT / 2 ** 30} GiB`
}
