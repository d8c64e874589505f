// SPDX-License-Identifier: Apache-2.0
import { encodeCheckpoint } from '../../protocol/generated/messages.ts'
import type { PolicyState, Trap } from '../policy/policy.ts'
import { CheckpointWriter, noProgress, type Progress } from './checkpoint.ts'
import type { Link } from './link.ts'

const NO_STATE = new Uint8Array(0)

/** Sends QEMU the policy's state whenever it changed, and which request it includes. */
export class Checkpoints {
  /** The newest request of QEMU. */
  newest = 0
  /** The policy knows nothing worth keeping: it could not take over, and waits for a reset. */
  suspended = false
  readonly #link: Link
  readonly #state: PolicyState | undefined
  readonly #trap: Readonly<Trap>
  readonly #writer: CheckpointWriter
  readonly #progress: Progress = noProgress()
  /** `generation` of the state that QEMU has. */
  #kept = -1

  /** @param state absent: the policy keeps none. @param trap the last one: its number is how many there were */
  constructor(
    link: Link,
    session: string,
    policy: { readonly name: string; readonly state?: PolicyState },
    trap: Readonly<Trap>,
  ) {
    this.#link = link
    this.#state = policy.state
    this.#trap = trap
    this.#writer = new CheckpointWriter(session, policy.name)
  }

  /** Encodes a checkpoint that goes out with the answer to request `seq`, if the state changed. */
  beforeAnswer(seq: number, status: number, hi: number, lo: number): void {
    if (this.#state !== undefined && this.#state.generation !== this.#kept) this.keep(seq, status, hi, lo)
  }

  /** Encodes a checkpoint that goes out with what is sent next. @param seq request that it includes, 0: none; its answer */
  keep(seq: number, status: number, hi: number, lo: number): void {
    this.#kept = this.#state?.generation ?? 0
    encodeCheckpoint(this.#link.out, this.#link.nextSeq(), this.#write(seq, status, hi, lo))
  }

  /** Sends one now, if the state changed. @throws LinkClosed */
  keepNow(seq: number, status: number, hi: number, lo: number): void {
    if (!this.#link.open || this.#state === undefined || this.#state.generation === this.#kept || this.suspended) return
    this.keep(seq, status, hi, lo)
    this.#link.flush()
  }

  /** As it would be sent now. */
  current(): Uint8Array {
    return this.#write(0, 0, 0, 0).slice()
  }

  #write(request: number, status: number, hi: number, lo: number): Uint8Array {
    const progress = this.#progress
    progress.request = request
    progress.status = status
    progress.hi = hi
    progress.lo = lo
    progress.last = this.newest
    progress.trap = this.#trap.seq
    return this.#writer.write(progress, this.#state?.checkpoint() ?? NO_STATE)
  }
}
