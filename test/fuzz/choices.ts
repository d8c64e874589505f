// SPDX-License-Identifier: Apache-2.0

/** Where encodings, signs, pages and address sizes change. */
const EDGES = [
  0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0xfff, 0x1000, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_f000,
  0xffff_ffff,
]

/**
 * Decisions made from bytes. The bytes are a fuzzer's input: whatever they are, what is made from them is well formed where it
 * is meant to be. When they are used up, every decision is for the first possibility, so every input comes to an end.
 */
export class Choices {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** Bytes that were not used yet. */
  get left(): number {
    return this.#bytes.length - this.#at
  }

  byte(): number {
    return this.#at < this.#bytes.length ? this.#bytes[this.#at++] : 0
  }

  /** 0 to `count` - 1, `count` up to 65,536. */
  below(count: number): number {
    const wide = count > 256 ? this.byte() << 8 : 0
    return (wide | this.byte()) % count
  }

  /** True once in `count` times. */
  once(count: number): boolean {
    return this.below(count) === count - 1
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]
  }

  /** Any 32 bits, mostly a number near an edge. */
  u32(): number {
    if (this.once(4)) return ((this.byte() << 24) | (this.byte() << 16) | (this.byte() << 8) | this.byte()) >>> 0
    return (this.pick(EDGES) + this.below(3) - 1) >>> 0
  }

  /** An integer from 0 to `max`. */
  integer(max: number): number {
    const value = max > 0xffff_ffff && this.once(3) ? this.u32() * 2 ** 32 + this.u32() : this.u32()
    return value <= max ? value : value % (max + 1)
  }

  /** Up to `max` bytes of any kind. */
  bytes(max: number): Buffer {
    return Buffer.from(Array.from({ length: Math.min(this.below(max + 1), this.left) }, () => this.byte()))
  }

  /** Changes to `bytes` as files and frames suffer them: some are another value, gone, twice, or moved. */
  mutate(bytes: Buffer): Buffer {
    let result = Buffer.from(bytes)
    for (let count = 1 + this.below(4); count > 0 && result.length > 0; count--) {
      const at = this.below(Math.min(result.length, 65_536))
      const length = 1 + this.below(Math.min(16, result.length - at))
      const part = result.subarray(at, at + length)
      switch (this.below(6)) {
        case 0:
          result[at] ^= 1 << this.below(8)
          break
        case 1:
          part.fill(this.pick([0, 0xff, 0x7f, 0x80, 0xc1]))
          break
        case 2:
          if (result.length - at >= 4) result.writeUInt32LE(this.u32(), at)
          break
        case 3:
          result = Buffer.concat([result.subarray(0, at), result.subarray(at + length)])
          break
        case 4:
          result = Buffer.concat([result.subarray(0, at), part, result.subarray(at)])
          break
        default:
          result = Buffer.concat([result.subarray(0, at), this.bytes(16), result.subarray(at)])
      }
    }
    return result
  }
}
