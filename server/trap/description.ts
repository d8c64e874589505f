// SPDX-License-Identifier: Apache-2.0
import type { Hello } from '../../protocol/generated/messages.ts'

const PAGE = 4096

/** An index of an SMMU has 8 bits on the wire. */
const MAX_SMMUS = 256

/** Guest physical addresses have at most 52 bits (VMSAv8-64 with LPA). */
const MAX_ADDRESS = 2 ** 52

/** A server keeps a few bytes for each page of RAM, and must not be made to run out of memory: bytes. */
const MAX_RAM = 2 ** 40

/**
 * What is wrong with the machine that a peer describes. Policies may rely on what is checked here: RAM in whole pages, in
 * ascending ranges that do not overlap, and every index of an SMMU below their number.
 * @returns undefined: nothing
 */
export function descriptionFault({ ram, smmus, devices, carveoutBase, carveoutSize }: Hello): string | undefined {
  let end = 0
  let total = 0
  for (const [index, { base, size, offset }] of ram.entries()) {
    const name = `RAM range ${index}`
    if (size === 0 || base % PAGE !== 0 || size % PAGE !== 0) return `${name} is not of whole pages`
    if (base < end) return `${name} overlaps the one before, or is not behind it`
    end = base + size
    if (end > MAX_ADDRESS) return `${name} ends above 2^52`
    if (!Number.isSafeInteger(offset + size)) return `${name} ends above 2^53 of its file`
    total += size
  }
  if (total === 0) return 'it has no RAM'
  if (total > MAX_RAM) return `it has ${total / 2 ** 30} GiB of RAM, this server takes up to ${MAX_RAM / 2 ** 30} GiB`
  if (carveoutBase + carveoutSize > MAX_ADDRESS) return 'its carve-out ends above 2^52'
  if (smmus.length > MAX_SMMUS) return `it has ${smmus.length} SMMUs, at most ${MAX_SMMUS} are possible`
  for (const [index, { base, size }] of smmus.entries()) {
    if (base + size > MAX_ADDRESS) return `SMMU ${index} ends above 2^52`
  }
  const stray = devices.find(({ smmu }) => smmu >= smmus.length)
  return stray && `the device with StreamID ${stray.sid} is behind SMMU ${stray.smmu}, of ${smmus.length}`
}
