// SPDX-License-Identifier: Apache-2.0
/**
 * The two ports through which the hypervisor reaches the outside, and the few services that a machine gives it.
 * All calls are synchronous: a trap is decided in one go, with the vCPU waiting.
 */

/** One value of up to 64 bits in halves, so that the trap path needs no BigInt. Both are unsigned 32-bit integers. */
export interface Halves {
  lo: number
  hi: number
}

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
}

/** The register frame of one hardware SMMU (IHI 0070 chapter 6), little-endian. */
export interface SmmuHardware {
  /**
   * Reads `size` (1, 2, 4, 8) bytes at `offset` of the frame into `into`, zero-extended.
   * @returns false when the hardware aborts the access; `into` is then 0.
   */
  read(offset: number, size: number, into: Halves): boolean
  /** Writes; returns false when the hardware aborts the access. Returns after what the write started is consumed. */
  write(offset: number, size: number, lo: number, hi: number): boolean
  /**
   * Writes 32 bits at `offset`, then reads 32 bits at `readOffset` into `into`, in one round trip. For hardware that is
   * far away; absent: nothing is gained by it.
   * @returns false when the hardware aborts either; `into` is then 0.
   */
  writeThenRead?(offset: number, value: number, readOffset: number, into: Halves): boolean
  /**
   * Writes 32 bits at `offset` without waiting, together with the answer to the trap at hand: at `checkOffset` the hardware
   * is to hold `checkValue` then. While it does, a vCPU that reads 32 bits there gets `answer` without a trap, up to the
   * next trap or access of ours; should it not, the policy's `unexpected` is called before the next trap.
   * @returns false, with nothing done, when the write has to be waited for.
   */
  post?(offset: number, value: number, checkOffset: number, checkValue: number, answer: number): boolean
}

/** Who may see a page through the CPU: loads and stores by a vCPU to a guarded range are external aborts. */
export interface CpuGuard {
  /** All of the range is guarded, whatever part of it was so. `base` and `size` in bytes, multiples of 4096. False: refused, nothing changed. */
  add(base: number, size: number): boolean
  /** Nothing of the range is guarded any more. False: refused, nothing changed. */
  remove(base: number, size: number): boolean
}

/** One access of a vCPU to a register frame. The object is reused for every trap: copy what must outlive it. */
export interface Trap extends Halves {
  /** Number of the trap since the machine started, from 1. */
  seq: number
  smmu: number
  /** 0xffff: not made by a vCPU. */
  cpu: number
  write: boolean
  /** Bytes into the frame, not necessarily aligned, possibly no register. */
  offset: number
  /** 1, 2, 4 or 8 bytes. */
  size: number
  /** Virtual time, ns. */
  time: number
  pcLo: number
  pcHi: number
  /** Set by the policy: the access ends in an external abort. `lo` and `hi` hold the value written, or the answer. */
  aborted: boolean
}

/** One to be filled in. */
export const newTrap = (): Trap => ({
  seq: 0,
  smmu: 0,
  cpu: 0,
  write: false,
  offset: 0,
  size: 0,
  time: 0,
  pcLo: 0,
  pcHi: 0,
  lo: 0,
  hi: 0,
  aborted: false,
})

/** What a policy is given at the start. */
export interface Machine {
  readonly memory: GuestMemory
  /** Hypervisor memory, bytes; size 0 when the machine has none. */
  readonly carveout: { readonly base: number; readonly size: number }
  readonly smmus: readonly { readonly base: number; readonly size: number; readonly hardware: SmmuHardware }[]
  readonly devices: readonly {
    readonly smmu: number
    readonly sid: number
    readonly name: string
    readonly model: string
  }[]
  readonly guard: CpuGuard
}

/** State of a policy that outlives the server: another one goes on from it while the machine runs. */
export interface PolicyState {
  /** Changes with every change of the state. */
  readonly generation: number
  /** The state as bytes, good until the next call. Called before the answer to each trap that changed it. */
  checkpoint(): Uint8Array
  /** Takes over a state, instead of `reset`; touches nothing outside. @throws Error when it cannot, in words for a person. */
  restore(checkpoint: Uint8Array): void
  /**
   * After `restore`: brings hardware, tables and state together again. The former server may have died anywhere: in the
   * middle of a trap, which is then decided once more, or of an operation.
   * @returns what had to be put right, in words. @throws Error when that is not possible.
   */
  resume?(): string[]
}

/** Decides what every access to the register frames does. */
export interface Policy {
  readonly name: string
  /** Absent: it keeps none, a new server can go on at any time. */
  readonly state?: PolicyState
  /** The machine was reset, no vCPU runs: bring hardware, tables and state to the beginning. Called before the first trap. */
  reset(): void
  /** Decide a trap: for a read set `lo`/`hi`; for a write act on them; or set `aborted`. */
  access(trap: Trap): void
  /** What was posted to this SMMU's hardware did not lead to what it was to lead to. Called between traps. */
  unexpected?(smmu: number): void
}
