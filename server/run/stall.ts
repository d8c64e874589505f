// SPDX-License-Identifier: Apache-2.0
/** Recognises a guest that waits for the SMMU in vain: before the time limit of the run, and with what it waits for. */
import { hex } from '../smmu/bits.ts'
import { ARM_SMMU_CMDQ_CONS, ARM_SMMU_CMDQ_PROD, registerName } from '../smmu/registers.ts'
import { f64At, type Layout, u32At } from '../trace/layout.ts'
import type { Sink } from '../trace/pump.ts'
import type { TraceRecord } from '../trace/records.ts'
import type { RingReader } from '../trace/ring.ts'

/** So long a guest looks at one value, s. Linux gives up a CMD_SYNC after 1 s, and goes on to the next one. */
export const STALL_SECONDS = 30
/** Looks further apart are no wait: the machine was paused, a trap was held, or the guest did something else, ns. */
const MAX_GAP = 5e9

/** Looks at one value. Times are the server's clock, ns. */
interface Wait {
  readonly smmu: number
  readonly offset: number
  readonly value: number
  readonly since: number
  last: number
}

/** What of an access of a vCPU counts. */
export interface Access {
  readonly smmu: number
  readonly write: boolean
  /** In the register frame. */
  readonly offset: number
  /** Low half. */
  readonly value: number
  /** Server's clock, ns. */
  readonly start: number
}

/**
 * A guest waits in vain when for 30 s it has looked at CMDQ_CONS again and again, which stands still in front of CMDQ_PROD; or when
 * it has done nothing else than read one register, which does not change, and its console was silent. A guest that computes, or
 * sleeps, does neither.
 */
export class Stall implements Sink {
  readonly ready = true
  readonly #stalled: (message: string) => void
  readonly #recovered: () => void
  /** CMDQ_PROD, and the wait for CMDQ_CONS, of each SMMU. */
  readonly #prod = new Map<number, number>()
  readonly #cons = new Map<number, Wait>()
  /** Since the last access or line that was anything else. */
  #poll: Wait | undefined
  #told = false

  /**
   * @param stalled called when it is known that the guest waits in vain
   * @param recovered called when it goes on all the same: the cause was mended, or the machine was reset
   */
  constructor(stalled: (message: string) => void, recovered: () => void = () => {}) {
    this.#stalled = stalled
    this.#recovered = recovered
  }

  fromRing({ words, doubles }: RingReader, { name }: Layout, at: number): void {
    if (name === 'reset') this.#reset()
    if (name !== 'trap') return
    this.access({
      smmu: words[at + u32At.trap.smmu] ?? 0,
      write: words[at + u32At.trap.write] === 1,
      offset: words[at + u32At.trap.offset] ?? 0,
      value: words[at + u32At.trap.lo] ?? 0,
      start: doubles[(at >> 1) + f64At.trap.start] ?? 0,
    })
  }

  record({ kind }: TraceRecord): void {
    if (kind === 'reset') this.#reset()
    if (kind === 'console') this.#poll = undefined
  }

  #reset(): void {
    this.#prod.clear()
    this.#cons.clear()
    this.#poll = undefined
    this.#look()
  }

  flush(): void {}

  access({ smmu, write, offset, value, start }: Access): void {
    if (write) {
      this.#poll = undefined
      if (offset === ARM_SMMU_CMDQ_PROD) this.#prod.set(smmu, value)
    } else {
      this.#poll = goesOn(this.#poll, smmu, offset, value, start)
      if (offset === ARM_SMMU_CMDQ_CONS) {
        const prod = this.#prod.get(smmu)
        if (prod === undefined || prod === value) this.#cons.delete(smmu)
        else this.#cons.set(smmu, goesOn(this.#cons.get(smmu), smmu, offset, value, start))
      }
    }
    this.#look()
  }

  /** Whether it waits in vain may have changed. */
  #look(): void {
    const why = this.#why()
    if ((why !== undefined) === this.#told) return
    this.#told = why !== undefined
    if (why === undefined) this.#recovered()
    else this.#stalled(`the guest waits for the SMMU in vain: ${why}`)
  }

  #why(): string | undefined {
    for (const [smmu, wait] of this.#cons) {
      if (!isLong(wait)) continue
      const queue = `CMDQ_CONS has been ${hex(wait.value)} for ${STALL_SECONDS} s`
      return `its commands are not consumed: ${queue}, CMDQ_PROD is ${hex(this.#prod.get(smmu) ?? 0)}`
    }
    const poll = this.#poll
    if (poll === undefined || !isLong(poll)) return undefined
    return `it reads nothing but ${registerName(poll.offset)}, which has been ${hex(poll.value)} for ${STALL_SECONDS} s`
  }
}

const isLong = ({ since, last }: Wait): boolean => last - since >= STALL_SECONDS * 1e9

/** The same wait, or another one that begins. */
function goesOn(wait: Wait | undefined, smmu: number, offset: number, value: number, start: number): Wait {
  const same = wait?.smmu === smmu && wait.offset === offset && wait.value === value && start - wait.last <= MAX_GAP
  if (!same) return { smmu, offset, value, since: start, last: start }
  wait.last = start
  return wait
}
