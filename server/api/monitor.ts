// SPDX-License-Identifier: Apache-2.0
/** The machine's life cycle, over QMP. */
import type { Session } from '../control/session.ts'
import type { Qmp } from '../machine/qmp.ts'
import { Problem } from './problem.ts'
import type { QmpCommand } from './schemas/lifecycle.ts'

const CONNECT_MS = 60_000
const ANSWER_MS = 3_000

export class Monitor {
  readonly #held: () => boolean
  readonly #parked: () => boolean
  readonly #paused: (paused: boolean) => void
  #session: Session | undefined
  #qmp: Qmp | undefined

  /**
   * @param held whether a trap is held: QEMU cannot answer then
   * @param parked whether such a trap is parked for gdb: then it can, but not everything
   * @param paused called when the vCPUs stop or run again
   */
  constructor(held: () => boolean, parked: () => boolean, paused: (paused: boolean) => void) {
    this.#held = held
    this.#parked = parked
    this.#paused = paused
  }

  /** Called when a machine starts. */
  async follow(session: Session): Promise<void> {
    this.#session = session
    try {
      const qmp = await session.qmp(AbortSignal.timeout(CONNECT_MS))
      if (this.#session !== session) return
      this.#qmp = qmp
      qmp.on('event', ({ event }) => {
        if (event === 'STOP') this.#paused(true)
        if (event === 'RESUME') this.#paused(false)
      })
    } catch {} // QEMU ended, or is too busy: requests will say so
  }

  /** Called when the machine has ended. */
  ended(): void {
    this.#session = undefined
    this.#qmp = undefined
  }

  async pause(): Promise<void> {
    await this.#execute('stop')
    this.#paused(true)
  }

  async resume(): Promise<void> {
    await this.#execute('cont')
    this.#paused(false)
  }

  async reset(): Promise<void> {
    if (this.#held()) throw new Problem(409, 'a trap is held, and a reset waits for it: release it first')
    await this.#inTime(() => this.#session?.reset(AbortSignal.timeout(ANSWER_MS)))
  }

  async powerOff(): Promise<void> {
    await this.#execute('system_powerdown')
  }

  query(command: QmpCommand): Promise<unknown> {
    return this.#execute(command)
  }

  #execute(command: string): Promise<unknown> {
    return this.#inTime(qmp => qmp.execute(command))
  }

  /** @throws Problem when there is no QEMU, or it does not answer in time */
  async #inTime<T>(ask: (qmp: Qmp) => T | Promise<T>): Promise<T> {
    if (this.#held() && !this.#parked())
      throw new Problem(409, 'a trap is held, and with it all of QEMU: release it first')
    const qmp = this.#qmp
    if (qmp === undefined) throw new Problem(409, 'there is no machine, or QEMU does not answer yet')
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Problem(409, 'QEMU does not answer')), ANSWER_MS)
    })
    try {
      return await Promise.race([ask(qmp), late])
    } finally {
      clearTimeout(timer)
    }
  }
}
