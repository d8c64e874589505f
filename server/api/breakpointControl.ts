// SPDX-License-Identifier: Apache-2.0
/** Breakpoints, and the trap that is held. Breakpoints outlive machines: one that is set before a start is in force from the first trap. */
import type { TrapThread } from '../control/trapThread.ts'
import { OperationError } from '../policy/operationError.ts'
import { type FunctionTable, Symbols } from '../trace/symbols.ts'
import type { Breakpoint, BreakpointSpec } from '../trap/breakpoints.ts'
import type { HeldTrap, Release } from '../trap/operations.ts'
import { Problem } from './problem.ts'

export class BreakpointControl {
  /** The trap that is held; null: none. */
  held: HeldTrap | null = null
  /** Hold the next trap. */
  breaking = false
  readonly #changed: () => void
  readonly #functions: () => Promise<FunctionTable | undefined>
  readonly #specs = new Map<number, BreakpointSpec>()
  #next = 1
  #thread: TrapThread | undefined

  /**
   * @param changed called when a trap is held or released
   * @param functions of the kernel that runs; undefined: not known what kernel it is
   */
  constructor(changed: () => void, functions: () => Promise<FunctionTable | undefined>) {
    this.#changed = changed
    this.#functions = functions
  }

  /** Called when a machine starts. */
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

  /** Called when QEMU has connected. @param again the trap thread's code was replaced: it has no breakpoints yet */
  connected(again: boolean): void {
    this.held = null
    this.breaking = false
    if (again) this.#setAll()
  }

  /** Called when the machine has ended. */
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
    if (spec.match.on === 'function' && this.#thread !== undefined)
      await this.#tellFunctions(this.#thread, spec.match.name)
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
    const thread = this.#thread
    if (thread === undefined) return
    for (const [id, spec] of this.#specs) void thread.call('addBreakpoint', spec, id).catch(() => {})
    // A kernel without symbols has no functions to stop in, and the others are there all the same.
    if ([...this.#specs.values()].some(({ match }) => match.on === 'function'))
      void this.#tellFunctions(thread).catch(() => {})
  }

  /**
   * The trap thread needs to know where functions are.
   * @param name one that there has to be
   * @throws Problem when the kernel's functions are not known, or that is none
   */
  async #tellFunctions(thread: TrapThread, name?: string): Promise<void> {
    const table = await this.#functions().catch((error: Error) => {
      throw new Problem(409, `no functions: ${error.message}`)
    })
    if (table === undefined) throw new Problem(409, 'it is not known what kernel runs, nor where its functions are')
    if (name !== undefined && new Symbols(table).named(name).length === 0) {
      throw new Problem(422, `no function ${name} in the kernel`)
    }
    await thread.call('kernel', table)
  }
}

/** The trap thread may have removed the breakpoint, or ended, in the meantime. */
function ignoreAbsent(error: unknown): void {
  if (!(error instanceof OperationError)) throw error
}
