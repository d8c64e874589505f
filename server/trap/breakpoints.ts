// SPDX-License-Identifier: Apache-2.0
/**
 * Breakpoints of the trap thread. With none set, a trap costs one look at `armed`; all work is behind it.
 *
 * A hit is found *before* the policy decides a trap (accesses, what makes them, and the commands that a CMDQ_PROD write
 * announces), or *after* it (values that were read, hyp warnings, events), in both cases before QEMU gets its reply.
 */
import type { Trap } from '../policy/policy.ts'
import type { HypWarning } from '../policy/warnings.ts'
import { addressOf, getField } from '../smmu/bits.ts'
import { commandBytes, namesStream } from '../smmu/commandFields.ts'
import { CMDQ_0_OP, CMDQ_ENT_WORDS, commandPage } from '../smmu/commands.ts'
import { decodeEvent } from '../smmu/events.ts'
import { ARM_SMMU_CMDQ_PROD } from '../smmu/registers.ts'

/** What a breakpoint waits for; numbers as the hardware has them. */
export type BreakpointMatch =
  | {
      readonly on: 'register'
      /** Offset in the frame; absent: any. */
      readonly offset?: number
      readonly access: 'read' | 'write' | 'any'
      /** Only when `value & mask` equals `want & mask`; halves, unsigned. */
      readonly mask?: readonly [lo: number, hi: number]
      readonly want?: readonly [lo: number, hi: number]
    }
  /** Absent: any command. */
  | { readonly on: 'command'; readonly opcode?: number }
  /** A command that names the StreamID, or an event of it. */
  | { readonly on: 'stream'; readonly sid: number }
  /** A command or an event whose input address lies in the range, bytes. */
  | { readonly on: 'address'; readonly base: number; readonly size: number }
  /** Code of a hyp warning; absent: any unexpected one. */
  | { readonly on: 'warning'; readonly warning?: string }
  /** Id of an event record; absent: any. */
  | { readonly on: 'event'; readonly event?: number }
  /** A trap that a kernel function makes, or one that it calls; no trap before it is known where the kernel is. */
  | { readonly on: 'function'; readonly name: string }

export interface Breakpoint {
  readonly id: number
  readonly match: BreakpointMatch
  /** Absent: any SMMU. */
  readonly smmu?: number
  /** The first so many matches are passed over. */
  readonly skip: number
  /** Removed by its first hit. */
  readonly once: boolean
  enabled: boolean
  /** Matches so far. */
  matches: number
}

export type BreakpointSpec = Omit<Breakpoint, 'id' | 'matches'>

/** Id in a hit that no breakpoint caused: `step`, or a stop that was asked for. */
export const STEP = 0

/** Why a trap is held. */
export interface Hit {
  /** Of the breakpoint, or STEP. */
  readonly breakpoint: number
  readonly phase: 'before' | 'after'
  /** The four words of the command that matched, else absent. */
  readonly command?: readonly number[]
  /** Code of the hyp warning, or id of the event, that matched. */
  readonly warning?: string
  readonly event?: number
  /** The event came between two traps: this is the first trap after it. */
  readonly late?: boolean
}

/** Most breakpoints at a time. */
export const MAX_BREAKPOINTS = 64

/** Whether the trap's PC, or what is on the stack of its vCPU, is in the kernel function. */
export type MadeWithin = (name: string, trap: Readonly<Trap>) => boolean

/** Copies the commands that a write of CMDQ_PROD announces into an array of its own; undefined: there are none. */
export type CommandsAhead = (trap: Readonly<Trap>) => Uint32Array | undefined

export class Breakpoints {
  /** Something is set: traps have to be looked at. */
  armed = false
  #commands: CommandsAhead = () => undefined
  #within: MadeWithin = () => false
  readonly #list = new Map<number, Breakpoint>()
  #nextId = 1
  #step = false
  /** A hit found while the policy decided, or between traps. */
  #pending: Hit | undefined
  #registers = false
  #functions = false
  #aboutCommands = false
  #aboutReports = false

