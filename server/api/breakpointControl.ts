// SPDX-License-Identifier: Apache-2.0
/** What holds traps: breakpoints, which outlive machines (set one, then start), and the wish to hold the next trap. */
import type { TrapThread } from '../control/trapThread.ts'
import { OperationError } from '../policy/operationError.ts'
import type { Breakpoint, BreakpointSpec } from '../trap/breakpoints.ts'
import type { HeldTrap, Release } from '../trap/operations.ts'
import { Problem } from './problems.ts'

export class BreakpointControl {
  /** The trap that waits for a person. */
  held: HeldTrap | null = null
  /** The next trap will be held. */
  breaking = false
  readonly #changed: () => void
  readonly #specs = new Map<number, BreakpointSpec>()
  #next = 1
  #thread: TrapThread | undefined

  /** @param changed called when a trap is held or goes on */
  constructor(changed: () => void) {
    this.#changed = changed
  }

  /** A machine starts. */
  follow(thread: TrapThread | undefined): void {
    this.#thread = thread
    thread?.on('held', held => {
      this.held = held
      this.breaking = false
      const { breakpoint } = held.hit
      if (this.#specs.get(breakpoint)?.once) this.#specs.delete(breakpoint)
      this.#changed()
    })
    thread?.on('released', () => {
      this.held = null
      this.#changed()
    })
    this.#setAll()
  }

  /** The machine is connected. @param again to new code, which knows of no breakpoints */
  connected(again: boolean): void {
    this.held = null
    this.breaking = false
    if (again) this.#setAll()
  }

  /** The machine has ended. */
  ended(): void {
    this.#thread = undefined
    this.held = null
    this.breaking = false
  }

  async list(): Promise<Breakpoint[]> {
    const live = (await this.#thread?.call('breakpoints').catch(() => [])) ?? []
    const byId = new Map(live.map(b => [b.id, b]))
    return [...this.#specs].map(([id, spec]) => byId.get(id) ?? { ...spec, id, matches: 0 })
  }

  async add(spec: BreakpointSpec): Promise<Breakpoint> {
    const id = this.#next++
    const added = await this.#thread?.call('addBreakpoint', spec, id)
    this.#specs.set(id, spec)
    return added ?? { ...spec, id, matches: 0 }
  }

  async remove(id: number): Promise<void> {
    if (!this.#specs.delete(id)) throw new Problem(404, `no breakpoint ${id}`)
    await this.#thread?.call('removeBreakpoint', id).catch(ignoreAbsent)
  }

  async enable(id: number, enabled: boolean): Promise<void> {
    const spec = this.#specs.get(id)
    if (spec === undefined) throw new Problem(404, `no breakpoint ${id}`)
    this.#specs.set(id, { ...spec, enabled })
    await this.#thread?.call('enableBreakpoint', id, enabled).catch(ignoreAbsent)
  }

  async breakNext(on: boolean): Promise<void> {
    if (this.#thread === undefined) throw new Problem(409, 'there is no machine')
    await this.#thread.call('breakNext', on)
    this.breaking = on && this.held === null
    this.#changed()
  }

  async release(how: Release): Promise<void> {
    if (this.#thread === undefined || this.held === null) throw new Problem(409, 'no trap is held')
    await this.#thread.call('release', how)
  }

  #setAll(): void {
    for (const [id, spec] of this.#specs) void this.#thread?.call('addBreakpoint', spec, id).catch(() => {})
  }
}

/** The trap thread may have removed it, or ended, meanwhile. */
function ignoreAbsent(error: unknown): void {
  if (!(error instanceof OperationError)) throw error
}
