// SPDX-License-Identifier: Apache-2.0
import { MAX_QUEUE_LOG2SIZE, queueLog2Size } from '../smmu/queue.ts'
import { ARM_SMMU_CMDQ_BASE, ARM_SMMU_CMDQ_PROD } from '../smmu/registers.ts'
import { u32At } from '../trace/layout.ts'
import { verdict } from '../trace/records.ts'
import type { LogEntry, TrapLog } from './trapLog.ts'

const NAMES = Object.keys(verdict)
const UNKNOWN = 255

/** Verdicts of the commands of one SMMU, by queue index. */
interface Places {
  /** Of the host's queue: verdict, and place in the shadow queue or -1. */
  readonly host: Uint8Array
  readonly shadowOf: Int32Array
  /** Of the shadow queue. */
  readonly shadow: Uint8Array
}

/** Follows the trace, so that entries of the queues can be shown with their verdicts. */
export class Verdicts {
  readonly #log: TrapLog
  readonly #smmus = new Map<number, { hostLog2: number; places: Places | undefined }>()
  /** LOG2SIZE of the hardware's queue, by SMMU. */
  readonly #shadowLog2 = new Map<number, number>()

  constructor(log: TrapLog) {
    this.#log = log
  }

  /** The queues are empty again. */
  reset(): void {
    this.#smmus.clear()
  }

  /** A finished group. */
  group({ id, at, layout, words }: LogEntry): void {
    if (layout.name === 'reset') {
      this.reset()
      return this.#findShadow(id)
    }
    if (layout.name !== 'trap' || words[at + u32At.trap.write] !== 1) return
    const smmu = words[at + u32At.trap.smmu] ?? 0
    const offset = words[at + u32At.trap.offset]
    const value = words[at + u32At.trap.lo] ?? 0
    if (offset === ARM_SMMU_CMDQ_BASE) {
      const hostLog2 = queueLog2Size(value, MAX_QUEUE_LOG2SIZE)
      this.#smmus.set(smmu, { hostLog2, places: undefined })
      this.#findShadow(id)
    } else if (offset === ARM_SMMU_CMDQ_PROD) this.#commands(id, smmu, value)
  }

  /** Where a group tells the hardware of its queue. */
  #findShadow(id: number): void {
    const { smmu, write, offset, lo } = u32At.hardware
    this.#log.children(id, (layout, words, at) => {
      if (layout.name !== 'hardware' || words[at + write] !== 1 || words[at + offset] !== ARM_SMMU_CMDQ_BASE) return
      this.#shadowLog2.set(words[at + smmu] ?? 0, queueLog2Size(words[at + lo] ?? 0, MAX_QUEUE_LOG2SIZE))
    })
  }

  #commands(id: number, smmu: number, prod: number): void {
    const state = this.#smmus.get(smmu)
    const shadowLog2 = this.#shadowLog2.get(smmu)
    if (state === undefined || shadowLog2 === undefined) return
    const results: number[] = []
    const shadowAt: number[] = []
    /** Commands since the hardware was last told: index into `results`, or -1 for the hypervisor's own. */
    let batch: number[] = []
    state.places ??= {
      host: new Uint8Array(2 ** state.hostLog2).fill(UNKNOWN),
      shadowOf: new Int32Array(2 ** state.hostLog2).fill(-1),
      shadow: new Uint8Array(2 ** shadowLog2).fill(UNKNOWN),
    }
    const { places } = state
    this.#log.children(id, (layout, words, at) => {
      if (layout.name === 'command') {
        const result = words[at + u32At.command.verdict] ?? 0
        if (result === verdict.own) batch.push(-1)
        else {
          results.push(result)
          shadowAt.push(-1)
          if (result !== verdict.dropped) batch.push(results.length - 1)
        }
      } else if (
        layout.name === 'hardware' &&
        words[at + u32At.hardware.write] === 1 &&
        words[at + u32At.hardware.offset] === ARM_SMMU_CMDQ_PROD
      ) {
        const end = words[at + u32At.hardware.lo] ?? 0
        batch.forEach((which, i) => {
          const place = (end - batch.length + i) & (places.shadow.length - 1)
          places.shadow[place] = which < 0 ? verdict.own : (results[which] ?? UNKNOWN)
          if (which >= 0) shadowAt[which] = place
        })
        batch = []
      }
    })
    const mask = places.host.length - 1
    results.forEach((result, i) => {
      const place = (prod - results.length + i) & mask
      places.host[place] = result
      places.shadowOf[place] = shadowAt[i] ?? -1
    })
  }

  /** Of an entry of the host's queue. */
  host(smmu: number, index: number): { verdict: string; shadow: number } | undefined {
    const places = this.#smmus.get(smmu)?.places
    const name = NAMES[places?.host[index] ?? UNKNOWN]
    return name === undefined ? undefined : { verdict: name, shadow: places?.shadowOf[index] ?? -1 }
  }

  /** Of an entry of the shadow queue. */
  shadow(smmu: number, index: number): string | undefined {
    return NAMES[this.#smmus.get(smmu)?.places?.shadow[index] ?? UNKNOWN]
  }
}
