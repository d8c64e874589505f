// SPDX-License-Identifier: Apache-2.0
import { encodeCallStack, encodePark, Id } from '../../protocol/generated/messages.ts'
import { enums, MAX_FRAMES } from '../../protocol/messages.ts'
import type { Trap } from '../policy/policy.ts'
import { returnAddresses } from '../trace/symbols.ts'
import type { Link } from './link.ts'

const OK = enums.status.ok[0]
const DEBUG = enums.feature.debug[0]

const NO_FRAMES = new Uint8Array(0)

/** The vCPU that waits for the answer to its trap, for debuggers. A QEMU that cannot do it has no frames, and parks nothing. */
export class WaitingVcpu {
  readonly #link: Link
  readonly #able: boolean
  /** Number of the trap whose callers are known, and they. */
  #called: { readonly seq: number; readonly callers: readonly bigint[] } = { seq: 0, callers: [] }

  /** @param features of hello */
  constructor(link: Link, features: number) {
    this.#link = link
    this.#able = (features & DEBUG) !== 0
  }

  /**
   * Return addresses on its stack, the innermost first: 8 bytes each, little-endian, as the guest has them. They are good until
   * the next call.
   * @throws LinkClosed, ProtocolError
   */
  frames(cpu: number, depth: number = MAX_FRAMES): Uint8Array {
    if (!this.#able || cpu === NO_CPU) return NO_FRAMES
    const link = this.#link
    const seq = link.nextSeq()
    encodeCallStack(link.out, seq, cpu, depth)
    const answer = link.call(seq)
    const good = answer.type === Id.data && answer.status === OK && answer.bytes.length <= 8 * depth
    return good ? answer.bytes : NO_FRAMES
  }

  /** Return addresses on its stack, the innermost first: asked for once in a trap. @throws LinkClosed, ProtocolError */
  callers({ cpu, seq }: Pick<Trap, 'cpu' | 'seq'>): readonly bigint[] {
    if (this.#called.seq !== seq) this.#called = { seq, callers: returnAddresses(this.frames(cpu)) }
    return this.#called.callers
  }

  /** It stops at its instruction, where gdb finds it, until the trap is answered. @returns false: QEMU cannot do that */
  park(): boolean {
    if (!this.#able) return false
    const link = this.#link
    const seq = link.nextSeq()
    encodePark(link.out, seq)
    const answer = link.call(seq)
    return answer.type === Id.done && answer.status === OK
  }
}

/** In a trap that no vCPU made. */
const NO_CPU = 0xffff
