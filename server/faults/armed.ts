// SPDX-License-Identifier: Apache-2.0
/** A rule with its names as numbers, ready to be compared with what takes place. */
import { NO_STREAM } from '../../protocol/messages.ts'
import { comingNames } from '../machine/comingDevices.ts'
import type { Halves } from '../smmu/bits.ts'
import { commandNumber, eventNumber } from '../smmu/names.ts'
import { halvesOf, rangeOf, register } from './names.ts'
import { ACTIONS, type FaultRule, type Point, type Value, type WhereOf } from './rule.ts'
import { Trigger } from './trigger.ts'

/** A device of the machine, as rules may name it. */
export interface Device {
  readonly sid: number
  readonly name: string
  readonly model: string
}

/**
 * The StreamID of a number, or of a device by its id or model; NO_STREAM, which no access has: the guest has not numbered its bus
 * yet, it is a virtual function that is not switched on, or nobody has plugged it in.
 * @throws Error when the machine has no such device, and cannot come to have it
 */
export function resolveSid(sid: number | string, devices: readonly Device[]): number {
  if (typeof sid === 'number') return sid
  // JSON has no other way to write it.
  if (/^0x[0-9a-f]{1,8}$/i.test(sid)) return Number(sid)
  const found = devices.find(({ name, model }) => name === sid || model === sid)
  if (found !== undefined) return found.sid
  const later = devices.flatMap(comingNames)
  if (!later.includes(sid)) {
    const known = devices
      .map(({ model, sid: id }) => `${model} (${id === NO_STREAM ? 'not numbered yet' : `0x${id.toString(16)}`})`)
      .join(', ')
    const coming = later.length === 0 ? '' : `, and later maybe ${later.join(', ')}`
    throw new Error(`no device ${sid} behind an SMMU; there are ${known || 'none'}${coming}`)
  }
  return NO_STREAM
}

/** The same while the machine runs: NO_STREAM as well for a device that is gone. */
export function sidNow(sid: number | string, devices: readonly Device[]): number {
  try {
    return resolveSid(sid, devices)
  } catch {
    return NO_STREAM
  }
}

/** @typeParam P the point that it acts on */
export class ArmedRule<P extends Point = Point> {
  readonly rule: FaultRule & { readonly where: WhereOf[P] }
  /** From 1: on the trace. */
  readonly number: number
  readonly action: number
  readonly trigger: Trigger
  readonly smmu: number | undefined
  /** Follows the device that the rule names. */
  sid: number | undefined
  readonly offset: number | undefined
  readonly opcode: number | undefined
  readonly event: number | undefined
  readonly range: { readonly from: number; readonly end: number } | undefined
  readonly #mask: Halves
  readonly #want: Halves | undefined
  /** What `freeze` answers, once it is known. */
  frozen: Halves | undefined
  /** What was answered last. */
  last: Halves | undefined

  /** @throws Error when the machine has no device of that name */
  constructor(
    rule: FaultRule & { readonly where: WhereOf[P] },
    number: number,
    seed: number,
    devices: readonly Device[],
    fired: (name: string) => boolean,
  ) {
    const { where } = rule
    this.rule = rule
    this.number = number
    this.action = ACTIONS.indexOf(rule.what.do)
    this.trigger = new Trigger(rule, seed, fired)
    this.smmu = 'smmu' in where ? where.smmu : undefined
    this.sid = 'sid' in where && where.sid !== undefined ? resolveSid(where.sid, devices) : undefined
    this.offset = 'register' in where && where.register !== undefined ? register(where.register) : undefined
    this.opcode = 'command' in where && where.command !== undefined ? commandNumber(where.command) : undefined
    this.event = 'event' in where && where.event !== undefined ? eventNumber(where.event) : undefined
    this.range = 'address' in where && where.address !== undefined ? rangeOf(where.address) : undefined
    const { mask, value } = where as { mask?: Value; value?: Value }
    this.#mask = mask === undefined ? { lo: 0xffff_ffff, hi: 0xffff_ffff } : halvesOf(mask)
    this.#want = value === undefined ? undefined : halvesOf(value)
  }

  /** Looks up the StreamID of the device that it names, and waits for one that is gone. */
  locate(devices: readonly Device[]): void {
    const { where } = this.rule
    if ('sid' in where && where.sid !== undefined) this.sid = sidNow(where.sid, devices)
  }

  concerns(smmu: number): boolean {
    return this.smmu === undefined || this.smmu === smmu
  }

  covers(offset: number, size: number): boolean {
    return this.offset === undefined || (this.offset >= offset && this.offset < offset + size)
  }

  wants({ lo, hi }: Halves): boolean {
    const want = this.#want
    if (want === undefined) return true
    const mask = this.#mask
    return ((lo ^ want.lo) & mask.lo) === 0 && ((hi ^ want.hi) & mask.hi) === 0
  }

  /** Whether an address, or any of a range, is meant. */
  touches(from: number, size = 1): boolean {
    return this.range === undefined || (from < this.range.end && this.range.from < from + size)
  }
}

/** Those of some rules that act on a point. */
export function rulesAt<P extends Point>(rules: readonly ArmedRule[], point: P): readonly ArmedRule<P>[] {
  return rules.filter((armed): armed is ArmedRule<P> => armed.rule.where.at === point)
}
