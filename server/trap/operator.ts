// SPDX-License-Identifier: Apache-2.0
import type { IsolationOracle } from '../oracle/isolationOracle.ts'
import type { PageOwners, PowerRequests } from '../policy/inspect.ts'
import { OperationError } from '../policy/operationError.ts'
import type { Policy } from '../policy/policy.ts'
import { OK } from '../policy/result.ts'
import { POWER_STATES, type PowerState } from '../smmu/hardware.ts'
import type { CountersWriter } from '../trace/counters.ts'
import { request } from '../trace/records.ts'
import type { RingWriter } from '../trace/ring.ts'
import type { Inspector } from './inspect.ts'
import type { Operations, OwnershipRange, RegisterValue } from './operations.ts'
import { atMost } from './ownershipRanges.ts'
import type { Thread } from './thread.ts'

/** Bytes of guest memory that one operation reads. */
const MAX_MEMORY = 1 << 20

/** Operations for people on the machine. What touches the hardware or the hypervisor is a `request` on the trace. */
export class Operator
  implements Pick<Operations, 'registers' | 'memory' | 'ownership' | 'donate' | 'reclaim' | 'power' | 'powerState'>
{
  readonly #pages: PageOwners | undefined
  readonly #power: PowerRequests | undefined
  readonly #inspector: Inspector
  readonly #ring: RingWriter
  readonly #counters: CountersWriter
  readonly #oracle: Pick<IsolationOracle, 'moving' | 'moved'> | undefined

  /** @param oracle hears what becomes of donations and reclaims */
  constructor(
    policy: Policy,
    inspector: Inspector,
    { ring, counters }: Pick<Thread, 'ring' | 'counters'>,
    oracle?: Pick<IsolationOracle, 'moving' | 'moved'>,
  ) {
    this.#oracle = oracle
    this.#pages = policy.inspect?.pages
    this.#power = policy.inspect?.power
    this.#inspector = inspector
    this.#ring = ring
    this.#counters = counters
  }

  /** Whose the pages are is not the policy's to say: it follows a hypervisor at EL2. */
  get followed(): boolean {
    return this.#pages?.followed === true
  }

  registers(smmu: number, view: 'host' | 'hardware', offsets: readonly number[]): RegisterValue[] {
    const start = this.#ring.now()
    const read = (offset: number) =>
      view === 'host' ? this.#inspector.host(smmu, offset) : this.#inspector.hardware(smmu, offset)
    const values = offsets.map(read)
    this.#ring.request(request.other, 0, start, this.#ring.now() - start, 0, 0, 0, 0)
    return values
  }

  memory(address: number, length: number): Uint8Array {
    if (!(length > 0 && length <= MAX_MEMORY))
      throw new OperationError('invalid', `length ${length}: 1 to ${MAX_MEMORY}`)
    const bytes = this.#inspector.memory(address, length)
    if (bytes === undefined) {
      throw new OperationError('invalid', `0x${address.toString(16)}, ${length} bytes: not all of it is RAM`)
    }
    return bytes
  }

  get #owners(): PageOwners {
    if (this.#pages === undefined) throw new OperationError('state', 'this policy keeps no page ownership')
    return this.#pages
  }

  ownership(from: number, to: number, limit: number): OwnershipRange[] {
    return atMost(this.#owners.ranges(from, to), from, to, limit)
  }

  donate(base: number, size: number, vm: number): number {
    return this.#move('donate', base, size, vm)
  }

  reclaim(base: number, size: number, vm: number): number {
    return this.#move('reclaim', base, size, vm)
  }

  get #switches(): PowerRequests {
    if (this.#power === undefined)
      throw new OperationError('state', 'its SMMUs are not to be switched off: see --power')
    return this.#power
  }

  power(smmu: number, state: PowerState): number {
    const switches = this.#switches
    const start = this.#ring.now()
    const before = switches.powerState(smmu)
    const result = switches.power(smmu, state)
    this.#counters.power(before, state, result === OK)
    const index = POWER_STATES.indexOf(state)
    this.#ring.request(request.power, result >>> 0, start, this.#ring.now() - start, smmu, index, 0, 0)
    return result
  }

  powerState(smmu: number): PowerState | null {
    return this.#switches.powerState(smmu)
  }

  #move(what: 'donate' | 'reclaim', base: number, size: number, vm: number): number {
    const owners = this.#owners
    if (owners[what] === undefined) throw new OperationError('state', 'under this policy pages never change hands')
    const start = this.#ring.now()
    this.#oracle?.moving(what, base, size, vm)
    const result = owners[what](base, size, vm)
    this.#oracle?.moved(what, base, size, vm, result === OK)
    this.#ring.request(request[what], result >>> 0, start, this.#ring.now() - start, base, size, vm, 0)
    return result
  }
}
