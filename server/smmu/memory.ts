// SPDX-License-Identifier: Apache-2.0
/** Guest physical memory. Addresses are bytes below 2^53. */
export interface GuestMemory {
  /** RAM in ascending order, bytes. */
  readonly ram: readonly { readonly base: number; readonly size: number }[]
  /**
   * Copies `length` bytes at `address` to `target` at `targetOffset`.
   * @returns false, with nothing copied, unless the whole range is RAM.
   */
  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean
  /**
   * Copies `length` bytes of `source` at `sourceOffset` to `address`.
   * @returns false, with nothing written, unless the whole range is RAM.
   */
  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean
  /**
   * Cleans what was written to a range of RAM to the point of coherency, before it returns: only then everybody sees it who does not look
   * into the CPU's caches. Absent: there are no such.
   */
  clean?(address: number, length: number): void
}

/** Whether all of `length` bytes from `address` on lie in one of the ranges. */
export function within(ranges: GuestMemory['ram'], address: number, length: number): boolean {
  return ranges.some(({ base, size }) => address >= base && address + length <= base + size)
}

/**
 * Of items `from` to `to` of an array in memory, the runs that lie in RAM as a whole: the hardware reads what is there, and an
 * external abort ends only what is not.
 * @param stride size of an item, bytes
 */
export function* inRam(
  { ram }: Pick<GuestMemory, 'ram'>,
  address: number,
  stride: number,
  from: number,
  to: number,
): Generator<{ readonly first: number; readonly count: number }> {
  for (const { base, size } of ram) {
    const first = Math.max(from, Math.ceil((base - address) / stride))
    const count = Math.min(to, Math.floor((base + size - address) / stride)) - first
    if (count > 0) yield { first, count }
  }
}
