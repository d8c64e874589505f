// SPDX-License-Identifier: Apache-2.0
import type { FaultStatus } from '../faults/injector.ts'
import type { FaultRule } from '../faults/rule.ts'
import type { HostStage2Registers } from '../machine/ports.ts'
import type { NamedDevice } from '../machine/streams.ts'
import { OperationError } from '../policy/operationError.ts'
import type { PowerState } from '../smmu/hardware.ts'
import { request } from '../trace/records.ts'
import type { FunctionTable } from '../trace/symbols.ts'
import type { Breakpoint, BreakpointSpec } from './breakpoints.ts'
import type { Connection } from './connection.ts'
import type { El2Report } from './el2Oracle.ts'
import type { Sections } from './messages.ts'
import type { HeldTrap, Operations, OwnershipRange, RegisterValue, Release } from './operations.ts'
import type { Operator } from './operator.ts'
import type { OracleReport } from './oracleReport.ts'
import type { Thread } from './thread.ts'

/** The object that answers the control thread. */
export class ThreadOperations implements Operations {
  readonly #thread: Thread
  readonly #present: () => Connection | undefined

  /** @param present the machine that is connected */
  constructor(thread: Thread, present: () => Connection | undefined) {
    this.#thread = thread
    this.#present = present
  }

  sections(): Sections {
    return (this.#present() ?? this.#thread).sections()
  }

  nameDevices(devices: readonly NamedDevice[]): void {
    this.#connection.nameDevices(devices)
  }

  checkpoint(): Uint8Array {
    return this.#connection.path.checkpoints.current()
  }

  breakpoints(): Breakpoint[] {
    return this.#thread.breakpoints.list()
  }

  addBreakpoint(spec: BreakpointSpec, id?: number): Breakpoint {
    this.#askAgain()
    try {
      return this.#thread.breakpoints.add(spec, id)
    } catch (error) {
      throw new OperationError('state', (error as Error).message)
    }
  }

  removeBreakpoint(id: number): void {
    if (!this.#thread.breakpoints.remove(id)) throw new OperationError('absent', `no breakpoint ${id}`)
  }

  enableBreakpoint(id: number, enabled: boolean): void {
    this.#askAgain()
    if (!this.#thread.breakpoints.enable(id, enabled)) throw new OperationError('absent', `no breakpoint ${id}`)
  }

  breakNext(on: boolean): void {
    this.#askAgain()
    this.#thread.breakpoints.step(on)
  }

  held(): HeldTrap | null {
    return this.#present()?.path.holding.held ?? null
  }

  release(how: Release): void {
    const connection = this.#present()
    if (connection === undefined) throw new OperationError('state', 'no trap is held')
    connection.path.holding.release(how)
  }

  debug(): void {
    this.#thread.debugged = true
    this.#present()?.path.holding.park()
  }

  kernel(table: FunctionTable): void {
    this.#thread.kernel.table = table
  }

  registers(smmu: number, view: 'host' | 'hardware', offsets: readonly number[]): RegisterValue[] {
    return this.#operator.registers(smmu, view, offsets)
  }

  memory(address: number, length: number): Uint8Array {
    return this.#operator.memory(address, length)
  }

  ownership(from: number, to: number, limit: number): OwnershipRange[] {
    return this.#operator.ownership(from, to, limit)
  }

  hostStage2(): HostStage2Registers | null {
    return this.#connection.oracles.el2?.registers ?? null
  }

  el2(): El2Report | null {
    return this.#connection.oracles.el2Report() ?? null
  }

  oracle(): OracleReport | null {
    const { oracles } = this.#connection
    oracles.whole(true)
    return oracles.report() ?? null
  }

  donate(base: number, size: number, vm: number): number {
    this.#expectOwn('donate')
    return this.#operator.donate(base, size, vm)
  }

  reclaim(base: number, size: number, vm: number): number {
    this.#expectOwn('reclaim')
    return this.#operator.reclaim(base, size, vm)
  }

  power(smmu: number, state: PowerState): number {
    return this.#operator.power(smmu, state)
  }

  powerState(smmu: number): PowerState | null {
    return this.#operator.powerState(smmu)
  }

  /** @throws OperationError when the policy follows another owner of the pages */
  #expectOwn(what: 'donate' | 'reclaim'): void {
    if (!this.#connection.operator.followed) return
    throw new OperationError('state', `EL2 owns the pages and alone gives and takes them: nothing to ${what} by hand`)
  }

  armFaults(rules: readonly FaultRule[], seed: number): void {
    this.#askAgain()
    this.#request(() => this.#thread.injector.arm({ rules, seed }), request.faultsArmed, rules.length)
  }

  disarmFaults(): void {
    this.#request(() => this.#thread.injector.disarm(), request.faultsArmed)
  }

  faults(): FaultStatus {
    return this.#thread.injector.status()
  }

  openFaults(names: readonly string[], time?: number): void {
    const { injector } = this.#thread
    this.#request(() => injector.open(names, time), request.faultsOpened, ...injector.bitsOf(names), time)
  }

  fireFault(name: string): void {
    this.#request(() => this.#thread.injector.fire(name))
  }

  get #connection(): Connection {
    const connection = this.#present()
    if (connection === undefined) throw new OperationError('state', 'no machine is connected')
    return connection
  }

  get #operator(): Operator {
    return this.#connection.operator
  }

  /** What is about to be armed is to see the next access. */
  #askAgain(): void {
    this.#request(() => this.#present()?.askAgain())
  }

  /**
   * What is done for it is no part of the next trap: unless it closed that itself, it is a request on the trace.
   * @param what that replay has to know of, always on the trace
   */
  #request(work: () => void, what: number = request.other, v0 = 0, v1 = 0, v2 = 0): void {
    const { ring } = this.#thread
    const start = ring.now()
    const { position } = ring
    try {
      work()
    } finally {
      if ((ring.position !== position || what !== request.other) && !ring.closed) {
        ring.request(what, 0, start, ring.now() - start, v0, v1, v2, 0)
      }
    }
  }
}