  /** @throws RangeError when there are too many. */
  add(spec: BreakpointSpec, id = this.#nextId): Breakpoint {
    if (this.#list.size >= MAX_BREAKPOINTS) throw new RangeError(`there are ${MAX_BREAKPOINTS} breakpoints already`)
    const breakpoint = { ...spec, id, matches: 0 }
    this.#nextId = Math.max(this.#nextId, id + 1)
    this.#list.set(breakpoint.id, breakpoint)
    this.#arm()
    return breakpoint
  }

  /** @returns false when there is none of that id. */
  remove(id: number): boolean {
    const found = this.#list.delete(id)
    this.#arm()
    return found
  }

  enable(id: number, enabled: boolean): boolean {
    const breakpoint = this.#list.get(id)
    if (breakpoint === undefined) return false
    breakpoint.enabled = enabled
    this.#arm()
    return true
  }

  list(): Breakpoint[] {
    return [...this.#list.values()]
  }

  /** Stop at the next trap, whatever it is. */
  step(on: boolean): void {
    this.#step = on
    this.#arm()
  }

  /** Goes on with what another thread had, matches so far included. */
  adopt(breakpoints: readonly Breakpoint[]): void {
    for (const breakpoint of breakpoints) {
      this.#list.set(breakpoint.id, { ...breakpoint })
      this.#nextId = Math.max(this.#nextId, breakpoint.id + 1)
    }
    this.#arm()
  }

  /** A machine is there. */
  connect(commands: CommandsAhead, within: MadeWithin): void {
    this.#commands = commands
    this.#within = within
  }

  /** It is gone: what was found in it does not count for the next. */
  disconnect(): void {
    this.#commands = () => undefined
    this.#within = () => false
    this.#pending = undefined
    this.step(false)
  }

  /** Before the policy decides. */
  before(trap: Readonly<Trap>): Hit | undefined {
    const late = this.#take()
    if (late !== undefined) return { ...late, phase: 'before', late: true }
    if (this.#step) {
      this.step(false)
      return { breakpoint: STEP, phase: 'before' }
    }
    if (this.#registers) {
      for (const breakpoint of this.#list.values()) {
        const { match } = breakpoint
        if (match.on !== 'register' || match.access === 'read' || !trap.write) continue
        if (this.#accessMatches(breakpoint, trap) && this.#counts(breakpoint)) {
          return { breakpoint: breakpoint.id, phase: 'before' }
        }
      }
    }
    if (this.#functions) {
      for (const breakpoint of this.#list.values()) {
        const { match } = breakpoint
        if (match.on !== 'function' || !concerns(breakpoint, trap.smmu) || !this.#within(match.name, trap)) continue
        if (this.#counts(breakpoint)) return { breakpoint: breakpoint.id, phase: 'before' }
      }
    }
    if (this.#aboutCommands && trap.write && trap.offset === ARM_SMMU_CMDQ_PROD) return this.#ahead(trap)
    return undefined
  }

  /** After the policy has decided, before the reply. */
  after(trap: Readonly<Trap>): Hit | undefined {
    const found = this.#take()
    if (found !== undefined) return found
    if (!this.#registers || trap.write) return undefined
    for (const breakpoint of this.#list.values()) {
      const { match } = breakpoint
      if (match.on !== 'register' || match.access === 'write') continue
      if (this.#accessMatches(breakpoint, trap) && this.#counts(breakpoint)) {
        return { breakpoint: breakpoint.id, phase: 'after' }
      }
    }
    return undefined
  }

  /** A hyp warning while a trap is decided. */
  warning({ code, expected }: HypWarning, smmu: number): void {
    if (!this.#aboutReports || this.#pending !== undefined) return
    for (const breakpoint of this.#list.values()) {
      const { match } = breakpoint
      if (match.on !== 'warning' || !concerns(breakpoint, smmu)) continue
      if (match.warning === undefined ? expected : match.warning !== code) continue
      if (this.#counts(breakpoint)) {
        return this.#found({ breakpoint: breakpoint.id, phase: 'after', warning: code })
      }
    }
  }

  /** The hardware recorded an event: 32 bytes. */
  event(smmu: number, record: Buffer): void {
    if (!this.#aboutReports || this.#pending !== undefined) return
    const words = new Uint32Array(8)
    for (let i = 0; i < 8; i++) words[i] = record.readUInt32LE(4 * i)
    const event = decodeEvent(words)
    for (const breakpoint of this.#list.values()) {
      if (!concerns(breakpoint, smmu)) continue
      const { match } = breakpoint
      let matches = false
      if (match.on === 'event') matches = match.event === undefined || match.event === event.id
      else if (match.on === 'stream') matches = match.sid === event.streamId
      else if (match.on === 'address') {
        matches = overlaps(match, addressOf(event.inputLo, event.inputHi), 1)
      }
      if (matches && this.#counts(breakpoint)) {
        return this.#found({ breakpoint: breakpoint.id, phase: 'after', event: event.id })
      }
    }
  }

  #ahead(trap: Readonly<Trap>): Hit | undefined {
    const words = this.#commands(trap)
    if (words === undefined) return undefined
    for (let at = 0; at < words.length; at += CMDQ_ENT_WORDS) {
      for (const breakpoint of this.#list.values()) {
        if (!concerns(breakpoint, trap.smmu) || !commandMatches(breakpoint.match, words, at)) continue
        if (this.#counts(breakpoint)) {
          return { breakpoint: breakpoint.id, phase: 'before', command: [...words.subarray(at, at + CMDQ_ENT_WORDS)] }
        }
      }
    }
    return undefined
  }

  #accessMatches(breakpoint: Breakpoint, trap: Readonly<Trap>): boolean {
    const { match } = breakpoint
    if (match.on !== 'register' || !concerns(breakpoint, trap.smmu)) return false
    if (match.offset !== undefined && (match.offset < trap.offset || match.offset >= trap.offset + trap.size)) {
      return false
    }
    const { want } = match
    if (want === undefined) return true
    const mask = match.mask ?? [0xffff_ffff, 0xffff_ffff]
    return ((trap.lo ^ want[0]) & mask[0]) === 0 && ((trap.hi ^ want[1]) & mask[1]) === 0
  }

  /** Counts a match; true when it is a hit. */
  #counts(breakpoint: Breakpoint): boolean {
    if (!breakpoint.enabled || ++breakpoint.matches <= breakpoint.skip) return false
    if (breakpoint.once) this.remove(breakpoint.id)
    return true
  }

  #found(hit: Hit): void {
    this.#pending = hit
    this.armed = true
  }

  #take(): Hit | undefined {
    const hit = this.#pending
    if (hit === undefined) return undefined
    this.#pending = undefined
    this.#arm()
    return hit
  }

  #arm(): void {
    const kinds = new Set([...this.#list.values()].filter(b => b.enabled).map(b => b.match.on))
    const both = kinds.has('stream') || kinds.has('address')
    this.#registers = kinds.has('register')
    this.#functions = kinds.has('function')
    this.#aboutCommands = both || kinds.has('command')
    this.#aboutReports = both || kinds.has('warning') || kinds.has('event')
    this.armed = this.#step || kinds.size > 0 || this.#pending !== undefined
  }
}

function concerns(breakpoint: Breakpoint, smmu: number): boolean {
  return breakpoint.enabled && (breakpoint.smmu === undefined || breakpoint.smmu === smmu)
}

function overlaps(range: { readonly base: number; readonly size: number }, base: number, size: number): boolean {
  return base < range.base + range.size && range.base < base + size
}

function commandMatches(match: BreakpointMatch, words: Uint32Array, at: number): boolean {
  const opcode = getField(words, CMDQ_0_OP, at)
  switch (match.on) {
    case 'command':
      return match.opcode === undefined || match.opcode === opcode
    case 'stream':
      return namesStream(words, at, match.sid)
    case 'address': {
      const size = commandBytes(opcode, words, at)
      return size > 0 && overlaps(match, commandPage(words, at) * 4096, size)
    }
    default:
      return false
  }
}
